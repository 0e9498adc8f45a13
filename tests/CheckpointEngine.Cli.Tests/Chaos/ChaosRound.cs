using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using CheckpointEngine.Cli.Tests.Support;
using CheckpointEngine.Simulation;

namespace CheckpointEngine.Cli.Tests.Chaos;

/// <summary>One round: starts who is in it, does what the plan says, and asserts what must hold whatever happens.</summary>
internal sealed class ChaosRound(ChaosPlan plan, ChaosStage stage) : IAsyncDisposable
{
    private const string Token = "a token that is long enough";
    private const int SmallDiskMebibytes = 16;
    private const int LargeDiskMebibytes = 128;

    // A thread pool keeps what it has had to grow by for some 20 s, and a round is shorter. That nothing stays in the long run SoakTests shows.
    private const int MostThreadsMore = 8;

    // The connection at which a follower waits for the next version, and one that is being closed.
    private const int MostDescriptorsMore = 2;

    // Compiled as it runs, a command grows by tens of MiB while it does something for the first time; one version that is kept too long is 32 MiB.
    private const long MostBytesMore = 24 << 20;

    private readonly List<string> _told = [plan.ToString()];
    private readonly List<Holder> _holders = [];
    private readonly List<HolderControl> _controls = [];
    private readonly List<Engine> _joins = [];
    private readonly HashSet<Engine> _killed = [];
    private HostCertificates? _certificates;
    private SmallDisk? _disk;
    private MemoryLimit? _limit;
    private Task? _replacing;

    /// <summary>What has happened so far, in one line.</summary>
    public string Told => string.Join("; ", _told);

    /// <summary>How the joins ended: by the names of versions, and <c>failed</c>, <c>killed</c>.</summary>
    public List<string> Ends { get; } = [];

    public async Task RunAsync()
    {
        long start = Stopwatch.GetTimestamp();
        await StartHoldersAsync();
        Figures[] before = [.. await Task.WhenAll(_holders.Select(async (holder, index) =>
        {
            Assert.Equal(0, await _controls[index].CountLeasesAsync());
            return Figures.Read(holder.Engine.ProcessId, stage.Temp.Path);
        }))];
        StartJoins();
        foreach (ChaosFault fault in plan.Faults)
        {
            await Task.Delay(fault.AfterMs, TestContext.Current.CancellationToken);
            await DoAsync(fault);
        }
        for (int joiner = 0; joiner < ChaosPlan.Joiners; joiner++)
        {
            Check(joiner, await _joins[joiner].EndAsync());
        }
        if (_replacing is not null && IsAlive(0))
        {
            await _replacing;
        }
        await JoinAfterwardsAsync();
        for (int holder = 0; holder < _holders.Count; holder++)
        {
            if (IsAlive(holder))
            {
                _told.Add($"holder {holder}: {before[holder]}, then {await SettleAsync(holder, before[holder])}");
            }
        }
        _told.Add(string.Create(CultureInfo.InvariantCulture, $"{Stopwatch.GetElapsedTime(start).TotalSeconds:0.0} s"));
    }

    public async ValueTask DisposeAsync()
    {
        _controls.ForEach(control => control.Dispose());
        foreach (IAsyncDisposable process in (IAsyncDisposable[])[.. _joins, .. _holders])
        {
            await process.DisposeAsync();
        }
        _ = _replacing?.Exception;      // its holder is gone
        _disk?.Dispose();
        _limit?.Dispose();
        foreach (string left in stage.Temp.Names.Where(name => name.Contains("copy", StringComparison.Ordinal) || name.StartsWith("holder", StringComparison.Ordinal)))
        {
            if (Directory.Exists(stage.Temp[left]))
            {
                Directory.Delete(stage.Temp[left], recursive: true);
            }
            else
            {
                File.Delete(stage.Temp[left]);
            }
        }
    }

    private async Task StartHoldersAsync()
    {
        if (plan.HasToken)
        {
            File.WriteAllText(stage.Temp["token"], Token);
        }
        _certificates = plan.Encrypts ? new HostCertificates(stage.Temp, ChaosPlan.MostHolders + ChaosPlan.Joiners) : null;
        for (int holder = 0; holder < plan.Holders; holder++)
        {
            string[] command = holder == 1 && plan.World == ChaosWorld.Followed
                ? ["join", "--metas-url", _holders[0].MetasUrl, "--transport", "tcp", "--serve", "--follow", "--stall-timeout", "3", "--retry-timeout", "3"]
                : ["serve", "--checkpoint", "m=" + stage.Versions.DirectoryOf(ChaosVersions.First), "--hold", plan.Hold, "--allow-path", stage.Temp.Path];
            _holders.Add(await Holder.StartAsync(stage.Network.On(holder),
                [.. command, "--listen", $"http://{NetworkOfHosts.AddressOf(holder)}:0", "--listen", $"unix:{stage.Temp[$"holder{holder}"]}", "--drain-timeout", "2", "--json", .. Access, .. Certificate, .. plan.HasToken ? [] : (string[])["--insecure"]]));
            _controls.Add(new HolderControl(stage.Temp[$"holder{holder}"], plan.HasToken ? Token : null));
        }
    }

    // The holders that joiners are told of.
    private IEnumerable<int> Read => plan.World == ChaosWorld.Followed ? [1] : Enumerable.Range(0, plan.Holders);

    private string[] Access => [.. plan.HasToken ? (string[])["--token-file", stage.Temp["token"]] : [], .. _certificates?.Access ?? []];

    // Of those that send weights.
    private string[] Certificate => _certificates?.Own ?? [];

    private void StartJoins()
    {
        for (int joiner = 0; joiner < ChaosPlan.Joiners; joiner++)
        {
            string[] before = stage.Network.On(ChaosPlan.MostHolders + joiner);
            if (joiner == plan.SmallDisk && (_disk = SmallDisk.TryMount(stage.Temp["disk"], SmallDiskMebibytes, out string? noDisk)) is null)
            {
                _told.Add(noDisk!);
            }
            if (joiner == plan.Limited)
            {
                _limit = MemoryLimit.TryCreate(plan.LimitMebibytes, out string? noLimit);
                before = _limit is null ? before : [.. _limit.Within(), .. before];
                _told.AddRange(noLimit is null ? [] : [noLimit]);
            }
            _joins.Add(Engine.StartAs(before, ["join", .. Read.SelectMany(holder => (string[])["--metas-url", _holders[holder].MetasUrl]), "--transport", "tcp", "--to", joiner == plan.Limited ? "memory" : "dir:" + PlaceOf(joiner),
                "--require-verify", "--stall-timeout", "3", "--retry-timeout", "3", "--timeout", "45", "--json", .. Access, .. plan.World == ChaosWorld.Swarm ? (string[])["--relay", "--relay-time", "2", .. Certificate] : []]));
        }
    }

    private async Task DoAsync(ChaosFault fault)
    {
        bool isHolder = fault.Victim < _holders.Count;
        int joiner = fault.Victim - _holders.Count;
        Engine victim = isHolder ? _holders[fault.Victim].Engine : _joins[joiner];
        int host = isHolder ? fault.Victim : ChaosPlan.MostHolders + joiner;
        string name = isHolder ? $"holder {fault.Victim}" : $"joiner {joiner}";
        if (victim.HasExited)
        {
            return;
        }
        switch (fault.Kind)
        {
            case ChaosFaultKind.Kill:
                _told.Add($"+{fault.AfterMs} ms kill {name}");
                _killed.Add(victim);
                victim.Signal(Engine.SigKill);
                break;
            case ChaosFaultKind.Stop:
                _told.Add($"+{fault.AfterMs} ms stop {name} for {fault.LengthMs} ms");
                victim.Signal(Engine.SigStop);
                await Task.Delay(fault.LengthMs, TestContext.Current.CancellationToken);
                victim.Signal(Engine.SigCont);
                break;
            case ChaosFaultKind.Cut:
                _told.Add($"+{fault.AfterMs} ms cut {name} off for {fault.LengthMs} ms");
                stage.Network.Plug(host, isIn: false);
                await Task.Delay(fault.LengthMs, TestContext.Current.CancellationToken);
                stage.Network.Plug(host, isIn: true);
                break;
            case ChaosFaultKind.Worsen:
                _told.Add($"+{fault.AfterMs} ms line of {name}: {stage.Network.TryWorsen(host, fault.Line, out string? whyNot) ?? whyNot} for {fault.LengthMs} ms");
                await Task.Delay(fault.LengthMs, TestContext.Current.CancellationToken);
                stage.Network.Mend(host);
                break;
            default:
                _told.Add($"+{fault.AfterMs} ms replace");
                _replacing = _controls[0].ReplaceAsync(stage.Versions.DirectoryOf(ChaosVersions.Second));
                break;
        }
    }

    // Whatever has happened: all of one version and verified, or nothing.
    private void Check(int joiner, Outcome outcome)
    {
        string place = PlaceOf(joiner);
        string end;
        if (outcome.ExitCode == 0)
        {
            using JsonDocument report = JsonDocument.Parse(outcome.Output);
            Assert.True(report.RootElement.GetProperty("verified").GetBoolean());
            end = joiner == plan.Limited ? "verified" : stage.Versions.NameOf(place);
            Assert.True(joiner != plan.SmallDisk || _disk is null, "32 MiB went onto a disk of 16 MiB");
        }
        else if (_killed.Contains(_joins[joiner]) || (joiner == plan.Limited && outcome.ExitCode == 128 + Engine.SigKill && _limit!.WasReached))
        {
            // It may have been done, and have stayed for others.
            end = Directory.Exists(place) ? $"killed with {stage.Versions.NameOf(place)}" : "killed";
            Assert.True(outcome.Output.Length == 0 || joiner == plan.Limited || Directory.Exists(place), "a join has reported and left nothing");
        }
        else
        {
            end = "failed: " + outcome.FailedWithOneLine();
            Assert.True((joiner == plan.SmallDisk && _disk is not null) || joiner == plan.Limited || !Read.Any(IsAlive), $"joiner {joiner} gave up though it could be read on: {end}");
            Assert.False(Directory.Exists(place), "a join that failed left its directory");
            Assert.Empty(PartsOf(joiner));
        }
        Ends.Add(end.Split([':', ' '])[0]);
        _told.Add($"joiner {joiner} {end}");
    }

    // When all is over somebody joins where one of them has failed, or has had no room, from who is left.
    private async Task JoinAfterwardsAsync()
    {
        bool isReplaced = _replacing is not null;
        int[] from = plan.World switch
        {
            ChaosWorld.Followed => [IsAlive(1) ? 1 : 0],
            ChaosWorld.Replicas when !isReplaced || !IsAlive(0) => [0, 1],
            _ => [0],
        };
        from = [.. from.Where(IsAlive)];
        if (from.Length == 0)
        {
            return;
        }
        int joiner = plan.Afterwards;
        _disk?.Resize(LargeDiskMebibytes);
        string expected = isReplaced && from[0] == 0 ? ChaosVersions.Second : ChaosVersions.First;
        bool follows = plan.World == ChaosWorld.Followed && from[0] == 1;
        for (long start = Stopwatch.GetTimestamp(); ;)
        {
            await using Engine join = Engine.StartAs(stage.Network.On(ChaosPlan.MostHolders + joiner),
                ["join", .. from.SelectMany(holder => (string[])["--metas-url", _holders[holder].MetasUrl]), "--transport", "tcp", "--to", "dir:" + PlaceOf(joiner), "--require-verify", "--json", .. Access]);
            (await join.EndAsync()).Succeeded();
            string version = stage.Versions.NameOf(PlaceOf(joiner));
            Assert.Empty(PartsOf(joiner));
            expected = follows ? (isReplaced && IsAlive(0) ? ChaosVersions.Second : version) : expected;
            if (!follows || version == expected || Stopwatch.GetElapsedTime(start) > Engine.Patience)
            {
                Assert.Equal(expected, version);
                _told.Add($"afterwards {version}");
                return;
            }
        }
    }

    // Connections of hosts that were cut off end by their timeouts, and leases with their conversations.
    private async Task<Figures> SettleAsync(int holder, Figures before)
    {
        for (long start = Stopwatch.GetTimestamp(); ;)
        {
            int leases = await _controls[holder].CountLeasesAsync();
            Figures now = Figures.Read(_holders[holder].Engine.ProcessId, stage.Temp.Path);
            bool isSettled = leases == 0 && now.Descriptors <= before.Descriptors + MostDescriptorsMore && now.Threads <= before.Threads + MostThreadsMore && now.OwnBytes <= before.OwnBytes + MostBytesMore;
            if (isSettled)
            {
                return now;
            }
            Assert.True(Stopwatch.GetElapsedTime(start) < Engine.Patience, $"holder {holder} had {before} and no lease, and now has {now} and {leases} leases");
            await Task.Delay(50, TestContext.Current.CancellationToken);
        }
    }

    private bool IsAlive(int holder) => holder < _holders.Count && !_killed.Contains(_holders[holder].Engine);

    private string PlaceOf(int joiner) => joiner == plan.SmallDisk ? Path.Combine(stage.Temp["disk"], $"copy{joiner}") : stage.Temp[$"copy{joiner}"];

    // What a join writes before it is done.
    private string[] PartsOf(int joiner)
        => [.. Directory.GetFileSystemEntries(Path.GetDirectoryName(PlaceOf(joiner))!).Select(Path.GetFileName).OfType<string>().Where(name => name.StartsWith($".copy{joiner}", StringComparison.Ordinal))];
}
