using System.Diagnostics;

namespace CheckpointEngine.ProcessBenchmarks.Compare;

/// <summary>
/// Our planes beside what a user would reach for else, and beside the machine's limits: everything at the same sizes, in one run, in turns.
/// </summary>
internal sealed class Comparison : IDisposable
{
    private const string Tcp = "TCP over the loopback";
    private const string Host = "Inside the host";

    private const string Pump = "bare C pump";
    private const string FreshPump = "bare C pump, fresh";
    private const string Iperf = "iperf3";
    private const string UcxTcp = "UCX tcp";
    private const string Mooncake = "Mooncake TCP";
    private const string PooledMooncake = "Mooncake TCP with its pool";
    private const string Lane = "our TCP lane";
    private const string TcpJoin = "our join, TCP";
    private const string FreshTcpJoin = "our join, TCP, fresh";

    private const string Memcpy = "memcpy";
    private const string FreshMemcpy = "memcpy, fresh";
    private const string MemfdMemcpy = "memcpy from memfd";
    private const string FreshMemfdMemcpy = "memcpy from memfd, fresh";
    private const string VmRead = "process_vm_readv";
    private const string FreshVmRead = "process_vm_readv, fresh";
    private const string UcxPosix = "UCX posix";
    private const string UcxCma = "UCX cma";
    private const string MappedJoin = "our join, copy from memfds";
    private const string FreshMappedJoin = "our join, copy from memfds, fresh";
    private const string FileJoin = "our join, copy from files";
    private const string FreshFileJoin = "our join, copy from files, fresh";
    private const string AnonymousJoin = "our join, copy from anonymous";
    private const string FreshAnonymousJoin = "our join, copy from anonymous, fresh";
    private const string AttachedJoin = "our join, attached";

    private const int Rounds = 2;                   // of copies, within a process, after one that does not count
    private const string NotInThisBuild = "not in this build";

    // The system's default, which others' tools get, and the one that our sender takes on a loopback: BBR paces there for nothing.
    private static readonly string[] s_congestions = ["reno", "default"];

    // More passes are not begun when they would end later; --passes is obeyed whatever it takes.
    private static readonly TimeSpan s_budget = TimeSpan.FromMinutes(3.5);

    private readonly Workbench _bench;
    private readonly long _start = Stopwatch.GetTimestamp();
    private readonly List<IDisposable> _servers = [];
    private readonly List<Contender> _contenders = [];

    private Comparison(Workbench bench) => _bench = bench;

    internal static Task RunAsync(Workbench bench, Scoreboard scoreboard, string machine)
    {
        if (bench.Options.Install)
        {
            ToolFinder.InstallMissing();
        }
        using var comparison = new Comparison(bench);
        comparison.AddTcp();
        comparison.AddHost();
        foreach (string remark in comparison.Missing())
        {
            Console.WriteLine($"LEFT OUT: {remark}");
        }
        var results = new ComparisonResults(comparison._contenders, bench.Options.Passes);
        List<string> failures = comparison.Measure(results);
        var report = new ComparisonReport(results, machine, CommandLine(bench.Options), Stopwatch.GetElapsedTime(comparison._start), comparison.AttachLine(results),
            [.. comparison.Missing().Select(remark => "Left out: " + remark), .. failures.Select(failure => "Failed: " + failure)]);
        report.Print();
        if (bench.Options.WriteTo is string directory)
        {
            report.Write(directory);
        }
        comparison.Judge(results, scoreboard);
        return Task.CompletedTask;
    }

    public void Dispose()
    {
        foreach (IDisposable server in _servers)
        {
            server.Dispose();
        }
    }

    private void AddTcp()
    {
        PumpServer pump = Keep(new PumpServer(_bench, BlockSizes.Whole, s_congestions));
        foreach (string congestion in s_congestions)
        {
            foreach (int connections in _bench.Options.Connections)
            {
                Add(Tcp, Pump, $"{Count(connections, "connection")}, {congestion}", Pump,
                    block => Contender.ToRate(BytesFor(block), pump.Receive(congestion, BytesFor(block), cold: false, 1, connections, block)));
            }
        }
        foreach (int connections in _bench.Options.Connections)
        {
            Add(Tcp, FreshPump, $"{Count(connections, "connection")}, reno", FreshPump,
                block => Contender.ToRate(block, pump.Receive("reno", block, cold: true, 1, connections)), IsWhole);
        }
        AddIperf();
        Add(Tcp, UcxTcp, "tag_bw", Pump, block => UcxPerftest.Measure("tcp", "tag_bw", block), missing: MissingTool(ToolFinder.Ucx));
        AddMooncake();

        LaneServer lane = Keep(new LaneServer(_bench));
        foreach (int lanes in (int[])[1, 2])
        {
            Add(Tcp, Lane, Count(lanes, "connection"), Pump, block => lane.Measure(block, lanes, BytesFor(block), 1), ours: true);
        }
    }

    private void AddIperf()
    {
        string? missing = MissingTool(ToolFinder.Iperf);
        IperfServer? server = missing is null ? Keep(new IperfServer()) : null;
        foreach (string congestion in s_congestions)
        {
            foreach (int streams in (int[])[1, 2, 4])
            {
                Add(Tcp, Iperf, $"-P {streams}, {congestion}", Pump, block => server!.Measure(block, streams, congestion), block => block <= IperfServer.LargestBlock, missing: missing);
            }
        }
    }

    private void AddMooncake()
    {
        string? directory = Environment.GetEnvironmentVariable(MooncakeTarget.Variable);
        string? missing = string.IsNullOrEmpty(directory) ? $"{MooncakeTarget.Variable} does not name a directory with a built transfer_engine_bench"
            : File.Exists(MooncakeTarget.ProgramIn(directory)) ? null : $"{MooncakeTarget.ProgramIn(directory)} is not there";
        MooncakeTarget? target = missing is null ? Keep(new MooncakeTarget(directory!)) : null;
        Add(Tcp, Mooncake, "", Pump, block => target!.Measure(block, withPool: false), missing: missing);
        Add(Tcp, PooledMooncake, "", Pump, block => target!.Measure(block, withPool: true), missing: missing);
    }

    private void AddHost()
    {
        CopyProgram copy = Keep(new CopyProgram(_bench));
        int[] threadCounts = Environment.ProcessorCount == 1 ? [1] : [1, Environment.ProcessorCount];
        foreach ((string family, string limit, Func<long, int, double> measure) in new (string, string, Func<long, int, double>)[]
        {
            (Memcpy, Memcpy, (block, threads) => copy.Memcpy("anon", block, threads, fresh: false, BlockSizes.Whole, Rounds)),
            (MemfdMemcpy, Memcpy, (block, threads) => copy.Memcpy("memfd", block, threads, fresh: false, BlockSizes.Whole, Rounds)),
            (VmRead, Memcpy, (block, threads) => copy.Read(block, threads, fresh: false, BlockSizes.Whole, Rounds)),
            (FreshMemcpy, FreshMemcpy, (block, threads) => copy.Memcpy("anon", block, threads, fresh: true, BlockSizes.Whole, 1)),
            (FreshMemfdMemcpy, FreshMemcpy, (block, threads) => copy.Memcpy("memfd", block, threads, fresh: true, BlockSizes.Whole, 1)),
            (FreshVmRead, FreshMemcpy, (block, threads) => copy.Read(block, threads, fresh: true, BlockSizes.Whole, 1)),
        })
        {
            foreach (int threads in threadCounts)
            {
                // What fresh memory costs does not hang on the size of a block.
                Add(Host, family, Count(threads, "thread"), limit, block => measure(block, threads), limit == FreshMemcpy ? IsWhole : null);
            }
        }
        string? noUcx = MissingTool(ToolFinder.Ucx);
        // A get is a copy out of memory that both have mapped. Messages through posix alone crawl, the more so the larger they are.
        Add(Host, UcxPosix, "ucp_get", Memcpy, block => UcxPerftest.Measure("posix,self", "ucp_get", block), missing: noUcx);
        Add(Host, UcxPosix, "tag_bw", Memcpy, block => UcxPerftest.Measure("posix,self", "tag_bw", block), block => !IsWhole(block), missing: noUcx);
        Add(Host, UcxCma, "tag_bw", Memcpy, block => UcxPerftest.Measure("posix,cma,self", "tag_bw", block), missing: noUcx);
        AddJoins();
    }

    private void AddJoins()
    {
        JoinPlanes joins = Keep(new JoinPlanes(_bench));
        AddJoin(Tcp, TcpJoin, Pump, () => joins.Measure("map", "tcp", fresh: false), null);
        AddJoin(Tcp, FreshTcpJoin, FreshPump, () => joins.Measure("map", "tcp", fresh: true), null);
        string? missing = joins.HasLocalPlane ? null : NotInThisBuild;
        foreach ((string hold, string warm, string warmLimit, string fresh, string freshLimit) in new[]
        {
            ("memfd", MappedJoin, MemfdMemcpy, FreshMappedJoin, FreshMemfdMemcpy),
            ("map", FileJoin, MemfdMemcpy, FreshFileJoin, FreshMemfdMemcpy),
            ("anon", AnonymousJoin, VmRead, FreshAnonymousJoin, FreshVmRead),
        })
        {
            AddJoin(Host, warm, warmLimit, () => joins.Measure(hold, "local", fresh: false), missing);
            AddJoin(Host, fresh, freshLimit, () => joins.Measure(hold, "local", fresh: true), missing);
        }
        _contenders.Add(new Contender(Host, AttachedJoin, "", AttachedJoin, _ => joins.Attach()) { IsOurs = true, IsTime = true, Takes = IsWhole, Missing = missing });

        void AddJoin(string plane, string family, string limit, Func<double> measure, string? missing)
            => Add(plane, family, "", limit, _ => measure(), IsWhole, ours: true, missing: missing);
    }

    private void Add(string plane, string family, string variant, string limit, Func<long, double> measure, Func<long, bool>? takes = null, bool ours = false, string? missing = null)
        => _contenders.Add(new Contender(plane, family, variant, limit, measure) { IsOurs = ours, Takes = takes ?? (static _ => true), Missing = missing });

    private T Keep<T>(T server) where T : IDisposable
    {
        _servers.Add(server);
        return server;
    }

    /// <summary>Each reason once, with the families that it takes out.</summary>
    private IEnumerable<string> Missing()
        => _contenders.Where(contender => contender.Missing is not null).GroupBy(contender => contender.Missing)
            .Select(reason => $"{string.Join("; ", reason.Select(contender => contender.Family).Distinct())}: {reason.Key}");

    // A row of others that fails is dropped at that size, loudly; one of ours ends the run.
    private List<string> Measure(ComparisonResults results)
    {
        var failures = new List<string>();
        var dropped = new HashSet<(Contender, long)>();
        TimeSpan longest = TimeSpan.Zero;
        for (int pass = 0; pass < results.Passes; pass++)
        {
            if (!_bench.Options.ArePassesGiven && Stopwatch.GetElapsedTime(_start) + longest > s_budget)
            {
                Console.WriteLine($"ENDED EARLY: another pass would not end within four minutes; {results.DonePasses} of {results.Passes} are done, --passes {results.Passes} makes all of them");
                break;
            }
            long start = Stopwatch.GetTimestamp();
            foreach (long block in BlockSizes.All)
            {
                // Every other pass backwards, so that nothing always comes behind the same thing.
                foreach (Contender contender in pass % 2 == 0 ? _contenders : Enumerable.Reverse(_contenders))
                {
                    if (contender.Missing is not null || !contender.Takes(block) || dropped.Contains((contender, block)))
                    {
                        continue;
                    }
                    try
                    {
                        results.Add(contender, block, pass, contender.Measure(block));
                    }
                    catch (BenchmarkFailedException failure) when (!contender.IsOurs && !ChildProcess.IsInterrupted)
                    {
                        dropped.Add((contender, block));
                        failures.Add($"{contender.Name} at {BlockSizes.Format(block)}, pass {pass + 1}, left out from there on: {failure.Message}");
                        Console.WriteLine("FAILED: " + failures[^1]);
                    }
                }
            }
            results.DonePasses = pass + 1;
            longest = TimeSpan.FromTicks(Math.Max(longest.Ticks, Stopwatch.GetElapsedTime(start).Ticks));
            Console.WriteLine($"pass {pass + 1} of {results.Passes}: {Stopwatch.GetElapsedTime(start).TotalSeconds:0} s");
        }
        return failures;
    }

    private string? AttachLine(ComparisonResults results)
    {
        Contender attach = _contenders.First(contender => contender.IsTime);
        double[] milliseconds = results.Figures(attach, BlockSizes.Whole);
        return milliseconds.Length == 0 ? null
            : $"{attach.Family}: {_bench.Options.Gib:0.##} GiB addressable in {Statistics.Median(milliseconds):0.0} ms ({Statistics.Range(milliseconds, "0.0")}), no byte copied";
    }

    private void Judge(ComparisonResults results, Scoreboard scoreboard)
    {
        foreach (long block in BlockSizes.All)
        {
            AtLeast(Lane, Pump, block, 0.95);
            AtLeast(Lane, Iperf, block, 0.95, Math.Min(block, IperfServer.LargestBlock));
            AtLeast(Lane, UcxTcp, block, 1);
            AtLeast(Lane, Mooncake, block, 2);
            AtLeast(Lane, PooledMooncake, block, 2);
        }
        AtLeast(TcpJoin, Pump, BlockSizes.Whole, 0.95);
        AtLeast(FreshTcpJoin, FreshPump, BlockSizes.Whole, 0.95);
        AtLeast(TcpJoin, Iperf, BlockSizes.Whole, 0.95, IperfServer.LargestBlock);
        AtLeast(TcpJoin, UcxTcp, BlockSizes.Whole, 1);
        AtLeast(TcpJoin, Mooncake, BlockSizes.Whole, 2);
        AtLeast(TcpJoin, PooledMooncake, BlockSizes.Whole, 2);
        AtLeast(MappedJoin, MemfdMemcpy, BlockSizes.Whole, 0.9);
        AtLeast(FreshMappedJoin, FreshMemfdMemcpy, BlockSizes.Whole, 0.9);
        AtLeast(AnonymousJoin, VmRead, BlockSizes.Whole, 0.95);
        AtLeast(FreshAnonymousJoin, FreshVmRead, BlockSizes.Whole, 0.95);
        double[] attached = results.Figures(_contenders.First(contender => contender.IsTime), BlockSizes.Whole);
        if (attached.Length != 0)
        {
            scoreboard.Below(AttachedJoin, Statistics.Median(attached), 20, "ms", Statistics.Range(attached, "0.0"));
        }

        void AtLeast(string ours, string limit, long block, double least, long? blockOfLimit = null)
        {
            double[] ratios = results.Best(ours, block) is Contender best ? results.Ratios(best, block, limit, blockOfLimit ?? block) : [];
            if (ratios.Length != 0)
            {
                string at = blockOfLimit is long other && other != block ? $" (at {BlockSizes.Format(other)})" : "";
                scoreboard.AtLeast($"{BlockSizes.Format(block)}: {ours} / {limit}{at}", Statistics.Median(ratios), least, Statistics.Range(ratios, "0.00"));
            }
        }
    }

    private static bool IsWhole(long block) => block == BlockSizes.Whole;

    // Of a round over sockets: enough for a figure, few enough for a run of minutes.
    private static long BytesFor(long block) => Math.Max(block, 512L << 20);

    private static string? MissingTool(string tool)
        => ToolFinder.IsHere(tool) ? null : $"{tool} is not here; the package {ToolFinder.PackageOf(tool)} brings it (apt-get install -y {ToolFinder.PackageOf(tool)}, or --install)";

    private static string Count(int count, string what) => count == 1 ? $"1 {what}" : $"{count} {what}s";

    private static string CommandLine(BenchmarkOptions options)
        => $"BENCH=\"compare --passes {options.Passes} --gib {options.Gib:0.##} --connections {string.Join(',', options.Connections)}\" ./build.sh bench";
}
