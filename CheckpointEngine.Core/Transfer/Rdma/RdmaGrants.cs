using System.Buffers.Binary;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Who may connect queue pairs: those that have a lease, and prove it.</summary>
/// <remarks>Any number of threads.</remarks>
/// <param name="ended">Told of one that has ended, and whether it was revoked.</param>
internal sealed class RdmaGrants(Action<RdmaGrant, bool> ended)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<UInt128, RdmaGrant> _grants = [];

    /// <summary>Gives one, of which the peer is told its number and salt.</summary>
    internal RdmaGrant Give(ReadOnlySpan<byte> conversationKey)
    {
        UInt128 number = BinaryPrimitives.ReadUInt128LittleEndian(KernelRandom.GetBytes(RdmaKey.NumberBytes));
        byte[] salt = KernelRandom.GetBytes(RdmaKey.SaltBytes);
        var grant = new RdmaGrant(this, RdmaKey.Make(conversationKey, number, salt), salt);
        lock (_lock)
        {
            _grants.Add(number, grant);
        }
        return grant;
    }

    /// <summary>Whose message that is.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Refused"/>: nobody's that has a lease.</exception>
    internal RdmaGrant Check(RdmaHandshake asked)
    {
        RdmaProof proof = asked.Proof ?? ThrowHelper.Throw<RdmaProof>(CheckpointError.Refused, "only who has the token or a lease may connect, and the message proves neither; read over tcp, or list the network there (--plain-peers)");
        RdmaGrant? grant;
        lock (_lock)
        {
            _grants.TryGetValue(proof.Number, out grant);
        }
        if (grant is null)
        {
            ThrowHelper.Throw(CheckpointError.Refused, "the lease that it is for has ended, or was not given here; join again");
        }
        if (!proof.Proves(grant.Key, asked.IsEnd ? RdmaProof.Purpose.End : RdmaProof.Purpose.Connect, asked))
        {
            ThrowHelper.Throw(CheckpointError.Refused, "its proof is wrong: another token, or a message that was changed on its way");
        }
        return grant;
    }

    /// <summary>Whether it has not ended.</summary>
    internal bool IsLive(RdmaGrant grant)
    {
        lock (_lock)
        {
            return _grants.ContainsKey(grant.Key.Number);
        }
    }

    internal void End(RdmaGrant grant, bool isRevoked)
    {
        bool isFirst;
        lock (_lock)
        {
            isFirst = _grants.Remove(grant.Key.Number);
        }
        if (isFirst)
        {
            ended(grant, isRevoked);
        }
    }
}
