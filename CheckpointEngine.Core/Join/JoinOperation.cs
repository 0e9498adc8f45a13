using System.Diagnostics;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Planning;
using CheckpointEngine.Relay;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Local;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Join;

/// <summary>What a join has brought into memory, not yet visible to anybody.</summary>
/// <param name="Checkpoint">The checkpoint; whoever gets it owns it. Null when the destination was not memory.</param>
/// <param name="Digests">Its digests, all of them; null when they are still to be made.</param>
/// <param name="Report">What was done.</param>
/// <param name="Relay">What offers it to others of its swarm; whoever frees the memory ends it before. Null when there is none.</param>
internal sealed record JoinOutcome(HeldCheckpoint? Checkpoint, CheckpointDigests? Digests, JoinReport Report, JoinRelay? Relay);

/// <summary>One join, from metas to bytes that are complete and checked.</summary>
internal sealed partial class JoinOperation : IDisposable
{
    private const string SharedMapping = "shared-mapping";

    private readonly CheckpointMetas _metas;
    private readonly JoinOptions _options;
    private readonly AccessToken? _token;
    private readonly TlsClientOptions _tls;
    private readonly DigestAlgorithm _ownDigest;
    private readonly LocalPeers _localPeers;
    private readonly PinMode _pin;
    private readonly HoldMode _hold;
    private readonly ILoggerFactory _loggerFactory;
    private readonly ILogger _logger;
    private readonly List<string> _warnings = [];
    private readonly Func<RdmaJoin> _makeRdma;
    private readonly Func<MooncakeJoin> _makeMooncake;
    private RdmaJoin _rdma;             // of this attempt
    private MooncakeJoin _mooncake;
    private IJoinDestination? _kept;    // of the attempt before
    private bool _isConnected;          // this attempt has all the owners that it needs
    private readonly JoinArrival? _arrival;
    private readonly EarlierVersion? _earlier;
    private TensorsDestination? _tensors;
    private BucketPlan? _buckets;

    /// <param name="metas">Who holds what.</param>
    /// <param name="options">What to read and where to put it.</param>
    /// <param name="server">The server's options.</param>
    /// <param name="openRdma">Opens the RDMA plane.</param>
    /// <param name="earlier">An earlier version of the checkpoint; disposed of when it is of no more use.</param>
    /// <param name="arrival">Who takes tensors out of it; null: nobody before its end.</param>
    internal JoinOperation(CheckpointMetas metas, JoinOptions options, ParameterServerOptions server, RdmaPlaneOpener openRdma, JoinArrival? arrival = null, EarlierVersion? earlier = null)
    {
        _earlier = earlier;
        _arrival = arrival;
        _makeMooncake = () => new MooncakeJoin(server);
        _mooncake = _makeMooncake();
        _metas = metas;
        _options = options;
        _token = server.Token;
        _tls = server.ClientTls;
        _ownDigest = server.Digest;
        _localPeers = server.LocalPeers;
        _pin = server.Pin;
        _hold = server.Hold;
        _loggerFactory = server.LoggerFactory;
        _logger = _loggerFactory.CreateLogger("CheckpointEngine.Join");
        _makeRdma = () => new RdmaJoin(openRdma, _logger);
        _rdma = _makeRdma();
    }

    /// <summary>On what terms it reads together with others; asked for if it does.</summary>
    internal Func<RelayTerms>? MakeRelayTerms { get; init; }

    internal async Task<JoinOutcome> RunAsync(IProgress<JoinProgress>? progress, CancellationToken cancellationToken)
    {
        var clock = new JoinPhaseClock();
        progress?.Report(new JoinProgress(0, 0, 0, "plan"));
        CheckpointMetas metas = _metas.WithoutEmptyOwners();
        int attempts = 0;           // that began to read, or found another generation
        long lostSince = 0;
        while (true)
        {
            try
            {
                _isConnected = false;
                return await RunAsync(metas, clock, progress, cancellationToken).ConfigureAwait(false);
            }
            catch (CheckpointEngineException lost) when (MayAskAgain(lost))
            {
                lostSince = _isConnected || lostSince == 0 ? Stopwatch.GetTimestamp() : lostSince;
                if (await AskAgainAsync(metas, lost, AskTimeLeft(lostSince), cancellationToken).ConfigureAwait(false) is not CheckpointMetas now)
                {
                    throw;
                }
                if (_isConnected || !now.HasSameOwners(metas))
                {
                    if (++attempts == MostAttempts)
                    {
                        throw;
                    }
                    Warn($"went on with the metas of now: {lost.Message}");
                }
                metas = now;
            }
        }
    }

    private TimeSpan AskTimeLeft(long lostSince)
        => _options.AskTimeout == Timeout.InfiniteTimeSpan ? TimeSpan.MaxValue : _options.AskTimeout - Stopwatch.GetElapsedTime(lostSince);

    private async Task<JoinOutcome> RunAsync(CheckpointMetas metas, JoinPhaseClock clock, IProgress<JoinProgress>? progress, CancellationToken cancellationToken)
    {
        while (true)
        {
            TransferPlan plan = MakePlan(metas);
            ReplicaTable? table = ReplicaTable.TryMake(plan);
            if (table?.FindDifference() is (int differs, int reference, int tensor))
            {
                string what = $"{NameOf(plan, differs)}: it is no replica: its tensor '{plan.Tensors.GetName(tensor)}' differs from that of {NameOf(plan, reference)}";
                if (plan.OwnerBytes[differs] != 0 && table.StandInsOf(differs).Length == 0)
                {
                    ThrowHelper.Throw(CheckpointError.InvalidData, $"plan: {what}; these owners do not hold the same checkpoint");
                }
                Warn($"went on without {what}");
                metas = metas.Without(owner => owner == differs);
                continue;
            }
            var links = new OwnerLink?[plan.Metas.Owners.Length];
            var failures = new Exception?[links.Length];
            try
            {
                await ConnectAsync(plan, table, links, failures, cancellationToken).ConfigureAwait(false);
                if (Array.TrueForAll(failures, static failure => failure is null))
                {
                    _isConnected = true;
                    double planSeconds = clock.Mark();
                    return await RunAsync(plan, table is null ? null : new OwnerReplicas(table, plan, links), links, planSeconds, progress, cancellationToken).ConfigureAwait(false);
                }
            }
            finally
            {
                foreach (OwnerLink? link in links)
                {
                    link?.Dispose();
                }
            }
            // Somebody stands in for each of them: plan anew without them.
            for (int owner = 0; owner < failures.Length; owner++)
            {
                if (failures[owner] is Exception failure)
                {
                    Warn($"went on without {NameOf(plan, owner)}: {failure.Message}");
                }
            }
            metas = metas.Without(owner => failures[owner] is not null);
        }
    }

    private void Warn(string remark)
    {
        _warnings.Add(remark);
        LogRemark(_options.CheckpointName, remark);
    }

    private TransferPlan MakePlan(CheckpointMetas metas)
    {
        metas.ValidateForLoading();
        TensorFilter filter = _options.Destination == JoinDestinationKind.Tensors
            ? new TensorFilter(_options.Include, _options.Exclude, _options.Tensors!.Table)
            : new TensorFilter(_options.Include, _options.Exclude);
        TransferPlan plan = TransferPlanner.Plan(metas, filter);
        switch (_options.Destination)
        {
            case JoinDestinationKind.Memory:
                if (_options.Copy || _options.Transport is TransportChoice.Tcp or TransportChoice.Mooncake)
                {
                    MemoryDestination.ThrowIfBeyondHost(plan, static _ => false);      // before anybody is asked for anything
                }
                break;
            case JoinDestinationKind.Tensors:
                (_tensors, plan) = TensorsDestination.Make(plan, _options.Tensors!);
                break;
            case JoinDestinationKind.Buckets:
                _buckets = new BucketPlan(plan, _options.BucketBytes);
                plan = _buckets.Plan;
                break;
        }
        return plan;
    }

    public void Dispose()
    {
        _rdma.Dispose();
        _mooncake.Dispose();
        _kept?.Dispose();
    }

    private static OwnerPlane[] PlanesOf(OwnerLink?[] links) => [.. links.OfType<OwnerLink>().Select(link => link.Plane)];

    private async Task<JoinOutcome> RunAsync(TransferPlan plan, OwnerReplicas? replicas, OwnerLink?[] links, double planSeconds, IProgress<JoinProgress>? progress, CancellationToken cancellationToken)
    {
        if (_options.Destination == JoinDestinationKind.Memory)
        {
            MemoryDestination.ThrowIfBeyondHost(plan, owner => links[owner] is { IsAttached: true });      // before anything is made whose size the metas decide
        }
        // What is attached to is read only if its bytes are to be checked: a read of the whole would be the time that attaching spares.
        bool IsRead(int owner) => links[owner] is { IsAttached: false } || _options.RequireVerify;
        bool isWhole = false;
        bool skipsAttached = Array.Exists(links, link => link is { IsAttached: true }) && !_options.RequireVerify;
        DigestVerifier? verifier = _options.Verify ? new DigestVerifier(plan, links, IsRead, replicas) : null;
        using var fetchStop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        Task fetch = verifier?.FetchAsync(fetchStop.Token) ?? Task.CompletedTask;
        Task<IReadOnlyList<SideFile>> sideFiles = FetchSideFilesAsync(plan, replicas, links, fetch, fetchStop.Token);
        IJoinDestination? destination = null;
        IJoinDestination? kept = null;
        JoinRelay? relay = null;
        bool hasEnded = false;
        async Task EndAsync(int owner)
        {
            if (links[owner] is not OwnerLink link || replicas?.WhyGone(owner) is not null)
            {
                return;
            }
            try
            {
                await link.EndAsync(cancellationToken).ConfigureAwait(false);
            }
            catch (CheckpointEngineException failure) when (isWhole && replicas?.TryDrop(owner, failure) == true)
            {
                // Every byte is what the one that vouches says it should be, whoever it came from.
            }
        }
        try
        {
            var rounds = new List<JoinRound>();
            var transports = new Dictionary<string, long>();
            var pairs = new Dictionary<string, long>();
            string? unverified = _options.Verify ? null : "disabled";
            long reused = 0;
            long retried = 0;
            long relayed = 0;
            JoinPhases phases = default;
            for (int round = 0; round < Math.Max(1, _options.Repeat); round++)
            {
                long roundStart = Stopwatch.GetTimestamp();
                var clock = new JoinPhaseClock();
                if (destination is null)
                {
                    progress?.Report(new JoinProgress(0, plan.DataBytes, 0, "allocate"));
                    destination = MakeDestination(plan, links, verifier);
                    RegisterWithDevices(destination, links);
                    _mooncake.Register(destination);
                    if (_arrival?.Begin is not null && (destination as MemoryDestination)?.Announce(verifier) is ArrivingCheckpoint arriving)
                    {
                        arriving.Begin(fetch);
                        _arrival.Begin(arriving);
                    }
                }
                double allocate = clock.Mark();
                if (_arrival is not null && Enumerable.Range(0, links.Length).Any(IsRead))
                {
                    await _arrival.Ready.WaitAsync(cancellationToken).ConfigureAwait(false);
                    _ = clock.Mark();
                }

                relay ??= await TryEnterRelayAsync(plan, replicas, links, IsRead, destination, verifier, cancellationToken).ConfigureAwait(false);
                ReadUnit[]?[]? left = null;
                if (round == 0 && verifier is not null && MakeSeed(plan, destination) is IJoinSeed seed)
                {
                    progress?.Report(new JoinProgress(0, plan.DataBytes, 0, "reuse"));
                    await fetch.ConfigureAwait(false);
                    (left, reused) = await SeedPass.RunAsync(plan, IsRead, destination, verifier, seed, relay?.Works, cancellationToken).ConfigureAwait(false);
                }
                _earlier?.Dispose();
                if (left is not null)
                {
                    relay?.TakePresent(left);
                }
                var run = new TransferRun(plan, links, destination, verifier, _options.Lanes, IsRead, left, replicas, relay?.Works);
                for (int i = 0; i < links.Length; i++)
                {
                    int owner = i;
                    links[owner]?.Lease?.WhenLost(lost => run.Lose(owner, lost));
                }
                if ((replicas is not null || relay is not null) && verifier is not null)
                {
                    verifier.ExpectedCame += run.RoomCame;
                }
                relay?.Start(run);
                await RunUntilFetchFailsAsync(run, fetch, destination as BucketDestination, progress, cancellationToken).ConfigureAwait(false);
                await (relay?.StopReadingAsync() ?? Task.CompletedTask).ConfigureAwait(false);
                relayed = run.RelayedBytes;
                transports = run.BytesByTransport;
                pairs = run.BytesByPair;
                retried += run.LostBytes;
                double transfer = clock.Mark();

                progress?.Report(new JoinProgress(plan.DataBytes, plan.DataBytes, 0, "verify"));
                await fetch.ConfigureAwait(false);
                unverified = verifier is null ? unverified : verifier.Conclude(IsRead) ?? (skipsAttached ? SharedMapping : null);
                double verify = clock.Mark();
                phases = new JoinPhases(0, planSeconds, allocate, transfer, verify, 0);
                rounds.Add(new JoinRound(Stopwatch.GetElapsedTime(roundStart).TotalSeconds, phases));
            }
            if (unverified is not null && _options.RequireVerify)
            {
                throw new CheckpointEngineException(CheckpointError.DigestMismatch,
                    $"join: not every byte could be checked ({unverified}), and --require-verify asks for that; serve the checkpoint with digests, or leave the flag out");
            }
            if (unverified is not null && _options.Verify)
            {
                LogUnverified(_options.CheckpointName, unverified);
            }

            isWhole = unverified is null;
            var writeClock = new JoinPhaseClock();
            progress?.Report(new JoinProgress(plan.DataBytes, plan.DataBytes, 0, "write"));
            IReadOnlyList<SideFile> files = await sideFiles.ConfigureAwait(false);
            await Task.WhenAll(Enumerable.Range(0, links.Length).Select(EndAsync)).ConfigureAwait(false);
            for (int owner = 0; owner < links.Length; owner++)
            {
                if (replicas?.WhyGone(owner) is Exception reason)
                {
                    Warn($"went on without {links[owner]!.Name}: {reason.Message}");
                }
            }
            long attachedBytes = Enumerable.Range(0, links.Length).Sum(owner => links[owner] is { IsAttached: true } ? plan.OwnerBytes[owner] : 0);
            if (attachedBytes != 0)
            {
                transports[LocalReadLane.Name] = transports.GetValueOrDefault(LocalReadLane.Name) + (_options.RequireVerify ? 0 : attachedBytes);
            }
            HeldCheckpoint? held = null;
            CheckpointDigests? digests = null;
            _rdma.Dispose();            // what is registered cannot be sealed
            _mooncake.Unregister();
            cancellationToken.ThrowIfCancellationRequested();
            if (destination is MemoryDestination memory)
            {
                memory.Arriving?.End(null);
                held = await ToCheckpointAsync(memory, files, relay).ConfigureAwait(false);
                digests = unverified is null ? verifier?.TakeReceived(_ownDigest) : null;
            }
            else if (destination is DirectoryDestination directory && directory.Complete(files) is string remark)
            {
                _warnings.Add(remark);
            }
            phases = phases with { Write = writeClock.Mark() };
            _warnings.AddRange(relay?.Wrong.Select(static wrong => $"a relay was left: {wrong}") ?? []);
            hasEnded = true;
            return new JoinOutcome(held, digests, new JoinReport
            {
                Checkpoint = _options.CheckpointName,
                Bytes = plan.DataBytes,
                Tensors = plan.Tensors.Count,
                Buckets = _buckets?.Count ?? 0,
                Seconds = (rounds.Count == 1 ? planSeconds : 0) + rounds[^1].Seconds + phases.Write,
                Verified = unverified is null,
                UnverifiedReason = unverified,
                Transports = transports,
                RdmaPairs = pairs,
                AttachedBytes = attachedBytes,
                ReusedBytes = reused,
                RetriedBytes = retried,
                RelayedBytes = relayed,
                Planes = PlanesOf(links),
                Phases = phases,
                Rounds = rounds,
                Warnings = _warnings,
            }, relay);
        }
        catch (Exception failed)
        {
            Exception failure = failed is CheckpointEngineException { Error: CheckpointError.DigestMismatch } ? await WhySupersededAsync(links, replicas).ConfigureAwait(false) ?? failed : failed;
            (destination as MemoryDestination)?.Arriving?.End(failure);
            if (failure is CheckpointEngineException lost && MayAskAgain(lost))
            {
                kept = destination is MemoryDestination or DirectoryDestination ? destination : null;
            }
            if (failure != failed)
            {
                throw failure;
            }
            throw;
        }
        finally
        {
            await fetchStop.CancelAsync().ConfigureAwait(false);
            await Task.WhenAll(fetch, sideFiles).ContinueWith(static ended => _ = ended.Exception, TaskScheduler.Default).ConfigureAwait(false);
            if (relay is not null && !hasEnded)
            {
                await relay.DisposeAsync().ConfigureAwait(false);      // it reads out of the destination
            }
            _rdma.Dispose();            // before what it holds registered
            _mooncake.Unregister();
            if (kept is not null)
            {
                _mooncake.Dispose();
                (_kept, _rdma, _mooncake) = (kept, _makeRdma(), _makeMooncake());
            }
            else
            {
                destination?.Dispose();
            }
        }
    }

    // A fetch that fails (wrong digests in the metas, an owner that is gone) must not wait for gigabytes to arrive first.
    private static async Task RunUntilFetchFailsAsync(TransferRun run, Task fetch, BucketDestination? buckets, IProgress<JoinProgress>? progress, CancellationToken cancellationToken)
    {
        Task consumed = buckets?.Start(run, fetch) ?? Task.CompletedTask;
        Task transfer = run.RunAsync(consumed, progress, cancellationToken);
        _ = fetch.ContinueWith(static (failed, state) => ((TransferRun)state!).Fail(failed.Exception!.InnerException!), run,
            CancellationToken.None, TaskContinuationOptions.OnlyOnFaulted | TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
        try
        {
            await transfer.ConfigureAwait(false);
        }
        catch
        {
            buckets?.Stop();
            await consumed.ConfigureAwait(false);       // a handler may be at work, and what it has is about to be freed
            throw;
        }
    }

    [LoggerMessage(EventId = 1101, Level = LogLevel.Warning, Message = "join {Checkpoint}: {Remark}")]
    private partial void LogRemark(string checkpoint, string remark);

    [LoggerMessage(EventId = 1102, Level = LogLevel.Warning, Message = "join {Checkpoint}: not every byte could be checked: {Reason}")]
    private partial void LogUnverified(string checkpoint, string reason);
}
