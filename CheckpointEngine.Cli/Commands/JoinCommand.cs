using System.CommandLine;
using System.CommandLine.Parsing;
using System.Diagnostics;
using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Cli.Options;
using CheckpointEngine.Cli.Output;
using CheckpointEngine.Http.Telemetry;
using CheckpointEngine.Inference;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Telemetry;

namespace CheckpointEngine.Cli.Commands;

/// <summary><c>join</c>: reads a checkpoint out of its holders' memory.</summary>
internal sealed class JoinCommand : DocumentedCommand
{
    private const string DirectoryPrefix = "dir:";

    private static readonly TimeSpan s_relayTime = TimeSpan.FromSeconds(10);

    private readonly Option<string> _to = new("--to")
    {
        Description = "memory (default; dropped at exit unless --serve), dir:PATH (safetensors), or null (read, check, drop: to measure)",
        HelpName = "memory|dir:PATH|null",
        DefaultValueFactory = _ => "memory",
    };

    private readonly Option<string> _name = new("--checkpoint-name")
    {
        Description = "Its name here, never a selector; default join-checkpoint",
        HelpName = "NAME",
        DefaultValueFactory = _ => "join-checkpoint",
    };

    private readonly Option<bool> _weightsOnly = new("--weights-only") { Description = "Leave side files (config, tokenizer) where they are" };
    private readonly Option<bool> _serve = new("--serve") { Description = "Then hold and serve it; takes serve's options" };
    private readonly Option<bool> _noVerify = new("--no-verify") { Description = "Do not check the bytes against their owners' digests" };
    private readonly Option<bool> _requireVerify = new("--require-verify") { Description = "Fail unless every byte could be checked" };
    private readonly Option<int> _lanes = OptionRules.Integer("--lanes", "N", "Connections per owner; default: found out on the way", 0, 1024);
    private readonly Option<int> _repeat = OptionRules.Integer("--repeat", "N", "Read N times into the same memory, to measure it warm; default 1", 1, 1_000_000, 1);
    private readonly Option<TimeSpan?> _timeout = OptionRules.Seconds("--timeout", "The longest the whole join may take; default: no limit");
    private readonly Option<TimeSpan?> _stallTimeout = OptionRules.Seconds("--stall-timeout", "The longest an owner may send nothing; default 30");
    private readonly Option<bool> _copy = new("--copy") { Description = "With --to memory, copy what owners of this host offer to attach to" };
    private readonly Option<bool> _keepPartial = new("--keep-partial") { Description = "With dir:, keep what a failed join has written so far" };

    private readonly Option<TimeSpan?> _retryTimeout = OptionRules.Seconds("--retry-timeout",
        "How long to look at the metas URL for an owner that is lost, or for its next version, and then go on with what is here; default 10, 0: not at all", zeroAllowed: true);
    private readonly Option<bool> _follow = new("--follow") { Description = "Then wait for the next version at the URL, and join it too, until stopped; what has not changed is not read again" };

    private readonly Option<bool> _relay = new("--relay")
    {
        Description = "Read together with other joins that have this flag: each reads a part from the owners and the rest from the others, and offers them what it has",
    };

    private readonly Option<TimeSpan?> _relayTime = OptionRules.Seconds("--relay-time", "How long at most to stay at the end for others who are in the middle of it; default 10, 0: not at all", zeroAllowed: true);

    private readonly CommonOptions _common = new("Print one JSON document with bytes, seconds, phases; no progress");
    private readonly FilterOptions _filter;
    private readonly SourceOptions _source;
    private readonly CredentialOptions _credentials;
    private readonly HoldingOptions _holding;
    private readonly ListenOptions _listen;
    private readonly LimitOptions _limits;
    private readonly TelemetryOptions _telemetry;
    private readonly InferenceOptions _inference;

    public JoinCommand()
        : base("join", "Read a checkpoint out of its holders' memory, check every byte, and keep it, write it, or just measure.")
    {
        _filter = new FilterOptions(this);
        _source = new SourceOptions(this);
        _credentials = new CredentialOptions(this);
        _holding = new HoldingOptions(this);
        _listen = new ListenOptions(this, _holding, _serve, _relay);
        _limits = new LimitOptions(this);
        _telemetry = new TelemetryOptions(this);
        _inference = new InferenceOptions(this);
        AddGroup(_source.Group);
        AddGroup(new OptionGroup("Destination", [_to, _name, _serve, _follow, _keepPartial]));
        AddGroup(new OptionGroup("Choice", [.. _filter.Options, _weightsOnly]));
        AddGroup(_holding.NetworkGroup with
        {
            Options = [.. _holding.NetworkGroup.Options, _copy, _lanes, _noVerify, _requireVerify, _repeat, _timeout, _stallTimeout, _retryTimeout, _relay, _relayTime],
        });
        AddGroup(_inference.Group with { Title = "Then into an inference server" });
        AddGroup(_limits.Group);
        AddGroup(_credentials.Group);
        AddGroup(_telemetry.Group);
        AddGroup(_common.Group);
        AddGroup(_listen.Group with { Title = "With --serve: serving" });
        AddGroup(_holding.ServingGroup with { Title = "With --serve: holding" });
        Validators.Add(Validate);
    }

    public override string Usage => "(--metas-url URL… | --load-metas-file FILE) [options]";

    public override IReadOnlyList<Example> Examples =>
    [
        new("Write a model that another process holds into a directory that any loader of safetensors reads:",
            "checkpoint-engine join --metas-url http://10.0.0.5:19700/v1/metas --to dir:/dev/shm/qwen"),
        new("Become a holder oneself:",
            "checkpoint-engine join --metas-url http://10.0.0.5:19700/v1/metas --serve --listen http://127.0.0.1:19701"),
        new("Follow a trainer: hold each version that it publishes, and read only what has changed:",
            "checkpoint-engine join --metas-url http://10.0.0.5:19700/v1/metas --serve --follow"),
        new("From two holders of the same checkpoint, and from one of them when the other dies:",
            "checkpoint-engine join --metas-url http://10.0.0.5:19700/v1/metas --metas-url http://10.0.0.6:19700/v1/metas --to dir:/dev/shm/qwen"),
        new("Start many replicas at once behind one holder, which sends each byte about once:",
            "checkpoint-engine join --metas-url http://10.0.0.5:19700/v1/metas --relay --to dir:/dev/shm/qwen"),
        new("Bring it into a running vLLM, which reads it out of /dev/shm:",
            "checkpoint-engine join --metas-url http://10.0.0.5:19700/v1/metas --endpoint http://127.0.0.1:8000 --engine vllm-files"),
        new("Measure what the network gives:", "checkpoint-engine join --metas-url http://10.0.0.5:19700/v1/metas --to null --repeat 3"),
    ];

    public override IReadOnlyList<string> Notes =>
    [
        "Nothing is visible before all of it is there and checked; a join that fails or is interrupted leaves nothing behind, and what was in PATH before is untouched.",
        "Owners of the same host offer their memory itself: --to memory maps it read-only and copies nothing (--copy does); --require-verify checks it too.",
        "With --endpoint every byte must have been verified before the server is handed any; --no-verify hands it on unchecked.",
        "--to memory without --serve is dropped at exit: it shows that the bytes can be had, and how fast.",
    ];

    protected override async Task<int> RunAsync(ParseResult parsed)
    {
        using var signals = new ShutdownSignals();
        try
        {
            await JoinAsync(parsed, signals.Token).ConfigureAwait(false);
            return ExitCode.Done;
        }
        catch (Exception) when (signals.Received)
        {
            Stderr.Error("interrupted; nothing was kept");
            return signals.InterruptedExitCode;
        }
    }

    private async Task JoinAsync(ParseResult parsed, CancellationToken stop)
    {
        using var reload = new ReloadSignal();
        using StderrLogging logging = _common.CreateLogging(parsed, _limits, reload);
        using TelemetryExport? telemetry = _telemetry.Start(parsed, serves: parsed.GetValue(_serve));
        bool serve = parsed.GetValue(_serve);
        AccessToken? token = serve || parsed.GetValue(_follow) ? _credentials.WatchToken(parsed, reload, logging) : _credentials.ReadToken(parsed);
        MetasClientOptions client = _credentials.CreateClientOptions(parsed, token);
        TimeSpan limit = parsed.GetValue(_timeout) ?? Timeout.InfiniteTimeSpan;
        if (limit > TimeSpan.Zero && limit < client.Timeout)
        {
            client.Timeout = limit;
        }

        long started = Stopwatch.GetTimestamp();
        using Activity? whole = EngineTelemetry.Source.StartActivity("join from URL");       // the metas and the join in one trace
        using var follower = parsed.GetValue(_follow) ? new MetasFollower(_source.OnlyUrl(parsed)!, client) : null;
        CheckpointMetas metas = follower is null
            ? await _source.ReadAsync(parsed, client, stop).ConfigureAwait(false)
            : await follower.FetchAsync(stop).ConfigureAwait(false);
        TimeSpan fetched = Stopwatch.GetElapsedTime(started);

        IPAddress address = _holding.Address(parsed) ?? AnnouncedAddress.OfJoiner(metas);
        ParameterServerOptions serverOptions = _holding.CreateServerOptions(parsed, address, token, logging, _limits.ServerLimits(parsed));
        serverOptions.PeerTls = _listen.PeerTls(parsed);
        serverOptions.EncryptData = _listen.EncryptsData(parsed);
        serverOptions.ClientTls = _credentials.CreateTlsOptions(parsed);
        serverOptions.ClientTls.EncryptionRequired = _holding.Encrypts(parsed);
        await using var server = new ParameterServer(serverOptions);
        if (serve)
        {
            await server.StartAsync(stop).ConfigureAwait(false);   // before the bytes come: an address that cannot be had is told at once
        }
        bool json = _common.Json(parsed);
        JoinOptions options = CreateJoinOptions(parsed, client, limit, fetched);
        await JoinOnceAsync(parsed, server, metas, options, fetched, stop).ConfigureAwait(false);
        whole?.Stop();
        if (follower is null && !serve)
        {
            await FinishRelaysAsync(parsed, server, stop).ConfigureAwait(false);
            return;
        }
        using var end = CancellationTokenSource.CreateLinkedTokenSource(stop);
        Task follow = follower is null ? Task.CompletedTask : follower.RunAsync(async next =>
        {
            JoinOptions again = CreateJoinOptions(parsed, client, limit, TimeSpan.Zero);
            (again.Replace, again.EarlierCheckpoint) = (true, again.Destination == JoinDestinationKind.Memory ? again.CheckpointName : null);
            await JoinOnceAsync(parsed, server, next, again, TimeSpan.Zero, end.Token).ConfigureAwait(false);
        }, end.Token);
        if (serve)
        {
            var session = new HolderSession(_listen, _limits, parsed, token, client, telemetry, reload, logging);
            await session.RunAsync(server, json, stop).ConfigureAwait(false);
            await end.CancelAsync().ConfigureAwait(false);
        }
        await follow.ConfigureAwait(false);
    }

    // The join is over and told of: whoever asked for it has it.
    private async Task FinishRelaysAsync(ParseResult parsed, ParameterServer server, CancellationToken stop)
    {
        TimeSpan patience = parsed.GetValue(_relayTime) ?? s_relayTime;
        if (parsed.GetValue(_relay) && patience > TimeSpan.Zero)
        {
            try
            {
                await server.FinishRelaysAsync(patience, stop).ConfigureAwait(false);
            }
            catch (OperationCanceledException)
            {
                // What was joined is there all the same; the others read the rest from the owner.
            }
        }
    }

    private async Task JoinOnceAsync(ParseResult parsed, ParameterServer server, CheckpointMetas metas, JoinOptions options, TimeSpan fetched, CancellationToken stop)
    {
        bool json = _common.Json(parsed);
        if (_inference.IsGiven(parsed))
        {
            InferenceUpdateOptions inference = _inference.Create(parsed);
            (JoinReport joined, InferenceUpdateReport update) = await ProgressDisplay.OfJoin(json)
                .RunAsync(progress => server.JoinAndUpdateAsync(metas, options, inference, progress.Transfer, progress.Notes, stop)).ConfigureAwait(false);
            JoinPrinter.Print(joined, fetched.TotalSeconds, json, update);
            if (!json)
            {
                UpdatePrinter.Print(update, json);
            }
        }
        else
        {
            JoinReport report = await ProgressDisplay.OfJoin(json).RunAsync(progress => server.JoinAsync(metas, options, progress.Transfer, stop)).ConfigureAwait(false);
            JoinPrinter.Print(report, fetched.TotalSeconds, json);
        }
    }

    private JoinOptions CreateJoinOptions(ParseResult parsed, MetasClientOptions client, TimeSpan limit, TimeSpan spent)
    {
        string to = parsed.GetRequiredValue(_to);
        var options = new JoinOptions
        {
            CheckpointName = parsed.GetRequiredValue(_name),
            Destination = to == "memory" ? JoinDestinationKind.Memory : to == "null" ? JoinDestinationKind.Null : JoinDestinationKind.Directory,
            DirectoryPath = to.StartsWith(DirectoryPrefix, StringComparison.Ordinal) ? to[DirectoryPrefix.Length..] : null,
            Include = _filter.Include(parsed),
            Exclude = _filter.Exclude(parsed),
            WeightsOnly = parsed.GetValue(_weightsOnly),
            Verify = !parsed.GetValue(_noVerify),
            RequireVerify = parsed.GetValue(_requireVerify) || (_inference.IsGiven(parsed) && !parsed.GetValue(_noVerify)),
            Transport = _holding.Transport(parsed),
            Copy = parsed.GetValue(_copy),
            AttachFiles = _holding.AttachFiles(parsed),
            Lanes = parsed.GetValue(_lanes),
            Repeat = parsed.GetValue(_repeat),
            KeepPartial = parsed.GetValue(_keepPartial),
            Relay = parsed.GetValue(_relay),
        };
        options.AskTimeout = parsed.GetValue(_retryTimeout) ?? options.AskTimeout;
        if (options.AskTimeout > TimeSpan.Zero && _source.HasUrl(parsed))
        {
            options.AskForMetas = stop => _source.ReadAsync(parsed, client, stop);
        }
        if (limit > TimeSpan.Zero)
        {
            options.Timeout = limit > spent ? limit - spent : TimeSpan.FromMilliseconds(1);
        }
        if (parsed.GetValue(_stallTimeout) is { } stall)
        {
            options.StallTimeout = stall;
        }
        return options;
    }

    private void Validate(CommandResult result)
    {
        string to = result.GetValue(_to) ?? "memory";   // a validator sees no default values
        bool directory = to.StartsWith(DirectoryPrefix, StringComparison.Ordinal) && to.Length > DirectoryPrefix.Length;
        if (to is not ("memory" or "null") && !directory)
        {
            result.AddError($"--to: '{to}' is not memory, dir:PATH or null");
        }
        if (result.IsGiven(_noVerify) && result.IsGiven(_requireVerify))
        {
            result.AddError("--no-verify and --require-verify exclude each other");
        }
        if (result.IsGiven(_copy) && to != "memory")
        {
            result.AddError("--copy needs --to memory: elsewhere everything is copied");
        }
        if (result.IsGiven(_follow) && _source.OnlyUrl(result) is null)
        {
            result.AddError("--follow needs one --metas-url: there the next version is told");
        }
        if (result.IsGiven(_follow) && result.GetValue(_repeat) > 1)
        {
            result.AddError("--repeat measures, and --follow goes on: one of them");
        }
        if (result.IsGiven(_relay) && to == "null")
        {
            result.AddError("--relay needs --to memory or dir:PATH: what is dropped cannot be offered to others");
        }
        if (result.IsGiven(_relay) && result.GetValue(_repeat) > 1)
        {
            result.AddError("--repeat measures, and --relay reads from whoever is there: one of them");
        }
        if (result.IsGiven(_relayTime) && !result.IsGiven(_relay))
        {
            result.AddError("--relay-time needs --relay");
        }
        if (result.IsGiven(_keepPartial) && !directory)
        {
            result.AddError("--keep-partial needs --to dir:PATH");
        }
        if (_inference.FindLonely(result) is { } alone)
        {
            result.AddError($"{alone.Name} needs --endpoint");
        }
        if (_inference.IsGiven(result) && result.GetValue(_repeat) > 1)
        {
            result.AddError("--repeat measures, and --endpoint hands on: one of them");
        }
        if (_inference.IsGiven(result) && to != "memory")
        {
            result.AddError("--endpoint needs --to memory: that is what the server's workers are given");
        }
        if (result.IsGiven(_serve))
        {
            if (to != "memory")
            {
                result.AddError("--serve needs --to memory: only what is in memory can be served");
            }
        }
        else if (_listen.Group.Options.Concat(_holding.ServingGroup.Options).FirstOrDefault(option => result.IsGiven(option) && !(result.GetValue(_relay) && _listen.OfRelays.Contains(option))) is { } lonely)
        {
            result.AddError($"{lonely.Name} needs --serve{(_listen.OfRelays.Contains(lonely) ? " or --relay" : "")}");
        }
    }
}
