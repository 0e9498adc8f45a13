using BenchmarkDotNet.Attributes;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Benchmarks;

/// <summary>The look-up that every request of a peer goes through.</summary>
public class MemoryRegistryBenchmarks
{
    private const int LookUps = 1000;
    private const ulong Start = 0x7f00_0000_0000;
    private const ulong RangeBytes = 1 << 30;

    private readonly MemoryRegistry _registry = new();
    private readonly ulong[] _addresses = new ulong[LookUps];
    private MemoryBuffer? _buffer;

    /// <summary>Ranges: one buffer a file; 62 shards are Kimi-K2, a thousand nobody has yet.</summary>
    [Params(1, 62, 1000)]
    public int Ranges { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        _buffer = MemoryBuffer.AllocateAnonymous(4096);       // only carried along: the look-up never touches memory
        for (int range = 0; range < Ranges; range++)
        {
            _registry.Register(_buffer, Start + ((ulong)range * 2 * RangeBytes), RangeBytes);
        }
        var random = new Random(1);
        for (int i = 0; i < LookUps; i++)
        {
            _addresses[i] = Start + ((ulong)random.Next(Ranges) * 2 * RangeBytes) + (ulong)random.Next(1 << 29);
        }
    }

    [GlobalCleanup]
    public void Cleanup() => _buffer?.Dispose();

    /// <summary>What counting a read costs on its own: two interlocked additions.</summary>
    [Benchmark(Baseline = true, OperationsPerInvoke = LookUps)]
    public long CountOnly()
    {
        for (int i = 0; i < LookUps; i++)
        {
            Interlocked.Increment(ref _count);
            Interlocked.Decrement(ref _count);
        }
        return _count;
    }

    [Benchmark(OperationsPerInvoke = LookUps)]
    public int LookUp()
    {
        int found = 0;
        foreach (ulong address in _addresses)
        {
            if (_registry.TryBeginRead(address, 4 << 20, out RegisteredRange? range))
            {
                range.EndRead();
                found++;
            }
        }
        return found;
    }

    private long _count;
}
