using System.Buffers.Binary;
using System.Text;
using CheckpointEngine.Metas;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Rdma;

namespace CheckpointEngine.Peers;

// Metas, and leases on what they tell of.
internal sealed partial class PeerClient
{
    private static readonly byte[] s_unchanged = [0, 0];

    /// <summary>Asks for the metas of <paramref name="name"/>.</summary>
    internal async Task<CheckpointMetas> GetMetasAsync(string name, long maxBytes, CancellationToken cancellationToken)
    {
        await _turn.WaitAsync(cancellationToken).ConfigureAwait(false);
        try
        {
            return await GuardAsync("ask for metas", async token =>
            {
                await SendAsync(PeerMessage.Metas, Encoding.UTF8.GetBytes(name), token).ConfigureAwait(false);
                PeerFrame frame = await ReceiveHeaderAsync(PeerMessage.Metas, (int)Math.Min(maxBytes, int.MaxValue), token).ConfigureAwait(false);
                using var body = new PayloadStream(_stream, frame.LengthBytes);
                try
                {
                    return await MetasJsonReader.ReadAsync(body, maxBytes, token).ConfigureAwait(false);
                }
                catch (CheckpointEngineException)
                {
                    _socket.Dispose();    // the rest of the payload would be taken for the next answer
                    throw;
                }
            }, cancellationToken).ConfigureAwait(false);
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Waits until the metas of <paramref name="name"/> are others than those of <paramref name="entityTag"/>.</summary>
    /// <param name="name">The checkpoint.</param>
    /// <param name="entityTag">Of those that are known; empty for none.</param>
    /// <param name="wait">How long at most.</param>
    /// <param name="maxBytes">The most that is read.</param>
    /// <param name="cancellationToken">Ends the wait; the conversation is of no more use then.</param>
    /// <returns>Null when nothing has changed.</returns>
    internal async Task<PublishedMetas?> FollowAsync(string name, string entityTag, TimeSpan wait, long maxBytes, CancellationToken cancellationToken)
    {
        byte[] tag = Encoding.UTF8.GetBytes(entityTag);
        byte[] nameUtf8 = Encoding.UTF8.GetBytes(name);
        byte[] request = new byte[6 + tag.Length + nameUtf8.Length];
        BinaryPrimitives.WriteUInt32LittleEndian(request, (uint)Math.Clamp(wait.TotalMilliseconds, 0, PeerSession.MaxFollowMs));
        BinaryPrimitives.WriteUInt16LittleEndian(request.AsSpan(4), checked((ushort)tag.Length));
        tag.CopyTo(request, 6);
        nameUtf8.CopyTo(request, 6 + tag.Length);
        byte[] answer = await AskAsync(PeerMessage.Follow, request, (int)Math.Min(maxBytes, int.MaxValue), "wait for new metas", cancellationToken, 1 + (int)Math.Ceiling(wait / _timeout)).ConfigureAwait(false);
        if (answer.AsSpan().SequenceEqual(s_unchanged))
        {
            return null;
        }
        int tagBytes = answer.Length >= 2 ? BinaryPrimitives.ReadUInt16LittleEndian(answer) : int.MaxValue;
        return answer.Length - 2 > tagBytes
            ? new PublishedMetas(MetasJsonReader.Read(answer.AsSpan(2 + tagBytes)), Encoding.UTF8.GetString(answer.AsSpan(2, tagBytes)))
            : Violated<PublishedMetas>("its metas are malformed");
    }

    /// <summary>Takes a lease on the checkpoint that <paramref name="address"/> belongs to, or renews the one that was taken there.</summary>
    internal Task<LeaseAnswer> LeaseAsync(ulong address, CancellationToken cancellationToken) => AskForLeaseAsync(PeerMessage.Lease, address, "ask for a lease", cancellationToken);

    /// <summary>Gives the lease back that was taken at <paramref name="address"/>; the answer tells whether it was alive until now.</summary>
    internal Task<LeaseAnswer> ReleaseAsync(ulong address, CancellationToken cancellationToken) => AskForLeaseAsync(PeerMessage.Release, address, "give a lease back", cancellationToken);

    /// <summary>Asks what queue pairs are connected with for the lease that was taken at <paramref name="address"/>, and where the segment lies for RDMA.</summary>
    /// <param name="address">Where the lease was taken.</param>
    /// <param name="maxBytes">Of the descriptor.</param>
    /// <param name="cancellationToken">Ends the wait; the conversation is of no more use then.</param>
    /// <exception cref="CheckpointEngineException">What the owner answers: NotSupported when it offers none; or ProtocolViolation, Timeout, Unreachable.</exception>
    internal async Task<(RdmaKey Key, SegmentDescriptor Descriptor)> GetRdmaAsync(ulong address, int maxBytes, CancellationToken cancellationToken)
    {
        const int HeadBytes = RdmaKey.NumberBytes + RdmaKey.SaltBytes;
        byte[] request = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(request, address);
        byte[] payload = await AskAsync(PeerMessage.Rdma, request, HeadBytes + maxBytes, "ask for rdma", cancellationToken).ConfigureAwait(false);
        if (payload.Length < HeadBytes)
        {
            Violated("what it says of rdma is too short");
        }
        try
        {
            RdmaKey key = RdmaKey.Make(_key.Value, BinaryPrimitives.ReadUInt128LittleEndian(payload), payload.AsSpan(RdmaKey.NumberBytes, RdmaKey.SaltBytes));
            return (key, SegmentDescriptorReader.Read(payload.AsSpan(HeadBytes)));
        }
        catch (CheckpointEngineException malformed) when (malformed.Error == CheckpointError.InvalidData)
        {
            return Violated<(RdmaKey, SegmentDescriptor)>(malformed.Message);
        }
    }

    private async Task<LeaseAnswer> AskForLeaseAsync(PeerMessage type, ulong address, string what, CancellationToken cancellationToken)
    {
        byte[] request = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(request, address);
        byte[] payload = await AskAsync(type, request, LeaseAnswer.MaxSize, what, cancellationToken).ConfigureAwait(false);
        return LeaseAnswer.TryDecode(payload, out LeaseAnswer answer) ? answer : Violated<LeaseAnswer>("its lease is malformed");
    }
}
