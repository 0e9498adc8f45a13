using CheckpointEngine.Access;
using CheckpointEngine.Transfer.Rdma;
using CsCheck;

namespace CheckpointEngine.Tests;

/// <summary>What two ends prove to each other to connect queue pairs: to each message its own proof, of use for nothing else.</summary>
public sealed class RdmaProofTests
{
    private static readonly byte[] s_conversation = [.. Enumerable.Range(0, 32).Select(i => (byte)i)];
    private static readonly RdmaKey s_key = RdmaKey.Make(s_conversation, 7, new byte[RdmaKey.SaltBytes]);

    private static readonly RdmaHandshake s_asked = new()
    {
        LocalNicPath = "aa-1@mlx5_0",
        PeerNicPath = "10.0.0.2:7@mlx5_1",
        QueuePairs = [11, 12],
        LocalGid = "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:01",
        LocalLid = 3,
    };

    private static RdmaProof Signed => RdmaProof.Sign(s_key, RdmaProof.Purpose.Connect, 5, s_asked);

    public static TheoryData<string> Changes => ["local path", "peer path", "between the paths", "one number", "their order", "a number less", "a number more", "gid", "lid", "ack", "sequence", "number", "purpose", "key", "salt", "sum"];

    [Fact]
    public void Proves_TheMessageAsItWasSigned_AndWhatIsNotSignedMayDiffer()
    {
        Assert.True(Signed.Proves(s_key, RdmaProof.Purpose.Connect, s_asked));
        Assert.True(Signed.Proves(s_key, RdmaProof.Purpose.Connect, s_asked with { Proof = Signed, ReplyMessage = "x" }));
    }

    [Theory]
    [MemberData(nameof(Changes))]
    public void Proves_AnythingChanged_IsFalse(string change)
    {
        RdmaProof proof = Signed;
        (RdmaKey key, RdmaProof.Purpose purpose, RdmaHandshake message) = (s_key, RdmaProof.Purpose.Connect, s_asked);
        switch (change)
        {
            case "local path": message = s_asked with { LocalNicPath = "aa-2@mlx5_0" }; break;
            case "peer path": message = s_asked with { PeerNicPath = "10.0.0.3:7@mlx5_1" }; break;
            case "between the paths": message = s_asked with { LocalNicPath = "aa-1@mlx5_01", PeerNicPath = "0.0.0.2:7@mlx5_1" }; break;
            case "one number": message = s_asked with { QueuePairs = [11, 13] }; break;
            case "their order": message = s_asked with { QueuePairs = [12, 11] }; break;
            case "a number less": message = s_asked with { QueuePairs = [11] }; break;
            case "a number more": message = s_asked with { QueuePairs = [11, 12, 0] }; break;
            case "gid": message = s_asked with { LocalGid = "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:02" }; break;
            case "lid": message = s_asked with { LocalLid = 4 }; break;
            case "ack": message = s_asked with { ReadyAck = true }; break;
            case "sequence": proof = proof with { Sequence = 6 }; break;
            case "number": proof = proof with { Number = 8 }; break;
            case "purpose": purpose = RdmaProof.Purpose.End; break;
            case "key": key = RdmaKey.Make(new byte[32], 7, new byte[RdmaKey.SaltBytes]); break;
            case "salt": key = RdmaKey.Make(s_conversation, 7, [1, .. new byte[RdmaKey.SaltBytes - 1]]); break;
            default: proof = proof with { Sum = [.. proof.Sum.Select(part => (byte)(part ^ 1))] }; break;
        }
        Assert.False(proof.Proves(key, purpose, message));
    }

    [Fact]
    public void Answer_IsOfWhatWasAsked_AndOfNothingElse()
    {
        RdmaHandshake answer = s_asked with { LocalNicPath = s_asked.PeerNicPath, PeerNicPath = s_asked.LocalNicPath, QueuePairs = [21, 22] };
        RdmaProof asked = Signed;
        RdmaProof proof = RdmaProof.Sign(s_key, RdmaProof.Purpose.Answer, asked.Sequence, answer, asked);
        Assert.True(proof.Proves(s_key, RdmaProof.Purpose.Answer, answer, asked));
        Assert.False(proof.Proves(s_key, RdmaProof.Purpose.Answer, answer));
        Assert.False(proof.Proves(s_key, RdmaProof.Purpose.Answer, answer, RdmaProof.Sign(s_key, RdmaProof.Purpose.Connect, asked.Sequence, s_asked with { QueuePairs = [11, 99] })));
        Assert.False((proof with { Sequence = 6 }).Proves(s_key, RdmaProof.Purpose.Answer, answer, asked));
        Assert.False(proof.Proves(s_key, RdmaProof.Purpose.Answer, answer with { QueuePairs = [21, 23] }, asked));
        Assert.False(asked.Proves(s_key, RdmaProof.Purpose.Answer, s_asked, asked));      // the question is no answer
    }

    [Fact]
    public void TryParse_OfWhatWasWritten_IsTheSame_AndOfAnyTextATruth()
    {
        Gen.Select(Gen.ULong, Gen.ULong, Gen.Byte.Array[32]).Sample((number, sequence, sum) =>
        {
            var proof = new RdmaProof(new UInt128(sequence, number), sequence, sum);
            Assert.Equal(112, proof.ToWireText().Length);
            Assert.True(RdmaProof.TryParse(proof.ToWireText(), out RdmaProof? read));
            Assert.Equal(proof, read);
        });
        Gen.Select(Gen.Int[0, 111], Gen.Char).Sample((at, character) =>
        {
            string text = Signed.ToWireText();
            Assert.Equal(char.IsAsciiHexDigit(character), RdmaProof.TryParse($"{text[..at]}{character}{text[(at + 1)..]}", out _));
        });
    }

    [Fact]
    public void ConversationKey_DiffersByTokenNoncesAndCertificate_AndIsTheSameAtBothEnds()
    {
        byte[] a = new byte[32], b = [1, .. new byte[31]];
        string[] keys = [.. new[]
        {
            TokenChallenge.MakeKey("t"u8, a, b, []),
            TokenChallenge.MakeKey("u"u8, a, b, []),
            TokenChallenge.MakeKey([], a, b, []),
            TokenChallenge.MakeKey("t"u8, b, a, []),
            TokenChallenge.MakeKey("t"u8, a, b, a),
            TokenChallenge.MakeKey("t"u8, a, b, b),
        }.Select(Convert.ToHexString)];
        Assert.Equal(keys.Length, keys.Distinct().Count());
        Assert.Equal(keys[0], Convert.ToHexString(TokenChallenge.MakeKey("t"u8, a, b, [])));
    }
}
