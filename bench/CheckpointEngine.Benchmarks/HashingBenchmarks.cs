using BenchmarkDotNet.Attributes;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Benchmarks;

/// <summary>The digest of one 4 MiB chunk, beside what reading and writing it once costs.</summary>
public class HashingBenchmarks
{
    private readonly byte[] _source = GC.AllocateUninitializedArray<byte>(TensorDigest.ChunkBytes, pinned: true);
    private readonly byte[] _destination = GC.AllocateUninitializedArray<byte>(TensorDigest.ChunkBytes, pinned: true);
    private readonly byte[] _digest = new byte[TensorDigest.MaxDigestBytes];

    [GlobalSetup]
    public void Setup() => new Random(1).NextBytes(_source);

    [Benchmark(Baseline = true)]
    public void CopyChunk() => _source.AsSpan().CopyTo(_destination);

    [Benchmark]
    public void Xxh3Chunk() => TensorDigest.Hash(DigestAlgorithm.Xxh3, _source, _digest);

    [Benchmark]
    public void Sha256Chunk() => TensorDigest.Hash(DigestAlgorithm.Sha256, _source, _digest);
}
