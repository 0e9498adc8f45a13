using System.Buffers;
using System.Buffers.Binary;
using CheckpointEngine.Internal;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Peers;

// What a peer may read until it gives it back or leaves: leases, queue pairs for them, memory of the host.
internal sealed partial class PeerSession
{
    // Request: an address (u64). Answer: LeaseAnswer.
    private ValueTask AnswerLeaseAsync(PeerMessage type, byte[] payload, CancellationToken cancellationToken)
    {
        if (payload.Length != 8)
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation, "a lease request of the wrong length");
        }
        ulong address = BinaryPrimitives.ReadUInt64LittleEndian(payload);
        ReadLease? lease = _leases.GetValueOrDefault(address);
        if (lease is null && type == PeerMessage.Lease)
        {
            if (_leases.Count >= _options.MaxLeases)
            {
                ThrowHelper.Throw(CheckpointError.Refused, $"one conversation has at most {_options.MaxLeases} leases");
            }
            if (_responder.TryLease(address, Peer) is ReadLease taken)
            {
                _leases.Add(address, lease = taken);
            }
        }
        LeaseAnswer told = lease?.Answer(_options.LeaseLifetime, _responder.Leases) ?? default;
        byte[] answer = (told.Generation == 0 ? told : told with { LaneKey = _responder.LaneKey }).ToBytes();
        if (lease is not null && type == PeerMessage.Release)
        {
            _leases.Remove(address);
            lease.End("released");
        }
        return WriteAsync(type, answer, cancellationToken);
    }

    // Request: the address of a lease (u64). Answer: RdmaKey's number and salt, and the segment's descriptor.
    private ValueTask AnswerRdmaAsync(byte[] payload, CancellationToken cancellationToken)
    {
        if (payload.Length != 8)
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation, "an rdma request of the wrong length");
        }
        if (!_leases.TryGetValue(BinaryPrimitives.ReadUInt64LittleEndian(payload), out ReadLease? lease))
        {
            ThrowHelper.Throw(CheckpointError.Refused, "queue pairs are connected for a lease, and there is none at that address");
            return ValueTask.CompletedTask;
        }
        var answer = new ArrayBufferWriter<byte>(4096);
        _responder.OfferRdma(lease, _key.Value, answer);
        return WriteAsync(PeerMessage.Rdma, answer.WrittenMemory, cancellationToken);
    }

    // Request: address and length (u64 each). Answer: MemoryAnswer, with a descriptor where it says so.
    private async ValueTask AnswerMemoryAsync(byte[] payload, CancellationToken cancellationToken)
    {
        if (payload.Length != 16)
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation, "a memory request of the wrong length");
        }
        if (_credentials is not PeerCredentials peer)
        {
            ThrowHelper.Throw(CheckpointError.NotSupported, "memory is told over a Unix socket only");
            return;
        }
        HeldMemory memory = _responder.AcquireMemory(BinaryPrimitives.ReadUInt64LittleEndian(payload), BinaryPrimitives.ReadUInt64LittleEndian(payload.AsSpan(8)), peer);
        if (_options.Audit is not null && memory.Held is (var checkpoint, var generation, var bytes) && _given.Add(generation))
        {
            _options.Audit.MemoryGiven(Peer, checkpoint, generation, bytes, memory.Answer.Access.ToString().ToLowerInvariant());
        }
        bool keep = false;
        try
        {
            byte[] frame = new byte[PeerFrame.HeaderBytes + MemoryAnswer.Size];
            new PeerFrame(PeerMessage.Memory, MemoryAnswer.Size).Encode(frame);
            memory.Answer.Encode(frame.AsSpan(PeerFrame.HeaderBytes));
            if (memory.File is null)
            {
                lock (_held)
                {
                    if (_held.Count == MaxHeldRanges)
                    {
                        ThrowHelper.Throw(CheckpointError.NotSupported, $"one conversation holds at most {MaxHeldRanges:N0} ranges");
                    }
                    _held.Add(memory);
                    keep = true;
                }
                await WriteAsync(PeerMessage.Memory, frame.AsMemory(PeerFrame.HeaderBytes), cancellationToken).ConfigureAwait(false);
                return;
            }
            await _writer.FlushAsync(cancellationToken).ConfigureAwait(false);      // what was written before goes before
            DescriptorPassing.Send(_socket, frame, memory.File);
        }
        finally
        {
            if (!keep)
            {
                memory.Dispose();
            }
        }
    }
}
