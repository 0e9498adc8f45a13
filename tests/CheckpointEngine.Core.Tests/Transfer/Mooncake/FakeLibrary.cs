using System.Diagnostics;
using System.Runtime.InteropServices;

namespace CheckpointEngine.Tests;

/// <summary>
/// The stand-in for Mooncake's library (fake-transfer-engine.c): it shows how the engine calls the C API, and nothing of the real library, which other
/// tests use where there is one.
/// </summary>
internal static unsafe class FakeLibrary
{
    internal enum Counter
    {
        Engines, Batches, Allocated, Freed, Misuses, Registered, Submitted, Polls, DestroyedBusy, Opened,
    }

    internal enum Setting
    {
        FailCreate, FailOpen, FailRegister, FailSubmit, FailStatus, EndAs, FailAfter, NeverEnds, PollsNeeded, BusyFrees, Protocol,
    }

    private static readonly Lazy<(string? Path, string WhyNone)> s_built = new(Build);
    private static long* s_counters;
    private static long* s_settings;

    /// <summary>The library, with nothing counted and nothing to fail; skips the test where there is no C compiler.</summary>
    internal static string Fresh()
    {
        Assert.SkipWhen(s_built.Value.Path is null, s_built.Value.WhyNone);
        foreach (Setting setting in Enum.GetValues<Setting>())
        {
            Set(setting, 0);
        }
        Assert.Equal(0, Count(Counter.Engines));
        Assert.Equal(0, Count(Counter.Registered));
        foreach (Counter counter in Enum.GetValues<Counter>())
        {
            s_counters[(int)counter] = 0;
        }
        return s_built.Value.Path;
    }

    internal static void Set(Setting setting, long value) => Volatile.Write(ref s_settings[(int)setting], value);

    internal static long Count(Counter counter) => Volatile.Read(ref s_counters[(int)counter]);

    /// <summary>Whether every batch was freed, once and by its name, and nothing was named that was gone.</summary>
    internal static void AssertClean()
    {
        Assert.Equal(0, Count(Counter.Misuses));
        Assert.Equal(0, Count(Counter.Batches));
        Assert.Equal(Count(Counter.Allocated), Count(Counter.Freed));
        Assert.Equal(0, Count(Counter.DestroyedBusy));
    }

    private static (string? Path, string WhyNone) Build()
    {
        string library = Path.Combine(Directory.CreateTempSubdirectory("ce-fake-mooncake-").FullName, "libfake_transfer_engine.so");
        try
        {
            using Process compiler = Process.Start(new ProcessStartInfo("cc", ["-std=gnu11", "-Wall", "-Wextra", "-O2", "-shared", "-fPIC", "-pthread", Path.Combine(AppContext.BaseDirectory, "Transfer/Mooncake/fake-transfer-engine.c"), "-o", library]) { RedirectStandardError = true })!;
            string errors = compiler.StandardError.ReadToEnd();
            compiler.WaitForExit();
            Assert.True(compiler.ExitCode == 0, errors);
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return (null, "there is no C compiler (cc), which the stand-in for Mooncake's library is built with");
        }
        nint handle = NativeLibrary.Load(library);
        s_counters = ((delegate* unmanaged<long*>)NativeLibrary.GetExport(handle, "fake_counters"))();
        s_settings = ((delegate* unmanaged<long*>)NativeLibrary.GetExport(handle, "fake_settings"))();
        return (library, "");
    }
}

/// <summary>Tests that share the counters of the stand-in, and so run one by one.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public class UsesFakeLibrary
{
    public const string Name = "stand-in for Mooncake's library";
}
