using System.Globalization;
using System.Runtime.InteropServices;
using CheckpointEngine.ProcessBenchmarks;
using CheckpointEngine.ProcessBenchmarks.Compare;
using CheckpointEngine.ProcessBenchmarks.Relay;

const string Usage = """
    usage: dotnet run -c Release --project bench/CheckpointEngine.ProcessBenchmarks -- BENCHMARK [OPTION...]

    benchmarks:
      join-vs-pump   serve and join a checkpoint beside a bare socket pump, in alternation
      kimi-metas     serve, fetch, parse and plan the metas of a checkpoint like Kimi-K2 (139,600 tensors, 256 owners)
      start-up       --version, and serve of a mapped checkpoint until it is ready
      join-latency   what a join costs before the first byte
      c-interface    what the C interface costs: loading, calls, a join through it
      local-plane    joins within a host: attached, copied beside memcpy, read from a process beside process_vm_readv
      many-joiners   64 joiners of one holder at once: their rates in sum, how even they are, what the holder needs for them
      registration   files mapped; copied from the page cache beside memcpy; copied from a cold disk beside plain reads
      update         joins that go on into an inference server in host memory, beside their two stages
      telemetry      joins while everything is counted, traced and scraped, beside joins while nothing is
      encrypt        joins over TLS 1.3 beside joins in plain
      trust          one of two holders of a checkpoint is killed while both are read
      all            all of the above
      relay          joins behind one holder of 400 Mbit/s that read from each other, and up to 10,000 of them simulated
      compare        our planes beside a bare pump, iperf3, UCX, memcpy, process_vm_readv and Mooncake, at 64 KiB, 1 MiB, 16 MiB, 1 GiB
      mooncake-library   the binding to Mooncake's library beside a C program on the same library
      interop            our joiner and our holder in Mooncake's place: beside Mooncake's own, over TCP
    options:
      --check            end with status 1 when a figure misses its limit
      --passes N         passes of each comparison, an odd number; default 5, of compare and relay 3
      --gib G            size of the checkpoint; default 2, of compare and relay 1
      --connections LIST connections of the pump, the best of which counts; default 1,2
      --hold MODE        how the holder of join-vs-pump holds it: map (default), memfd, anon
      --write DIR        compare: write compare.md and compare.svg there; relay: relay.svg
      --install          compare: first install the tools that are missing (apt-get, as root)
    environment:
      MOONCAKE_BENCH_DIRECTORY   compare: a directory with a built transfer_engine_bench, which then takes part;
                                 mooncake-library, interop: with te-read-bench and mooncake-peer
      CHECKPOINT_ENGINE_MOONCAKE_LIBRARY   mooncake-library: the library
    needs: cc, for update python3-zmq, and ./build.sh build before it (artifacts/bin/checkpoint-engine)
    """;

CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
if (!BenchmarkOptions.TryParse(args, out BenchmarkOptions? options))
{
    Console.Error.WriteLine(Usage);
    return 2;
}
int? interrupted = null;
try
{
    using var bench = new Workbench(options);
    using PosixSignalRegistration onInterrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, _ => End(bench, 130));
    using PosixSignalRegistration onTerminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, _ => End(bench, 143));
    string machine = MachineLine.Read(bench);
    Console.WriteLine(machine);
    var scoreboard = new Scoreboard();
    foreach (string benchmark in options.Benchmarks)
    {
        scoreboard.Begin(benchmark);
        await (benchmark switch
        {
            "join-vs-pump" => JoinVersusPump.RunAsync(bench, scoreboard),
            "kimi-metas" => KimiMetas.RunAsync(bench, scoreboard),
            "c-interface" => CInterface.RunAsync(bench, scoreboard),
            "local-plane" => LocalPlane.RunAsync(bench, scoreboard),
            "many-joiners" => ManyJoiners.RunAsync(bench, scoreboard),
            "update" => Update.RunAsync(bench, scoreboard),
            "telemetry" => Telemetry.RunAsync(bench, scoreboard),
            "encrypt" => Encrypt.RunAsync(bench, scoreboard),
            "trust" => Trust.RunAsync(bench, scoreboard),
            "registration" => Registration.RunAsync(bench, scoreboard),
            BenchmarkOptions.MooncakeLibrary => MooncakeLibrary.RunAsync(bench, scoreboard),
            BenchmarkOptions.Relay => RelayBenchmark.RunAsync(bench, scoreboard),
            BenchmarkOptions.Interop => Interop.RunAsync(bench, scoreboard),
            "start-up" => StartUp.RunAsync(bench, scoreboard),
            BenchmarkOptions.Compare => Comparison.RunAsync(bench, scoreboard, machine),
            _ => JoinLatency.RunAsync(bench, scoreboard),
        });
        scoreboard.PrintLatest();
    }
    return scoreboard.PrintVerdict() || !options.Check ? 0 : 1;
}
catch (BenchmarkFailedException failure)
{
    if (interrupted is int status)
    {
        return status;
    }
    Console.Error.WriteLine($"benchmark failed: {failure.Message}");
    return 1;
}

// What runs in this process alone does not look for an interruption: it ends here.
void End(Workbench bench, int status)
{
    interrupted = status;
    ChildProcess.KillAll();
    bench.Dispose();
    Environment.Exit(status);
}
