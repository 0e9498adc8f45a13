using System.Buffers;
using System.Text;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Tests;

public class SafetensorsIndexTests
{
    public static TheoryData<string> Corpus() => [.. Directory.GetFiles(Path.Join(AppContext.BaseDirectory, "corpora/safetensors-index")).Select(path => Path.GetFileName(path))];

    [Theory]
    [MemberData(nameof(Corpus))]
    public void Parse_Corpus_IsReadOrRefusedAsItsNameSays(string name)
    {
        byte[] json = File.ReadAllBytes(Path.Join(AppContext.BaseDirectory, "corpora/safetensors-index", name));
        Exception? e = Record.Exception(() => SafetensorsIndex.Parse(json, name));
        if (name.StartsWith("ok-", StringComparison.Ordinal))
        {
            Assert.Null(e);
        }
        else
        {
            Assert.Equal(CheckpointError.InvalidData, Assert.IsType<CheckpointEngineException>(e).Error);
            Assert.StartsWith(name, e.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Write_ThenParse_IsTheSameMapInHuggingFacesForm()
    {
        TensorTable tensors = Sample.Table(new("b", TensorDtype.F32, [2]), new("a.é", TensorDtype.U8, [3]), new("left out", TensorDtype.U8, [9]));
        var json = new ArrayBufferWriter<byte>();
        SafetensorsIndex.Write(json, tensors, [0, 1, -1], ["one.safetensors", "two.safetensors"]);
        Assert.Equal("""
            {
              "metadata": {
                "total_size": 11
              },
              "weight_map": {
                "a.é": "two.safetensors",
                "b": "one.safetensors"
              }
            }
            """, Encoding.UTF8.GetString(json.WrittenSpan));
        SafetensorsIndex index = SafetensorsIndex.Parse(json.WrittenSpan, "i");
        Assert.Equal(["one.safetensors", "two.safetensors"], index.Files);
        Assert.Equal("two.safetensors", index.WeightMap["a.é"]);
    }

    [Fact]
    public void Write_TwoTensorsOfOneName_IsRefused()
    {
        TensorTable tensors = Sample.Table(new("a", TensorDtype.U8, [1]), new("a", TensorDtype.U8, [1]));
        Assert.Throws<CheckpointEngineException>(() => SafetensorsIndex.Write(new ArrayBufferWriter<byte>(), tensors, [0, 0], ["f"]));
    }
}
