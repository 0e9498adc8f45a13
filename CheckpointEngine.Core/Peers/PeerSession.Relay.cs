using System.Buffers.Binary;
using System.Diagnostics;
using System.Net;
using CheckpointEngine.Internal;
using CheckpointEngine.Relay;

namespace CheckpointEngine.Peers;

// What joiners of one swarm ask their owner, and each other.
internal sealed partial class PeerSession
{
    /// <summary>The most units of one answer to <see cref="PeerMessage.Have"/>.</summary>
    internal const int MaxUnitsPerAnswer = 16_384;

    /// <summary>The longest that such a request is kept waiting, in milliseconds.</summary>
    internal const uint MaxHaveMs = 10_000;

    internal const int LayoutBytes = 16;

    internal const int HaveRequestBytes = LayoutBytes + 8;

    // A joiner has one in each conversation.
    private const int MaxPlaces = 16;

    // Units come by the thousand a second: whoever waits for them takes some at a time.
    private static readonly TimeSpan s_gather = TimeSpan.FromMilliseconds(10);

    private readonly Dictionary<UInt128, SwarmPlace> _places = [];
    private RelayOffer? _offer;                 // that this peer reads
    private long _offerTaken;                   // Stopwatch.GetTimestamp()

    private void LeaveSwarms()
    {
        foreach (SwarmPlace place in _places.Values)
        {
            place.Dispose();
        }
        _places.Clear();
        LeaveOffer();
    }

    private void LeaveOffer()
    {
        if (_offer is not null)
        {
            _offer.Leave();
            _offer = null;
            _options.Audit?.RelayEnded(Peer, Stopwatch.GetElapsedTime(_offerTaken));
        }
    }

    // Request: SwarmRequest. Answer: SwarmAnswer.
    private ValueTask AnswerSwarmAsync(byte[] payload, CancellationToken cancellationToken)
    {
        if (!SwarmRequest.TryDecode(payload, out SwarmRequest request))
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation, "a swarm request that is malformed or beyond a limit");
        }
        if (!_places.TryGetValue(request.Layout, out SwarmPlace? place))
        {
            IPAddress? from = (_socket.RemoteEndPoint as IPEndPoint)?.Address;
            if (_places.Count == MaxPlaces || from is null || _responder.EnterSwarm(request.Address, request.Layout, request.Units, from) is not SwarmPlace entered)
            {
                ThrowHelper.Throw(CheckpointError.Refused, "no such checkpoint is read here by several, or it is being changed");
                return ValueTask.CompletedTask;
            }
            _places.Add(request.Layout, place = entered);
        }
        if (place.Ask(request) is not SwarmAnswer answer)
        {
            ThrowHelper.Throw(CheckpointError.Superseded, "the checkpoint was taken away or is being changed; fetch the metas anew");
            return ValueTask.CompletedTask;
        }
        return WriteAsync(PeerMessage.Swarm, (answer with { Key = _responder.SwarmKey }).ToBytes(), cancellationToken);
    }

    // Request: the layout (u128). Answer: the address of each unit (u64), 0 for one that is never offered.
    private ValueTask AnswerOfferAsync(byte[] payload, CancellationToken cancellationToken)
    {
        if (payload.Length != LayoutBytes)
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation, "an offer request of the wrong length");
        }
        RelayOffer? offer = _responder.FindOffer(BinaryPrimitives.ReadUInt128LittleEndian(payload));
        if (offer is null)
        {
            ThrowHelper.Throw(CheckpointError.NotFound, "nothing is offered of that");
        }
        if (offer != _offer)
        {
            if (!offer.TryEnter())
            {
                ThrowHelper.Throw(CheckpointError.Busy, $"{Swarm.MostReaders} others read from here already");
            }
            LeaveOffer();
            (_offer, _offerTaken) = (offer, Stopwatch.GetTimestamp());
            _options.Audit?.RelayTaken(Peer, offer.Addresses.Length);
        }
        byte[] answer = new byte[8 * offer.Addresses.Length];
        for (int unit = 0; unit < offer.Addresses.Length; unit++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(answer.AsSpan(8 * unit), offer.Addresses[unit]);
        }
        return WriteAsync(PeerMessage.Offer, answer, cancellationToken);
    }

    // Request: the layout (u128), how many units of the log are known (u32), milliseconds to wait for more (u32). Answer: the units (u32 each) that came next.
    private async ValueTask AnswerHaveAsync(byte[] payload, CancellationToken cancellationToken)
    {
        if (payload.Length != HaveRequestBytes)
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation, "a have request of the wrong length");
        }
        int known = (int)Math.Min(BinaryPrimitives.ReadUInt32LittleEndian(payload.AsSpan(LayoutBytes)), SwarmRequest.MostUnits);
        if (_offer is not RelayOffer offer || offer.Layout != BinaryPrimitives.ReadUInt128LittleEndian(payload))
        {
            ThrowHelper.Throw(CheckpointError.NotFound, "the offer was not asked for");
            return;
        }
        uint waitMs = Math.Min(BinaryPrimitives.ReadUInt32LittleEndian(payload.AsSpan(LayoutBytes + 4)), MaxHaveMs);
        if (offer.Board.Logged <= known && waitMs != 0)
        {
            using var wait = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
            wait.CancelAfter(TimeSpan.FromMilliseconds(waitMs));
            try
            {
                await offer.Board.WaitForLogAsync(known, wait.Token).ConfigureAwait(false);
                await Task.Delay(s_gather, cancellationToken).ConfigureAwait(false);
            }
            catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
            {
                // Nothing has come: that is the answer.
            }
        }
        await WriteAsync(PeerMessage.Have, Encode(offer.Board.LogFrom(Math.Min(known, offer.Board.Logged)).Span), cancellationToken).ConfigureAwait(false);
    }

    private static byte[] Encode(ReadOnlySpan<int> units)
    {
        units = units[..Math.Min(units.Length, MaxUnitsPerAnswer)];
        byte[] answer = new byte[4 * units.Length];
        for (int i = 0; i < units.Length; i++)
        {
            BinaryPrimitives.WriteInt32LittleEndian(answer.AsSpan(4 * i), units[i]);
        }
        return answer;
    }
}
