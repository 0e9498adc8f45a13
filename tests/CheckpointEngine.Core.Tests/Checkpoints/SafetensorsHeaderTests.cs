using System.Text;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Tests;

public class SafetensorsHeaderTests
{
    public static TheoryData<TensorDtype> Dtypes() => [.. Enum.GetValues<TensorDtype>().Where(dtype => dtype.SafetensorsName().Length != 0)];

    public static TheoryData<string> Corpus() => [.. Directory.GetFiles(Path.Join(AppContext.BaseDirectory, "corpora/safetensors")).Select(path => Path.GetFileName(path))];

    [Theory]
    [MemberData(nameof(Dtypes))]
    public void Parse_EveryDtype_GivesItBack(TensorDtype dtype)
    {
        long bytes = dtype.ByteLength([4, 3]);
        SafetensorsHeader header = Sample.Parse($$$"""{"t":{"dtype":"{{{dtype.SafetensorsName()}}}","shape":[4,3],"data_offsets":[0,{{{bytes}}}]}}""", bytes);
        Assert.Equal($"t {dtype} [4,3] {bytes} @0", Sample.Describe(header.Tensors, 0));
    }

    [Fact]
    public void Parse_NoTensors_IsEmptyTable()
    {
        SafetensorsHeader header = Sample.Parse("{}", 0);
        Assert.Equal(0, header.Tensors.Count);
        Assert.Empty(header.Metadata);
        Assert.Empty(Sample.Parse("""{"__metadata__":null}""", 0).Metadata);
    }

    [Fact]
    public void Parse_Metadata_IsKept()
    {
        SafetensorsHeader header = Sample.Parse("""{"__metadata__":{"format":"pt","é":"\u00fc\n"}}   """, 0);
        Assert.Equal("pt", header.Metadata["format"]);
        Assert.Equal("ü\n", header.Metadata["é"]);
    }

    [Fact]
    public void Parse_AnyOrderWithEmptyAndScalar_IsByOffsetThenEmptyByName()
    {
        SafetensorsHeader header = Sample.Parse("""
            {"z":{"data_offsets":[8,12],"dtype":"F32","shape":[]},"y":{"dtype":"F32","shape":[0,7],"data_offsets":[8,8]},
             "x":{"dtype":"I8","shape":[0],"data_offsets":[8,8]},"a":{"extra":{"b":[1]},"dtype":"F64","shape":[1,1],"data_offsets":[0,8]}}
            """, 12);
        string[] lines = [.. Enumerable.Range(0, header.Tensors.Count).Select(tensor => Sample.Describe(header.Tensors, tensor))];
        Assert.Equal(["a F64 [1,1] 8 @0", "x I8 [0] 0 @8", "y F32 [0,7] 0 @8", "z F32 [] 4 @8"], lines);
    }

    [Theory]
    [InlineData("\"\\ud83d\\ude00.\\u0000\\\"\"", "😀.\0\"")]
    [InlineData("\"слой.层.é\"", "слой.层.é")]
    [InlineData("\"\"", "")]
    public void Parse_UnicodeNames_AreKept(string json, string name)
    {
        SafetensorsHeader header = Sample.Parse($$$"""{{{{json}}}:{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}""", 1);
        Assert.Equal(name, header.Tensors.GetName(0));
        Assert.Equal(0, header.Tensors.IndexOf(name));
    }

    [Theory]
    [InlineData("", 0, "does not begin")]
    [InlineData(" {}", 0, "does not begin")]
    [InlineData("[]", 0, "does not begin")]
    [InlineData("{", 0, "not JSON")]
    [InlineData("{}{}", 0, "not JSON")]
    [InlineData("""{"a":1}""", 0, "'a' is not described by an object")]
    [InlineData("""{"a":{}}""", 0, "'a' has no dtype")]
    [InlineData("""{"a":{"dtype":"U8","data_offsets":[0,0]}}""", 0, "'a' has no shape")]
    [InlineData("""{"a":{"dtype":"U8","shape":[0]}}""", 0, "'a' has no data_offsets")]
    [InlineData("""{"a":{"dtype":"Q5","shape":[0],"data_offsets":[0,0]}}""", 0, "dtype 'Q5'")]
    [InlineData("""{"a":{"dtype":5,"shape":[0],"data_offsets":[0,0]}}""", 0, "dtype that is no string")]
    [InlineData("""{"a":{"dtype":"U8","shape":3,"data_offsets":[0,0]}}""", 0, "shape that is no array")]
    [InlineData("""{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}}""", 0, "no integer")]
    [InlineData("""{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,0]}}""", 0, "no integer")]
    [InlineData("""{"a":{"dtype":"U8","shape":[1e2],"data_offsets":[0,0]}}""", 0, "no integer")]
    [InlineData("""{"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,0]}}""", 0, "no integer")]
    [InlineData("""{"a":{"dtype":"U8","shape":[0],"data_offsets":[0]}}""", 0, "1 data_offsets")]
    [InlineData("""{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}}""", 0, "more than 2 entries")]
    [InlineData("""{"a":{"dtype":"U8","shape":[0],"data_offsets":[2,1]}}""", 4, "ends before it")]
    [InlineData("""{"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]}}""", 4, "the data section, which has 4")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}""", 4, "F32 [2], which makes 8 bytes")]
    [InlineData("""{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}""", 2, "whole bytes")]
    [InlineData("""{"a":{"dtype":"U8","shape":[4611686018427387904,4611686018427387904],"data_offsets":[0,2]}}""", 2, "within 63 bits")]
    [InlineData("""{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}""", 0, "two members dtype")]
    [InlineData("""{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}""", 4, "no tensor covers bytes 1 to 2 of the data behind tensor 'a', before tensor 'b'")]
    [InlineData("""{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}""", 4, "'a' and 'b' overlap in bytes 2 to 3")]
    [InlineData("""{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}""", 4, "bytes 1 to 4 of the data, its end")]
    [InlineData("""{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}""", 2, "no tensor covers bytes 0 to 1 of the data, before tensor 'a'")]
    [InlineData("""{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}""", 2, "'a' is there twice")]
    [InlineData("""{"__metadata__":{},"__metadata__":{}}""", 0, "__metadata__ is there twice")]
    [InlineData("""{"__metadata__":{"a":1}}""", 0, "not a string")]
    [InlineData("""{"__metadata__":[]}""", 0, "not an object")]
    [InlineData("""{"\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}""", 0, "not Unicode")]
    [InlineData("""{"__metadata__":{"\udc00":"x"}}""", 0, "not Unicode")]
    public void Parse_Fault_IsNamedWithFile(string json, long dataBytes, string expected)
    {
        var e = Assert.Throws<CheckpointEngineException>(() => Sample.Parse(json, dataBytes));
        Assert.Equal(CheckpointError.InvalidData, e.Error);
        Assert.Contains(expected, e.Message, StringComparison.Ordinal);
        Assert.StartsWith("f.safetensors: ", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Parse_DeepNestingAndManyDimensions_AreRefused()
    {
        Assert.Throws<CheckpointEngineException>(() => Sample.Parse("{\"a\":{\"x\":" + new string('[', 100_000), 0));
        string shape = string.Join(',', Enumerable.Repeat(1, 65));
        Assert.Throws<CheckpointEngineException>(() => Sample.Parse($$$"""{"a":{"dtype":"U8","shape":[{{{shape}}}],"data_offsets":[0,1]}}""", 1));
    }

    [Fact]
    public void Parse_LongName_IsCutInTheMessage()
    {
        var e = Assert.Throws<CheckpointEngineException>(() => Sample.Parse($$$"""{"{{{new string('n', 1_000_000)}}}":1}""", 0));
        Assert.True(e.Message.Length < 400, e.Message[..100]);
    }

    [Fact]
    public void ReadJsonLength_LyingPrefixes_AreRefused()
    {
        static void Refused(byte[] prefix, long fileBytes, string expected)
            => Assert.Contains(expected, Assert.Throws<CheckpointEngineException>(() => SafetensorsHeader.ReadJsonLength(prefix, fileBytes, "f")).Message, StringComparison.Ordinal);
        Refused([1, 0, 0], 3, "has 3 bytes");
        Refused(BitConverter.GetBytes(ulong.MaxValue), long.MaxValue, "the format allows 100,000,000");
        Refused(BitConverter.GetBytes(100_000_001UL), long.MaxValue, "the format allows");
        Refused(BitConverter.GetBytes(93UL), 100, "only 92 follow");
        Assert.Equal(92, SafetensorsHeader.ReadJsonLength(BitConverter.GetBytes(92UL), 100, "f"));
    }

    [Theory]
    [MemberData(nameof(Corpus))]
    public void ParseFile_Corpus_IsReadOrRefusedAsItsNameSays(string name)
    {
        byte[] file = File.ReadAllBytes(Path.Join(AppContext.BaseDirectory, "corpora/safetensors", name));
        Exception? e = Record.Exception(() => SafetensorsHeader.ParseFile(file, name));
        if (name.StartsWith("ok-", StringComparison.Ordinal))
        {
            Assert.Null(e);
        }
        else
        {
            Assert.Equal(CheckpointError.InvalidData, Assert.IsType<CheckpointEngineException>(e).Error);
        }
    }

    [Fact]
    public void ParseFile_EveryPrefix_IsRefused()
    {
        byte[] file = Sample.File(new("a", TensorDtype.BF16, [3]), new("b.\n\"é", TensorDtype.F32, [2, 2]), new("empty", TensorDtype.U8, [0]));
        for (int length = 0; length < file.Length; length++)
        {
            Assert.Throws<CheckpointEngineException>(() => SafetensorsHeader.ParseFile(file.AsSpan(0, length), "f"));
        }
        Assert.Equal(3, SafetensorsHeader.ParseFile(file, "f").Tensors.Count);
    }

    [Fact]
    public void Open_PipeDirectoryOrNothing_IsTypedErrorAndDoesNotBlock()
    {
        using var directory = new TempDirectory();
        string pipe = Path.Join(directory.Path, "pipe.safetensors");
        using (var make = System.Diagnostics.Process.Start("mkfifo", pipe))
        {
            make.WaitForExit();
        }
        Assert.Equal(CheckpointError.Io, Assert.Throws<CheckpointEngineException>(() => SafetensorsFile.Open(pipe)).Error);
        Assert.Equal(CheckpointError.Io, Assert.Throws<CheckpointEngineException>(() => SafetensorsFile.Open(directory.Path)).Error);
        Assert.Equal(CheckpointError.NotFound, Assert.Throws<CheckpointEngineException>(() => SafetensorsFile.Open(pipe + ".no")).Error);
        Assert.Equal(CheckpointError.InvalidData, Assert.Throws<CheckpointEngineException>(() => SafetensorsFile.Open(directory.Write("short", "abc"))).Error);
    }

    [Fact]
    public void Read_PartOfTensor_IsItsBytes()
    {
        using var directory = new TempDirectory();
        Sample.Tensor tensor = new("t", TensorDtype.F32, [100]);
        using SafetensorsFile file = SafetensorsFile.Open(directory.Write("f.safetensors", Sample.File(new("first", TensorDtype.U8, [5]), tensor)));
        byte[] part = new byte[50];
        file.Read(1, 33, part);
        Assert.Equal(tensor.Bytes()[33..83], part);
        Assert.Throws<ArgumentOutOfRangeException>(() => file.Read(1, 351, part));
    }
}
