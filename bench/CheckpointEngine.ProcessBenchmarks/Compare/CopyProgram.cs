namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>memcpy and process_vm_readv, by <c>bench/compare/copy.c</c>.</summary>
internal sealed class CopyProgram : IDisposable
{
    private static readonly TimeSpan s_timeToStart = TimeSpan.FromSeconds(60);

    private readonly string _program;
    private readonly ChildProcess _holder;
    private readonly string[] _processAndAddress;

    internal CopyProgram(Workbench bench)
    {
        _program = bench.CompileC("compare", "copy");
        _holder = ChildProcess.Start(_program, ["hold", $"{BlockSizes.Whole}"], Workbench.LongestServer);
        _processAndAddress = _holder.WaitForLine("", s_timeToStart).Split(' ');
    }

    /// <summary>GiB/s of memcpy, out of <c>anon</c> or <c>memfd</c>.</summary>
    internal double Memcpy(string source, long block, int threads, bool fresh, long bytes, int rounds)
        => Measure(["memcpy", source], block, threads, fresh, bytes, rounds);

    /// <summary>GiB/s of process_vm_readv out of a process that holds anonymous memory.</summary>
    internal double Read(long block, int threads, bool fresh, long bytes, int rounds)
        => Measure(["read", .. _processAndAddress], block, threads, fresh, bytes, rounds);

    public void Dispose() => _holder.Dispose();

    private double Measure(string[] words, long block, int threads, bool fresh, long bytes, int rounds)
        => Contender.ToRate(bytes, PumpServer.ParseSeconds(Workbench.Run(_program, [.. words, $"{block}", $"{bytes}", $"{threads}", fresh ? "fresh" : "warm", $"{rounds}"])));
}
