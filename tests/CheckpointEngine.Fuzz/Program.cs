using System.Globalization;
using CheckpointEngine.Fuzz.Targets;

namespace CheckpointEngine.Fuzz;

/// <summary>The command; README.md says how it is called.</summary>
internal static class Program
{
    private static readonly Func<FuzzTarget>[] s_targets =
    [
        () => new SafetensorsTarget(), () => new SafetensorsIndexTarget(), () => new MetasJsonTarget(), () => new MetasPickleTarget(),
        () => new HandshakeFrameTarget(), () => new SegmentDescriptorTarget(), () => new RdmaHandshakeTarget(), () => new EndpointNameTarget(), () => new GlobTarget(),
        () => new PeerSessionTarget(), () => new PeerClientTarget(), () => new TcpDataTarget(), () => new SwarmRequestTarget(), () => new SwarmAnswerTarget(),
        () => new HttpProcessTarget(), () => new PeersProcessTarget(), () => new DataProcessTarget(), () => new HandshakeProcessTarget(),
    ];

    private static int Main(string[] arguments)
    {
        arguments = [.. arguments.SelectMany(argument => argument.StartsWith("--", StringComparison.Ordinal) ? argument.Split('=', 2) : [argument])];
        var options = new Dictionary<string, string>();
        var names = new List<string>();
        for (int i = 0; i < arguments.Length; i++)
        {
            if (arguments[i] is not ("--seconds" or "--target" or "--seed" or "--corpora" or "--artifacts" or "--totals" or "--replay" or "--libfuzzer" or "--afl") || i + 1 == arguments.Length)
            {
                Console.Error.WriteLine("usage: CheckpointEngine.Fuzz [--seconds N] [--target NAME]... [--seed N] [--corpora DIR] [--artifacts DIR] [--totals FILE]\n"
                    + "       CheckpointEngine.Fuzz --replay FILE --target NAME\n       CheckpointEngine.Fuzz --libfuzzer NAME | --afl NAME");
                return 2;
            }
            if (arguments[i] == "--target")
            {
                names.Add(arguments[i + 1]);
            }
            options[arguments[i]] = arguments[++i];
        }
        FuzzTarget[] targets = [.. s_targets.Select(make => make())];
        try
        {
            return Run(targets, options, names);
        }
        finally
        {
            foreach (FuzzTarget target in targets)
            {
                target.Dispose();
            }
        }
    }

    private static int Run(FuzzTarget[] targets, Dictionary<string, string> options, List<string> names)
    {
        if (options.GetValueOrDefault("--libfuzzer") is { } forLibFuzzer)
        {
            FuzzTarget target = Find(targets, forLibFuzzer);
            SharpFuzz.Fuzzer.LibFuzzer.Run(input => Guided(target, input.ToArray()));
            return 0;
        }
        if (options.GetValueOrDefault("--afl") is { } forAfl)
        {
            FuzzTarget target = Find(targets, forAfl);
            SharpFuzz.Fuzzer.OutOfProcess.Run(stream => Guided(target, ReadAll(stream)));
            return 0;
        }
        string artifacts = options.GetValueOrDefault("--artifacts") ?? Path.Combine("artifacts", "fuzz");
        if (options.GetValueOrDefault("--replay") is { } file)
        {
            if (names.Count != 1)
            {
                Console.Error.WriteLine("--replay needs one --target");
                return 2;
            }
            using var executor = new Executor(Find(targets, names[0]), artifacts);
            Outcome outcome = executor.Execute(File.ReadAllBytes(file));
            Console.WriteLine(outcome.Failure is null ? $"ok   {names[0]}: {outcome.Signature}" : $"FAIL {names[0]}: {outcome.Failure}");
            return outcome.Failure is null ? 0 : 1;
        }
        var time = TimeSpan.FromSeconds(double.Parse(options.GetValueOrDefault("--seconds") ?? "5", CultureInfo.InvariantCulture));
        int seed = int.Parse(options.GetValueOrDefault("--seed") ?? Random.Shared.Next(1_000_000).ToString(CultureInfo.InvariantCulture), CultureInfo.InvariantCulture);
        string corpora = options.GetValueOrDefault("--corpora") ?? Path.Combine(AppContext.BaseDirectory, "corpora");
        RunningTotals? totals = options.GetValueOrDefault("--totals") is { } table ? new RunningTotals(table) : null;
        int passed = 0, failed = 0, skipped = 0;
        foreach (FuzzTarget target in names.Count == 0 ? targets : names.Select(name => Find(targets, name)))
        {
            if (target.WhyNot is { } whyNot)
            {
                Console.WriteLine($"skip {target.Name}: {whyNot}");
                skipped++;
                continue;
            }
            using var run = new TargetRun(target, corpora, artifacts, seed, totals);
            _ = run.Run(time) ? passed++ : failed++;
        }
        Console.WriteLine($"{passed} passed, {failed} failed, {skipped} skipped");
        return failed == 0 ? 0 : 1;
    }

    // Under a coverage-guided fuzzer a refusal is an ordinary end and everything else goes through to it; time and memory it watches itself.
    private static void Guided(FuzzTarget target, byte[] input)
    {
        try
        {
            target.Run(input);
        }
        catch (CheckpointEngineException)
        {
        }
    }

    private static byte[] ReadAll(Stream stream)
    {
        var bytes = new MemoryStream();
        stream.CopyTo(bytes);
        return bytes.ToArray();
    }

    private static FuzzTarget Find(FuzzTarget[] targets, string name)
        => Array.Find(targets, target => target.Name == name)
            ?? throw new ArgumentException($"no target '{name}'; there are {string.Join(", ", targets.Select(target => target.Name))}");
}
