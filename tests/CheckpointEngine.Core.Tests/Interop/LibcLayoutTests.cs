using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Tests;

/// <summary>Compares the declarations in Interop/Libc.cs with what C says (libc-layout.c, its output checked in).</summary>
public class LibcLayoutTests
{
    private const BindingFlags All = BindingFlags.Instance | BindingFlags.Static | BindingFlags.NonPublic | BindingFlags.Public;

    [Fact]
    public void StructsAndConstants_AreAsInC()
    {
        string[] lines = File.ReadAllLines(Path.Join(AppContext.BaseDirectory, "Interop/libc-layout.txt"));
        Assert.NotEmpty(lines);
        foreach (string[] words in lines.Select(line => line.Split(' ')))
        {
            if (words[0] == "const")
            {
                object value = typeof(Libc).GetField(words[1], All)!.GetRawConstantValue()!;
                Assert.Equal(words[2], Convert.ToString(value, System.Globalization.CultureInfo.InvariantCulture));
                continue;
            }
            Type type = typeof(Libc).GetNestedType(words[0], All)!;
            if (words[1] == "-")
            {
                Assert.Equal(words[3], $"{SizeOf(type)}");
                continue;
            }
            FieldInfo field = type.GetField(words[1], All)!;
            Assert.Equal(words[2], $"{Marshal.OffsetOf(type, words[1])}");
            Assert.Equal(words[3], $"{SizeOf(field.FieldType)}");
        }
        Assert.False(RuntimeHelpers.IsReferenceOrContainsReferences<Libc.Statx>());
        Assert.False(RuntimeHelpers.IsReferenceOrContainsReferences<Libc.RLimit>());
    }

    private static int SizeOf(Type type) => type.IsPointer ? nint.Size : (int)typeof(Unsafe).GetMethod(nameof(Unsafe.SizeOf))!.MakeGenericMethod(type).Invoke(null, null)!;
}
