using System.Globalization;
using System.Text.Json;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>
/// A real Mooncake Transfer Engine: <c>bin/mooncake-peer</c> and <c>lib/libtransfer_engine.so</c> in a folder of its own below the one that
/// <c>CHECKPOINT_ENGINE_MOONCAKE_PEERS</c> names. docs/interop.md tells what the program has to do.
/// </summary>
internal sealed class MooncakeRelease
{
    public const string Variable = "CHECKPOINT_ENGINE_MOONCAKE_PEERS";

    /// <summary>Between processes of one host; devices have tests of their own.</summary>
    public static readonly Dictionary<string, string> Tcp = new() { ["MC_FORCE_TCP"] = "1", ["GLOG_minloglevel"] = "2" };

    private MooncakeRelease(string folder)
    {
        Name = Path.GetFileName(folder);
        Peer = Path.Combine(folder, "bin", "mooncake-peer");
        Library = Path.Combine(folder, "lib", "libtransfer_engine.so");
    }

    public string Name { get; }

    public string Peer { get; }

    public string Library { get; }

    /// <summary>The names of those that are there; one that says that there are none, so that a test shows up as skipped.</summary>
    public static string[] Names
    {
        get
        {
            string[] found = Environment.GetEnvironmentVariable(Variable) is { Length: > 0 } folder && Directory.Exists(folder)
                ? [.. Directory.GetDirectories(folder).Where(release => File.Exists(Path.Combine(release, "bin", "mooncake-peer"))).Select(release => Path.GetFileName(release)).Order(StringComparer.Ordinal)]
                : [];
            return found.Length != 0 ? found : ["none"];
        }
    }

    /// <summary>The release of that name; skips the test where there are none.</summary>
    public static MooncakeRelease Get(string name, bool withLibrary = false)
    {
        string? folder = Environment.GetEnvironmentVariable(Variable);
        Assert.SkipWhen(string.IsNullOrEmpty(folder), $"{Variable} names no folder with releases of Mooncake (docs/interop.md)");
        var release = new MooncakeRelease(Path.Combine(folder!, name));
        Assert.SkipUnless(File.Exists(release.Peer), $"{Variable}: there is no {release.Peer}");
        Assert.SkipWhen(withLibrary && !File.Exists(release.Library), $"there is no {release.Library}");
        return release;
    }

    /// <summary>Holds a file's bytes; where they are.</summary>
    public async Task<(ToolProcess Process, string Segment, ulong Address)> HoldAsync(string file)
    {
        ToolProcess holder = ToolProcess.Start(Tcp, Peer, "hold", "--file", file);
        try
        {
            using JsonDocument held = JsonDocument.Parse(await holder.ReadLineAsync());
            return (holder, held.RootElement.GetProperty("segment").GetString()!, held.RootElement.GetProperty("address").GetUInt64());
        }
        catch
        {
            await holder.DisposeAsync();
            throw;
        }
    }

    /// <summary>Reads a range as an initiator.</summary>
    public async Task<byte[]> ReadAsync(string segment, ulong address, long bytes, string scratch)
    {
        await ToolProcess.RunAsync(Tcp, Peer, "read", "--segment", segment, "--address", Text(address), "--length", Text(bytes), "--out", scratch, "--timeout", "60");
        return await File.ReadAllBytesAsync(scratch);
    }

    private static string Text(IFormattable number) => number.ToString(null, CultureInfo.InvariantCulture);
}
