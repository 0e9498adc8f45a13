using System.Buffers;
using System.Diagnostics;
using CheckpointEngine.Internal;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Transfer.Rdma;

internal sealed partial class RdmaReadLane
{
    // Who listens may be busy with others: ours closes beyond 256 at once, Mooncake's serves one after the other.
    private const int Tries = 3;
    private static readonly TimeSpan s_retryPause = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan s_endTimeout = TimeSpan.FromSeconds(1);
    private static readonly string s_process = Guid.NewGuid().ToString("N");
    private static int s_lanes;
    private string _ownPath = "";

    // To one of ours a name of its own for every lane; a plain peer has one endpoint for a pair of devices, and may ask at its name.
    private string OwnPath() => _owner.IsOurs ? $"{s_process}-{Interlocked.Increment(ref s_lanes)}@{_nic.Name}" : _owner.Plane.NicPath(_nic, _owner.Name);

    private async Task ConnectAsync(RdmaQueuePairs pairs, GidTableEntry own)
    {
        string peerPath = $"{_owner.ServerName}@{_owner.DeviceName(_remote)}";
        var request = new RdmaHandshake
        {
            LocalNicPath = _ownPath = OwnPath(),
            PeerNicPath = peerPath,
            QueuePairs = pairs.Numbers,
            LocalGid = own.WireText,
            LocalLid = (uint)_nic.Port.Lid,
            ReadyAck = _owner.IsOurs ? null : false,
        };
        if (_owner.Key is RdmaKey key)
        {
            request = request with { Proof = RdmaProof.Sign(key, RdmaProof.Purpose.Connect, key.TakeSequence(), request) };
        }
        long start = Stopwatch.GetTimestamp();
        RdmaHandshake reply = await ExchangeAsync(request).ConfigureAwait(false);
        ExchangeTime += Stopwatch.GetElapsedTime(start);
        if (reply.ReplyMessage.Length != 0)
        {
            ThrowHelper.Throw(CheckpointError.Refused, $"connect {_nic.Name} to {peerPath}: it refuses: '{HandshakeJson.Printable(reply.ReplyMessage)}'");
        }
        if (_owner.Key is RdmaKey shared && reply.Proof?.Proves(shared, RdmaProof.Purpose.Answer, reply, request.Proof) != true)
        {
            ThrowHelper.Throw(CheckpointError.Refused, $"connect {_nic.Name} to {peerPath}: it does not prove that it gave the lease: somebody else answers in its place, or changes what it says");
        }
        if (reply.QueuePairs.Length != pairs.Numbers.Length)
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation,
                $"connect {_nic.Name} to {peerPath}: it answers with {reply.QueuePairs.Length} queue pairs to {pairs.Numbers.Length}; both ends need the same MC_NUM_QP_PER_EP");
        }
        if (reply.LocalNicPath != request.PeerNicPath || reply.PeerNicPath != request.LocalNicPath)
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation, $"connect {_nic.Name} to {peerPath}: it answers for another pair of devices");
        }
        (byte[] gid, uint lid) = _owner.DeviceAddress(_remote);
        if (reply.LocalGid.Length != 0)
        {
            lid = reply.LocalLid;
            if (!RdmaHandshake.TryParseGid(reply.LocalGid, gid = new byte[GidTableEntry.GidLength]))
            {
                ThrowHelper.Throw(CheckpointError.ProtocolViolation, $"connect {_nic.Name} to {peerPath}: '{HandshakeJson.Printable(reply.LocalGid)}' is no GID");
            }
        }
        start = Stopwatch.GetTimestamp();
        pairs.Connect(own, reply.QueuePairs, gid, lid, peerPath);
        VerbsTime += Stopwatch.GetElapsedTime(start);
        if (request.ReadyAck is not null && reply.ReadyAck is not null)
        {
            RdmaHandshake acknowledged = await ExchangeAsync(request with { ReadyAck = true }).ConfigureAwait(false);
            if (acknowledged.ReplyMessage.Length != 0)
            {
                ThrowHelper.Throw(CheckpointError.Refused,
                    $"connect {_nic.Name} to {peerPath}: it refuses the acknowledgement: '{HandshakeJson.Printable(acknowledged.ReplyMessage)}'");
            }
        }
    }

    private async Task<RdmaHandshake> ExchangeAsync(RdmaHandshake message)
    {
        const string Operation = "connecting queue pairs with";
        var body = new ArrayBufferWriter<byte>();
        message.Write(body);
        // A plain peer's port serves one at a time, and gives each up to 5 s.
        var options = new HandshakeClientOptions { ReplyTimeout = _owner.StallTimeout };
        byte[]? reply = null;
        for (int left = Tries - 1; reply is null; left--)
        {
            try
            {
                reply = await HandshakeClient.ExchangeAsync(_owner.Name, Operation, MessageType.Connection, body.WrittenMemory, options, _abort.Token).ConfigureAwait(false);
            }
            catch (CheckpointEngineException busy) when (busy.Error == CheckpointError.Unreachable && left != 0)
            {
                await Task.Delay(s_retryPause, _abort.Token).ConfigureAwait(false);
            }
        }
        if (SegmentDescriptorReader.IsNull(reply))
        {
            ThrowHelper.Throw(CheckpointError.Refused,
                $"{Operation} {_owner.Name}: it refuses without a reason, as Mooncake before v0.3.12 does; check device names, and that this host can be reached from it");
        }
        return RdmaHandshake.Read(reply);
    }

    // Best effort: an owner that is not told finds out when it needs the room.
    private void TellEnd(uint[] numbers)
    {
        try
        {
            var body = new ArrayBufferWriter<byte>();
            var end = new RdmaHandshake
            {
                LocalNicPath = _ownPath,
                PeerNicPath = $"{_owner.ServerName}@{_owner.DeviceName(_remote)}",
                QueuePairs = numbers,
                IsEnd = true,
            };
            (_owner.Key is RdmaKey key ? end with { Proof = RdmaProof.Sign(key, RdmaProof.Purpose.End, key.TakeSequence(), end) } : end).Write(body);
            HandshakeClient.ExchangeAsync(_owner.Name, "ending queue pairs with", MessageType.Connection, body.WrittenMemory,
                new HandshakeClientOptions { ConnectTimeout = s_endTimeout, ReplyTimeout = s_endTimeout }).AsTask().GetAwaiter().GetResult();
        }
        catch (CheckpointEngineException)
        {
        }
    }
}
