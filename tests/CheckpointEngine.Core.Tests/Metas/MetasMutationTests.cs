using CheckpointEngine.Metas;
using CsCheck;

namespace CheckpointEngine.Tests;

/// <summary>Every reader is total: any input gives a value or a typed error, and nothing else.</summary>
public class MetasMutationTests
{
    /// <summary>Each is mutated at every byte to every value: about 50,000 to 150,000 documents.</summary>
    public static TheoryData<string> Small => 
        ["empty.json", "empty.p2.pkl", "empty.p4.pkl", "no-p2p-store.json", "no-p2p-store.p2.pkl", "no-p2p-store.p4.pkl", "one-tensor.json", "one-tensor.p4.pkl"];

    public static TheoryData<string> All =>
    [
        .. MetasSamples.GoldenNames.SelectMany(name => MetasSamples.Protocols.Select(protocol => $"{name}.p{protocol}.pkl").Append(name + ".json")),
        "one-tensor.json", "one-tensor.p2.pkl", "one-tensor.p4.pkl",
    ];

    private static byte[] Load(string file)
    {
        if (!file.StartsWith("one-tensor", StringComparison.Ordinal))
        {
            return MetasSamples.Golden(file);
        }
        CheckpointMetas metas = MetasJsonReader.Read("""
            {"3":{"p2p_store_addr":"h:1","memory_buffer_metas_list":[{"metas":[{"name":"w\u00e9","dtype":"torch.uint8","shape":[3],"aligned_size":256,
            "digest":"xxh3-128/4m:00112233445566778899aabbccddeeff","safetensors_dtype":"F6_E2M3","safetensors_shape":[2,2]}],"ptr":18446708889337462784,"size":256}],"rdma_device":""}}
            """u8);
        return file.EndsWith(".json", StringComparison.Ordinal) ? MetasSamples.Json(metas) : MetasSamples.Pickle(metas, file[^5] - '0');
    }

    // Whether a value came back; anything but the one exception passes through and fails the test.
    private static bool TryRead(ReadOnlySpan<byte> document, bool isPickle)
    {
        try
        {
            _ = isPickle ? MetasPickleReader.Read(document) : MetasJsonReader.Read(document);
            return true;
        }
        catch (CheckpointEngineException refused)
        {
            Assert.True(refused.Error is CheckpointError.InvalidData or CheckpointError.WrongShape, refused.ToString());
            return false;
        }
    }

    [Theory]
    [InlineData("metas-json")]
    [InlineData("metas-pickle")]
    public void Read_SeedsOfTheFuzzers_GiveAValueOrATypedError(string corpus)
    {
        string[] files = Directory.GetFiles(Path.Combine(AppContext.BaseDirectory, "corpora", corpus), "*", SearchOption.AllDirectories);
        int values = files.Count(file => TryRead(File.ReadAllBytes(file), corpus == "metas-pickle"));
        Assert.InRange(values, 10, files.Length - 10);
    }

    [Theory]
    [MemberData(nameof(All))]
    public void Read_EveryPrefix_IsRefused(string file)
    {
        byte[] document = Load(file);
        bool isPickle = file.EndsWith(".pkl", StringComparison.Ordinal);
        Assert.True(TryRead(document, isPickle));
        int whole = isPickle ? document.Length : document.AsSpan().TrimEnd((byte)'\n').Length;
        int step = document.Length > 10_000 ? 61 : 1;
        for (int length = 0; length < whole; length += step)
        {
            Assert.False(TryRead(document.AsSpan(0, length), isPickle), $"{length} bytes of {file}");
        }
    }

    [Theory]
    [MemberData(nameof(Small))]
    public void Read_EverySingleByteChanged_GivesAValueOrATypedError(string file)
    {
        byte[] document = Load(file);
        bool isPickle = file.EndsWith(".pkl", StringComparison.Ordinal);
        for (int at = 0; at < document.Length; at++)
        {
            byte original = document[at];
            for (int value = 0; value < 256; value++)
            {
                document[at] = (byte)value;
                _ = TryRead(document, isPickle);
            }
            document[at] = original;
        }
    }

    [Theory]
    [MemberData(nameof(All))]
    public void Read_RandomSplices_GiveAValueOrATypedError(string file)
    {
        byte[] document = Load(file);
        bool isPickle = file.EndsWith(".pkl", StringComparison.Ordinal);
        int length = document.Length;
        Gen.Select(Gen.Int[0, length - 1], Gen.Int[0, length - 1], Gen.Int[0, 64], Gen.Int[0, 64], Gen.Byte.Array[0, 4]).Sample((from, to, taken, cut, noise) =>
        {
            byte[] spliced = [.. document.Take(to), .. document.Skip(from).Take(taken), .. noise, .. document.Skip(to + cut)];
            _ = TryRead(spliced, isPickle);
        }, iter: length > 10_000 ? 200 : 5000);
    }
}
