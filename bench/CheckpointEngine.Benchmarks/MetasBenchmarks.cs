using System.Buffers;
using BenchmarkDotNet.Attributes;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Benchmarks;

/// <summary>Metas of 139,600 tensors to and from both formats. Readers make the model (11 MB), writers write into memory that is there.</summary>
/// <remarks>Baseline: a copy of the JSON document. Whole-process limits are held by <c>kimi-metas</c>.</remarks>
public class MetasBenchmarks
{
    private readonly CheckpointMetas _metas = KimiK2.CreateMetas();
    private readonly ArrayBufferWriter<byte> _output = new(64 << 20);
    private byte[] _json = [];
    private byte[] _pickle = [];

    [GlobalSetup]
    public void Setup()
    {
        MetasJsonWriter.Write(_metas, _output);
        _json = _output.WrittenSpan.ToArray();
        _output.ResetWrittenCount();
        MetasPickleWriter.Write(_metas, _output);
        _pickle = _output.WrittenSpan.ToArray();
    }

    [Benchmark(Baseline = true)]
    public void CopyJson()
    {
        _output.ResetWrittenCount();
        _output.Write(_json);
    }

    [Benchmark]
    public int WriteJson()
    {
        _output.ResetWrittenCount();
        MetasJsonWriter.Write(_metas, _output);
        return _output.WrittenCount;
    }

    [Benchmark]
    public int WritePickle()
    {
        _output.ResetWrittenCount();
        MetasPickleWriter.Write(_metas, _output);
        return _output.WrittenCount;
    }

    [Benchmark]
    public CheckpointMetas ReadJson() => MetasJsonReader.Read(_json);

    [Benchmark]
    public CheckpointMetas ReadPickle() => MetasPickleReader.Read(_pickle);
}
