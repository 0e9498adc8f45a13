namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>Whole joins by the command, unverified, over the planes that it has.</summary>
internal sealed class JoinPlanes : IDisposable
{
    private const int WarmRounds = 3;

    private readonly Workbench _bench;
    private readonly Dictionary<string, HolderProcess> _holders = [];

    internal JoinPlanes(Workbench bench)
    {
        _bench = bench;
        string help = Workbench.Run(bench.Command, "join", "--help");
        HasLocalPlane = help.Contains("--copy", StringComparison.Ordinal);
    }

    /// <summary>The command attaches and copies within a host.</summary>
    internal bool HasLocalPlane { get; }

    /// <summary>GiB/s into memory that the rounds before have written, or into fresh memory.</summary>
    /// <param name="hold">How the holder holds: map, memfd, anon.</param>
    /// <param name="plane">The only one that may carry bytes.</param>
    /// <param name="fresh">The first round of a process; else the rounds after it.</param>
    internal double Measure(string hold, string plane, bool fresh)
    {
        JoinResult join = Join(hold, fresh ? 1 : 1 + WarmRounds, plane, copy: plane == "local");
        if (join.AttachedBytes != 0)
        {
            throw new BenchmarkFailedException($"a join that should copy has attached {join.AttachedBytes:N0} bytes");
        }
        return Contender.ToRate(join.Bytes, fresh ? join.Seconds.Take(1) : join.Seconds.Skip(1));
    }

    /// <summary>Milliseconds until all tensors are addressable in memory that the holder gave us.</summary>
    internal double Attach()
    {
        JoinResult join = Join("memfd", 1, "local", copy: false);
        return join.AttachedBytes == join.Bytes
            ? join.Seconds[0] * 1e3
            : throw new BenchmarkFailedException($"a join that should attach has attached {join.AttachedBytes:N0} of {join.Bytes:N0} bytes; checkpoint-engine plan tells why");
    }

    public void Dispose()
    {
        foreach (HolderProcess holder in _holders.Values)
        {
            holder.Dispose();
        }
    }

    private JoinResult Join(string hold, int rounds, string plane, bool copy)
    {
        if (!_holders.TryGetValue(hold, out HolderProcess? holder))
        {
            // Without digests: made in the background, they would take the cores from what is measured.
            _holders.Add(hold, holder = new HolderProcess(_bench, _bench.GetCheckpoint(), "--hold", hold, "--digest", "none"));
        }
        JoinResult join = holder.Join(rounds, verify: false, plane, copy);
        string[] others = [.. join.Transports.Where(used => used.Key != plane && used.Value != 0).Select(used => used.Key)];
        return others.Length == 0
            ? join
            : throw new BenchmarkFailedException($"a join that should go by {plane} went by {string.Join(", ", others)}; checkpoint-engine plan tells why");
    }
}
