using CheckpointEngine.Peers;
using CheckpointEngine.Transfer.Rdma;
using CsCheck;

namespace CheckpointEngine.Tests;

/// <summary>Who may connect queue pairs, and how long.</summary>
public sealed class RdmaGrantsTests
{
    private static readonly byte[] s_conversation = [.. Enumerable.Range(0, 32).Select(i => (byte)i)];
    private readonly List<(RdmaGrant Grant, bool IsRevoked)> _ended = [];
    private readonly RdmaGrants _grants;

    public RdmaGrantsTests() => _grants = new RdmaGrants((grant, isRevoked) => _ended.Add((grant, isRevoked)));

    [Fact]
    public void Check_WithTheKeyOfALease_IsThatLeases()
    {
        RdmaGrant one = _grants.Give(s_conversation);
        RdmaGrant other = _grants.Give(s_conversation);
        Assert.Same(one, _grants.Check(Message(KeyOf(one))));
        Assert.Same(other, _grants.Check(Message(KeyOf(other))));
        Assert.NotEqual(KeyOf(one).Secret, KeyOf(other).Secret);
    }

    [Fact]
    public void Check_WithoutAProof_SaysWhatToDo() => Assert.Contains("--plain-peers", Refusal(new RdmaHandshake { QueuePairs = [1] }), StringComparison.Ordinal);

    [Fact]
    public void Check_WithTheKeyOfAnotherConversation_IsRefused()
    {
        RdmaGrant grant = _grants.Give(s_conversation);
        RdmaKey wrong = RdmaKey.Make(new byte[32], grant.Key.Number, grant.Salt);       // another token, or none
        Assert.Contains("proof is wrong", Refusal(Message(wrong)), StringComparison.Ordinal);
    }

    [Fact]
    public void Check_ConnectTakenForAnEnd_IsRefused()
    {
        RdmaGrant grant = _grants.Give(s_conversation);
        RdmaHandshake message = Message(grant.Key);
        Assert.Contains("proof is wrong", Refusal(message with { IsEnd = true }), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("released", false)]
    [InlineData("revoked", true)]
    [InlineData("left", false)]
    public void Check_OnceTheLeaseHasEnded_IsRefused(string how, bool isRevoked)
    {
        RdmaGrant grant = _grants.Give(s_conversation);
        bool isFreed = false;
        using var lease = new ReadLease(1, () => 1, () =>
        {
            isFreed = true;
            Assert.Single(_ended);          // its queue pairs were gone before the memory might go
        });
        Assert.True(lease.TryKeep(grant));
        Assert.Same(grant, lease.Rdma);
        Assert.True(_grants.IsLive(grant));

        if (how == "revoked")
        {
            lease.Revoke();
        }
        else if (how == "left")
        {
            lease.Dispose();
        }
        else
        {
            lease.End(how);
        }

        Assert.True(isFreed);
        Assert.Equal((grant, isRevoked), Assert.Single(_ended));
        Assert.False(_grants.IsLive(grant));
        Assert.Contains("has ended", Refusal(Message(grant.Key)), StringComparison.Ordinal);
        Assert.False(lease.TryKeep(_grants.Give(s_conversation)));
        Assert.Single(_ended);
    }

    [Fact]
    public void TryUse_InAnyOrder_TakesEachMessageOnce()
        => Gen.Int[1, 3000].Array[1, 400].Sample(sequences =>
        {
            RdmaGrant grant = _grants.Give(s_conversation);
            var used = new HashSet<int>();
            int highest = 0;
            foreach (int sequence in sequences)
            {
                bool isNew = !used.Contains(sequence) && sequence > highest - 1024;
                Assert.Equal(!isNew, grant.IsUsed((ulong)sequence));
                Assert.Equal(isNew, grant.TryUse((ulong)sequence));
                Assert.True(grant.IsUsed((ulong)sequence));
                used.Add(sequence);
                highest = Math.Max(highest, sequence);
            }
        });

    [Fact]
    public void TryUse_TheHighestThereIs_LeavesNothingToUse()
    {
        RdmaGrant grant = _grants.Give(s_conversation);
        Assert.True(grant.TryUse(ulong.MaxValue));
        Assert.False(grant.TryUse(ulong.MaxValue));
        Assert.False(grant.TryUse(1));
        Assert.True(grant.TryUse(ulong.MaxValue - 1));
    }

    private static RdmaKey KeyOf(RdmaGrant grant) => RdmaKey.Make(s_conversation, grant.Key.Number, grant.Salt);

    private static RdmaHandshake Message(RdmaKey key)
    {
        var message = new RdmaHandshake { LocalNicPath = "a", PeerNicPath = "b", QueuePairs = [1, 2], LocalGid = "c" };
        return message with { Proof = RdmaProof.Sign(key, RdmaProof.Purpose.Connect, key.TakeSequence(), message) };
    }

    private string Refusal(RdmaHandshake message)
    {
        var refusal = Assert.Throws<CheckpointEngineException>(() => _grants.Check(message));
        Assert.Equal(CheckpointError.Refused, refusal.Error);
        return refusal.Message;
    }
}
