using System.Text;

namespace CheckpointEngine.Native.Tests.Support;

/// <summary>Tensors that a C or C++ program registers in place, or reads into: a manifest and a file of bytes, as <c>c/tensors.h</c> reads them.</summary>
internal sealed class CallerTensors
{
    private readonly byte[] _bytes;
    private readonly (string Name, string Dtype, int[] Shape, int Offset, int Size)[] _tensors;

    private CallerTensors(byte[] bytes, params (string Name, string Dtype, int[] Shape, int Offset, int Size)[] tensors) => (_bytes, _tensors) = (bytes, tensors);

    /// <summary>Several dtypes; two names for the same bytes, one that overlaps another, an empty one and a scalar.</summary>
    public static CallerTensors Tied()
    {
        byte[] bytes = new byte[1_000_000];
        new Random(20261123).NextBytes(bytes);
        return new CallerTensors(bytes,
            ("embed.weight", "BF16", [500, 400], 0, 400_000), ("lm_head.weight", "BF16", [500, 400], 0, 400_000), ("overlapping", "U8", [399_999], 1, 399_999),
            ("größe.重み", "F8_E4M3", [300_001], 400_000, 300_001), ("scale", "F32", [], 800_000, 4), ("empty", "I64", [0, 4], 0, 0), ("wide", "F64", [3, 5], 800_008, 120));
    }

    /// <summary>Room for every tensor of a checkpoint, with nothing in it.</summary>
    public static CallerTensors RoomFor(Dictionary<string, Tensor> tensors)
    {
        int offset = 0;
        var described = tensors.Select(tensor =>
        {
            int at = offset;
            offset += (tensor.Value.Bytes.Length + 15) / 16 * 16;
            int[] shape = tensor.Value.Shape.Length == 0 ? [] : [.. tensor.Value.Shape.Split(',').Select(int.Parse)];
            return (tensor.Key, tensor.Value.Dtype, shape, at, tensor.Value.Bytes.Length);
        }).ToArray();
        return new CallerTensors(new byte[offset], described);
    }

    /// <summary>As somebody who joins them must see them; <paramref name="flipped"/>: after an update that inverted all bytes.</summary>
    public Dictionary<string, Tensor> Expected(bool flipped = false)
        => _tensors.ToDictionary(tensor => tensor.Name, tensor => new Tensor(tensor.Dtype, string.Join(',', tensor.Shape),
            [.. _bytes.AsSpan(tensor.Offset, tensor.Size).ToArray().Select(value => flipped ? (byte)~value : value)]));

    /// <summary>Writes manifest and bytes; returns their paths.</summary>
    public string[] Write(TempDirectory temp, string name)
    {
        var manifest = new StringBuilder();
        foreach ((string tensor, string dtype, int[] shape, int offset, int size) in _tensors)
        {
            string dimensions = shape.Length == 0 ? "-" : string.Join(',', shape);
            manifest.Append($"{tensor}\t{Array.IndexOf(s_dtypes, dtype)}\t{dimensions}\t{offset}\t{size}\n");
        }
        File.WriteAllText(temp[name + ".manifest"], manifest.ToString());
        File.WriteAllBytes(temp[name + ".bytes"], _bytes);
        return [temp[name + ".manifest"], temp[name + ".bytes"]];
    }

    /// <summary>The tensors that a program has written.</summary>
    public static Dictionary<string, Tensor> Read(string file)
    {
        byte[] content = File.ReadAllBytes(file);
        var tensors = new Dictionary<string, Tensor>();
        for (int at = 0; at < content.Length;)
        {
            int end = Array.IndexOf(content, (byte)'\n', at);
            string[] columns = Encoding.UTF8.GetString(content, at, end - at).Split('\t');
            int size = int.Parse(columns[3], System.Globalization.CultureInfo.InvariantCulture);
            tensors.Add(columns[0], new Tensor(columns[1], columns[2], content[(end + 1)..(end + 1 + size)]));
            at = end + 1 + size;
        }
        return tensors;
    }

    public static void AssertSame(Dictionary<string, Tensor> expected, Dictionary<string, Tensor> actual)
    {
        Assert.Equal(expected.Keys.Order(StringComparer.Ordinal), actual.Keys.Order(StringComparer.Ordinal));
        Assert.All(expected, pair => Assert.True(pair.Value.Equals(actual[pair.Key]), $"{pair.Key} differs"));
    }

    // Numbers of ce_dtype.
    private static readonly string[] s_dtypes = ["", "BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32", "F64", "C64", "C128", "F8_E4M3"];
}
