using System.Globalization;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Tests;

/// <summary>Compares the declarations in Interop/LibIbverbs.*.cs with what C says (ibverbs-layout.c, its output checked in).</summary>
public class LibIbverbsLayoutTests
{
    private const BindingFlags All = BindingFlags.Instance | BindingFlags.Static | BindingFlags.NonPublic | BindingFlags.Public;

    private static readonly string[][] s_lines =
        [.. File.ReadAllLines(Path.Join(AppContext.BaseDirectory, "Interop/ibverbs-layout.txt")).Select(line => line.Split(' '))];

    [Fact]
    public void Structs_AreAsInC()
    {
        string[][] structs = [.. s_lines.Where(words => words[0] != "const")];
        Assert.NotEmpty(structs);
        foreach (string[] words in structs)
        {
            Type type = typeof(LibIbverbs).GetNestedType(words[0], All)!;
            if (words[1] == "-")
            {
                Assert.Equal($"{words[0]} {words[3]}", $"{words[0]} {SizeOf(type)}");
                Assert.False(ContainsReferences(type), words[0]);
                continue;
            }
            int offset = 0;
            Type at = type;
            foreach (string name in words[1].Split('.'))
            {
                offset += (int)Marshal.OffsetOf(at, name);
                at = at.GetField(name, All)!.FieldType;
            }
            Assert.Equal($"{words[0]} {words[1]} {words[2]} {words[3]}", $"{words[0]} {words[1]} {offset} {SizeOf(at)}");
        }
    }

    [Fact]
    public void Fields_AllStandInTheListOfC()
    {
        foreach (Type type in typeof(LibIbverbs).GetNestedTypes(All).Where(type => s_lines.Any(words => words[0] == type.Name)))
        {
            string[] known = [.. s_lines.Where(words => words[0] == type.Name).Select(words => words[1])];
            Assert.All(type.GetFields(BindingFlags.Instance | BindingFlags.NonPublic | BindingFlags.Public), field => Assert.Contains(field.Name, known));
        }
    }

    [Fact]
    public void Constants_AreAsInC()
    {
        string[][] constants = [.. s_lines.Where(words => words[0] == "const")];
        foreach (string[] words in constants)
        {
            object value;
            if (typeof(LibIbverbs).GetField(words[1], All) is { } field)
            {
                value = field.GetRawConstantValue()!;
            }
            else if (RuntimeInformation.ProcessArchitecture == Architecture.X64)
            {
                value = typeof(LibIbverbs).GetProperty(words[1], All)!.GetValue(null)!;
            }
            else
            {
                continue;   // sizes of a lock, which the list has for x86-64
            }
            Assert.Equal($"{words[1]} {words[2]}", $"{words[1]} {Convert.ToString(value, CultureInfo.InvariantCulture)}");
        }
        IEnumerable<string> declared = typeof(LibIbverbs).GetFields(All).Where(field => field.IsLiteral && field.Name.StartsWith("IBV_", StringComparison.Ordinal)).Select(field => field.Name);
        Assert.Empty(declared.Except(constants.Select(words => words[1])));
    }

    [Fact]
    public void TryLoad_SaysWhyNot()
    {
        bool loaded = LibIbverbs.TryLoad(out string? reason);
        Assert.Equal(loaded, reason is null);
        if (!loaded)
        {
            Assert.Contains("rdma-core", reason, StringComparison.Ordinal);
            Assert.Contains("ibverbs-providers", reason, StringComparison.Ordinal);
        }
        Assert.Equal(loaded, LibIbverbs.TryLoad(out _));
    }

    private static int SizeOf(Type type)
        => type.IsPointer || type.IsFunctionPointer ? nint.Size : (int)typeof(Unsafe).GetMethod(nameof(Unsafe.SizeOf))!.MakeGenericMethod(type).Invoke(null, null)!;

    private static bool ContainsReferences(Type type)
        => (bool)typeof(RuntimeHelpers).GetMethod(nameof(RuntimeHelpers.IsReferenceOrContainsReferences))!.MakeGenericMethod(type).Invoke(null, null)!;
}
