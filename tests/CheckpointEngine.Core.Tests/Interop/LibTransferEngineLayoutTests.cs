using System.Globalization;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Tests;

/// <summary>Compares the declarations in Interop/LibTransferEngine.cs with what C says (transfer-engine-layout.c, its output checked in; the same for v0.3.6 to v0.3.13).</summary>
public class LibTransferEngineLayoutTests
{
    private const BindingFlags All = BindingFlags.Instance | BindingFlags.Static | BindingFlags.NonPublic | BindingFlags.Public;

    [Fact]
    public void StructsAndConstants_AreAsInC()
    {
        string[] lines = File.ReadAllLines(Path.Join(AppContext.BaseDirectory, "Interop/transfer-engine-layout.txt"));
        Assert.NotEmpty(lines);
        var listed = new HashSet<string>();
        foreach (string[] words in lines.Select(line => line.Split(' ')))
        {
            listed.Add(words[1]);
            if (words[0] == "const")
            {
                Assert.Equal(words[2], Convert.ToString(typeof(LibTransferEngine).GetField(words[1], All)!.GetRawConstantValue(), CultureInfo.InvariantCulture));
                continue;
            }
            Type type = typeof(LibTransferEngine).GetNestedType(words[0], All)!;
            FieldInfo? field = words[1] == "-" ? null : type.GetField(words[1], All)!;
            Assert.Equal($"{words[0]} {words[1]} {words[2]} {words[3]}",
                $"{words[0]} {words[1]} {(field is null ? 0 : (int)Marshal.OffsetOf(type, words[1]))} {SizeOf(field?.FieldType ?? type)}");
        }
        IEnumerable<string> declared = typeof(LibTransferEngine).GetFields(All).Where(field => field.IsLiteral).Select(field => field.Name)
            .Concat(typeof(LibTransferEngine).GetNestedTypes(All).Where(type => lines.Any(line => line.StartsWith(type.Name + ' ', StringComparison.Ordinal))).SelectMany(type => type.GetFields(All)).Select(field => field.Name));
        Assert.Empty(declared.Except(listed));
    }

    private static int SizeOf(Type type) => type.IsPointer ? nint.Size : (int)typeof(Unsafe).GetMethod(nameof(Unsafe.SizeOf))!.MakeGenericMethod(type).Invoke(null, null)!;
}
