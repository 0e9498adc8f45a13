using System.Globalization;
using CheckpointEngine.ProcessBenchmarks;

const string Usage = """
    usage: dotnet run -c Release --project bench/CheckpointEngine.ProcessBenchmarks -- BENCHMARK [OPTION...]

    benchmarks:
      join-vs-pump   serve and join a checkpoint beside a bare socket pump, in alternation
      kimi-metas     serve, fetch, parse and plan the metas of a checkpoint like Kimi-K2 (139,600 tensors, 256 owners)
      start-up       --version, and serve of a mapped checkpoint until it is ready
      join-latency   what a join costs before the first byte
      c-interface    what the C interface costs: loading, calls, a join through it
      registration   files mapped; copied from the page cache beside memcpy; copied from a cold disk beside plain reads
      all            all of them
    options:
      --check            end with status 1 when a figure misses its limit
      --passes N         passes of each comparison, an odd number; default 5
      --gib G            size of the checkpoint; default 2
      --connections LIST connections of the pump, the best of which counts; default 1,2
      --hold MODE        how the holder of join-vs-pump holds it: map (default), memfd, anon
    needs: cc, and ./build.sh build before it (artifacts/bin/checkpoint-engine)
    """;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
if (!BenchmarkOptions.TryParse(args, out BenchmarkOptions? options))
{
    Console.Error.WriteLine(Usage);
    return 2;
}
try
{
    using var bench = new Workbench(options);
    Console.WriteLine(MachineLine.Read(bench));
    var scoreboard = new Scoreboard();
    foreach (string benchmark in options.Benchmarks)
    {
        scoreboard.Begin(benchmark);
        await (benchmark switch
        {
            "join-vs-pump" => JoinVersusPump.RunAsync(bench, scoreboard),
            "kimi-metas" => KimiMetas.RunAsync(bench, scoreboard),
            "c-interface" => CInterface.RunAsync(bench, scoreboard),
            "registration" => Registration.RunAsync(bench, scoreboard),
            "start-up" => StartUp.RunAsync(bench, scoreboard),
            _ => JoinLatency.RunAsync(bench, scoreboard),
        });
        scoreboard.PrintLatest();
    }
    return scoreboard.PrintVerdict() || !options.Check ? 0 : 1;
}
catch (BenchmarkFailedException failure)
{
    Console.Error.WriteLine($"benchmark failed: {failure.Message}");
    return 1;
}
