using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Relay;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Join;

/// <summary>A join's part in the swarm of one owner: asks the owner what to read, reads from others of it what they have, and offers them what is here.</summary>
/// <remarks>Begun by <see cref="EnterAsync"/>; reads from others between <see cref="Start"/> and <see cref="StopReadingAsync"/>; offers until it is disposed.</remarks>
internal sealed partial class SwarmMember : IAsyncDisposable
{
    // Of a joiner that others can stand in for: much sooner than of an owner.
    private static readonly TimeSpan s_stallTimeout = TimeSpan.FromSeconds(2);

    private static readonly TimeSpan s_haveWait = TimeSpan.FromSeconds(1);

    // How long the owner is not asked for what another may have.
    private static readonly TimeSpan s_meetTime = TimeSpan.FromSeconds(1);

    // Of one that was gone or had too many readers.
    private static readonly TimeSpan s_avoidTime = TimeSpan.FromSeconds(3);

    private readonly SwarmWork _work;
    private readonly PeerClient _owner;
    private readonly AccessToken? _key;
    private readonly RelayTerms _terms;
    private readonly ILogger _logger;
    private readonly SwarmAsker _asker;
    private readonly CancellationTokenSource _stop = new();
    private readonly CancellationTokenSource _stopReading = new();
    private readonly SemaphoreSlim _due = new(0);
    private readonly Lock _lock = new();
    private readonly Dictionary<IPEndPoint, TimeSpan> _avoid = [];
    private readonly Dictionary<IPEndPoint, Reading> _readings = [];
    private readonly List<string> _wrong = [];
    private Task _asking = Task.CompletedTask;
    private RelayServer? _server;
    private TransferRun? _run;
    private int _isAwake;

    /// <summary>A relay that is read, or about to be.</summary>
    private sealed class Reading
    {
        internal Task Task { get; set; } = Task.CompletedTask;

        internal TimeSpan Begun { get; } = SwarmTable.Now;

        internal bool HasTold { get; set; }         // something of what it has

        internal int Relay { get; set; } = -1;      // of the board; -1 until its offer is there

        internal int Source { get; set; } = -1;     // of the run
    }

    private SwarmMember(SwarmWork work, PeerClient owner, ulong address, AccessToken? key, RelayTerms terms)
    {
        _work = work;
        _owner = owner;
        _key = key;
        _terms = terms;
        _logger = terms.Logging.CreateLogger("CheckpointEngine.Relay");
        _asker = new SwarmAsker(work.Board, address, work.Layout);
    }

    /// <summary>Joiners that lack something, as the owner said last.</summary>
    internal int Incomplete { get; private set; }

    /// <summary>Whether the owner tells no more, or of another generation: others cannot find this one any more.</summary>
    internal bool IsAlone { get; private set; }

    /// <summary>Relays that sent something else than they should, one line each.</summary>
    internal IReadOnlyList<string> Wrong
    {
        get
        {
            lock (_lock)
            {
                return [.. _wrong];
            }
        }
    }

    /// <summary>Comes to the swarm of an owner.</summary>
    /// <param name="work">What is read of it.</param>
    /// <param name="link">The owner.</param>
    /// <param name="token">The owner's token, if it demands one.</param>
    /// <param name="address">An address of the checkpoint in its memory.</param>
    /// <param name="terms">How others are met, and may come.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="CheckpointEngineException">The owner knows nothing of swarms, or refuses.</exception>
    internal static async Task<SwarmMember> EnterAsync(SwarmWork work, OwnerLink link, AccessToken? token, ulong address, RelayTerms terms, CancellationToken cancellationToken)
    {
        PeerClient owner = await link.ConverseAsync(token, cancellationToken).ConfigureAwait(false);
        try
        {
            SwarmAnswer answer = await owner.AskSwarmAsync(new SwarmRequest(address, work.Layout, work.Units.Length, 0, 0, 0, 0, 0, work.Board.Done, []), cancellationToken).ConfigureAwait(false);
            return new SwarmMember(work, owner, address, answer.Key is null ? null : AccessToken.FromKey(answer.Key), terms) { Incomplete = answer.Incomplete };
        }
        catch
        {
            owner.Dispose();
            throw;
        }
    }

    /// <summary>Begins to offer what is here.</summary>
    /// <param name="addresses">Where each unit lies; 0 for one that is not offered.</param>
    /// <param name="buffers">The memory.</param>
    /// <exception cref="CheckpointEngineException">No port can be had.</exception>
    internal void Offer(ulong[] addresses, IEnumerable<MemoryBuffer> buffers)
    {
        var server = new RelayServer(_owner.LocalAddress, _key, new RelayOffer(_work.Layout, _work.Board, addresses), _terms);
        server.PutIn(buffers);
        _work.OfferedAt = addresses;
        _server = server;
    }

    /// <summary>Begins to ask, and to read from others.</summary>
    internal void Start(TransferRun run)
    {
        _run = run;
        _work.Progressed = Progressed;
        _asking = Task.Run(AskAsync);
    }

    /// <summary>Reads from nobody any more; every lane of the run has ended.</summary>
    internal async Task StopReadingAsync()
    {
        await _stopReading.CancelAsync().ConfigureAwait(false);
        Task[] readings;
        lock (_lock)
        {
            readings = [.. _readings.Values.Select(static reading => reading.Task)];
        }
        await Task.WhenAll(readings).ConfigureAwait(false);
    }

    /// <summary>Lets the memory be sealed: it is not read meanwhile.</summary>
    internal Task TakeOutAsync() => _server?.TakeOutAsync() ?? Task.CompletedTask;

    /// <summary>And lets it be read again.</summary>
    internal void PutIn(IEnumerable<MemoryBuffer> buffers) => _server?.PutIn(buffers);

    /// <summary>Whether anybody could still need what is offered here.</summary>
    internal bool IsNeeded => _server is { Offer.Readers: > 0 } || (_server is not null && !IsAlone && Incomplete > 0);

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync().ConfigureAwait(false);
        await StopReadingAsync().ConfigureAwait(false);
        _owner.Dispose();
        await _asking.ConfigureAwait(false);
        if (_server is not null)
        {
            await _server.DisposeAsync().ConfigureAwait(false);
        }
    }

    private void Progressed()
    {
        if (_asker.Pause(SwarmTable.Now) == TimeSpan.Zero)
        {
            Wake();
        }
    }

    private void Wake()
    {
        if (Interlocked.Exchange(ref _isAwake, 1) == 0)
        {
            _due.Release();
        }
    }

    private async Task AskAsync()
    {
        try
        {
            while (true)
            {
                (int relays, bool isMeeting) = Tidy();
                SwarmRequest request = _asker.Make(_server?.Port ?? 0, _server?.Offer.Readers ?? 0, relays, isMeeting) with { Speaks = _terms.Speaks, Demands = _terms.Demands };
                SwarmAnswer answer = await _owner.AskSwarmAsync(request, _stop.Token).ConfigureAwait(false);
                Incomplete = answer.Incomplete;
                _asker.Take(answer, SwarmTable.Now);
                _run!.RoomCame();
                Array.ForEach(answer.Members!, Meet);
                if (await _due.WaitAsync(_asker.Pause(SwarmTable.Now), _stop.Token).ConfigureAwait(false))
                {
                    Volatile.Write(ref _isAwake, 0);
                }
            }
        }
        catch (OperationCanceledException)
        {
            // Nobody wants to know any more.
        }
        catch (CheckpointEngineException lost)
        {
            IsAlone = true;
            if (_stop.IsCancellationRequested || _work.Board.Done == _work.Units.Length)
            {
                return;     // nothing is read any more
            }
            LogAlone(lost.Message);
            _work.Board.GiveAll();      // the owner itself may still be there
            _run!.RoomCame();
        }
    }

    // Leaves one relay for another if none has anything; how many there are, and whether one of them is about to say what it has.
    private (int Relays, bool IsMeeting) Tidy()
    {
        lock (_lock)
        {
            if (_asker.FindUseless(_readings.Count, SwarmTable.Now) is >= 0 and int useless)
            {
                foreach ((IPEndPoint member, Reading reading) in _readings)
                {
                    if (reading.Relay == useless && reading.Source >= 0)
                    {
                        _avoid[member] = SwarmTable.Now + s_avoidTime;
                        _run!.LoseRelay(reading.Source, new OperationCanceledException("it has nothing that is missing here"));
                    }
                }
            }
            return (_readings.Count, _readings.Values.Any(static reading => !reading.HasTold && SwarmTable.Now - reading.Begun < s_meetTime));
        }
    }

    private void Meet(IPEndPoint member)
    {
        lock (_lock)
        {
            if (_stopReading.IsCancellationRequested || _readings.Count >= SwarmAsker.MostRelays || _readings.ContainsKey(member) || (_avoid.TryGetValue(member, out TimeSpan until) && SwarmTable.Now < until))
            {
                return;
            }
            var reading = new Reading();
            _readings.Add(member, reading);
            reading.Task = Task.Run(() => ReadAsync(member, reading));
        }
    }

    private async Task ReadAsync(IPEndPoint member, Reading reading)
    {
        Exception? gone = null;
        try
        {
            var owner = new MetasOwner(OwnerLink.RelayRank, EndpointName.FromEndPoint(member).ToString(), null, []);
            using OwnerLink link = await OwnerLink.ConnectAsync(owner, _key, TransportChoice.Tcp, s_stallTimeout, _stopReading.Token, _terms.Client).ConfigureAwait(false);
            if (link.Peer is not PeerClient peer)
            {
                ThrowHelper.Throw(CheckpointError.NotSupported, $"{link.Name} is no CheckpointEngine");
                return;
            }
            ulong[] addresses = await peer.GetOfferAsync(_work.Layout, _work.Units.Length, _stopReading.Token).ConfigureAwait(false);
            reading.Relay = _work.Board.AddRelay();
            if (reading.Relay < 0)
            {
                return;
            }
            reading.Source = _run!.AddRelay(link, new RelayWork(_work, reading.Relay, addresses));
            if (reading.Source < 0)
            {
                return;
            }
            try
            {
                await FollowAsync(peer, reading).ConfigureAwait(false);
            }
            finally
            {
                _run.LoseRelay(reading.Source, new OperationCanceledException("it is not needed any more"));
                gone = _run.WhyGone(reading.Source);
                await _run.RemoveRelayAsync(reading.Source).ConfigureAwait(false);      // a lane leaves within the stall timeout
            }
        }
        catch (OperationCanceledException)
        {
            // Nothing is missing any more, or the join has failed.
        }
        catch (CheckpointEngineException failure)
        {
            gone = gone is null or OperationCanceledException ? failure : gone;
        }
        finally
        {
            Leave(member, reading, gone);
        }
    }

    private async Task FollowAsync(PeerClient peer, Reading reading)
    {
        int known = 0;
        while (_run!.WhyGone(reading.Source) is null && _work.Board.Done < _work.Units.Length)
        {
            int[] units = await peer.GetHaveAsync(_work.Layout, known, s_haveWait, _stopReading.Token).ConfigureAwait(false);
            known += units.Length;
            if (units.Length != 0)
            {
                _work.Board.RelayHas(reading.Relay, units);
                reading.HasTold = true;
                _run.RoomCame();
            }
            if (known > _work.Units.Length)
            {
                ThrowHelper.Throw(CheckpointError.ProtocolViolation, "it has more units than there are");
            }
        }
    }

    private void Leave(IPEndPoint member, Reading reading, Exception? gone)
    {
        if (reading.Relay >= 0)
        {
            _work.Board.RemoveRelay(reading.Relay);
        }
        bool isWrong = gone is CheckpointEngineException { Error: CheckpointError.DigestMismatch };
        if (isWrong)
        {
            LogWrong(gone!.Message);
        }
        else if (gone is not null)
        {
            LogLeft(member, gone.Message);
        }
        lock (_lock)
        {
            _readings.Remove(member);
            _avoid[member] = isWrong ? TimeSpan.MaxValue : SwarmTable.Now + s_avoidTime;
            if (isWrong)
            {
                _wrong.Add(gone!.Message);
            }
        }
        Wake();
    }

    [LoggerMessage(EventId = 1111, Level = LogLevel.Warning, Message = "the owner tells no more who has what, the rest is read from it alone: {Reason}")]
    private partial void LogAlone(string reason);

    [LoggerMessage(EventId = 1112, Level = LogLevel.Information, Message = "relay {Member} is left: {Reason}")]
    private partial void LogLeft(IPEndPoint member, string reason);

    [LoggerMessage(EventId = 1113, Level = LogLevel.Warning, Message = "a relay is read no more: {Reason}")]
    private partial void LogWrong(string reason);
}
