using System.Buffers;
using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;
using System.Security.Cryptography;
using System.Text;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>
/// What proves, in a handshake, that its sender has the key of a lease: HMAC-SHA256 over all that the message says of queue pairs and devices, over what it
/// is for, and over a number that the asker gives to one message alone; the answer signs the asker's proof, too.
/// </summary>
/// <remarks>So a proof is of use for the queue pairs that it names, and nothing secret crosses the wire.</remarks>
/// <param name="Number">Of the <see cref="RdmaKey"/>.</param>
/// <param name="Sequence">Of the asker's messages; its answer has the same.</param>
/// <param name="Sum">32 bytes.</param>
internal sealed record RdmaProof(UInt128 Number, ulong Sequence, byte[] Sum)
{
    private const int SumAt = RdmaKey.NumberBytes + sizeof(ulong);
    private const int TotalBytes = SumAt + HMACSHA256.HashSizeInBytes;

    /// <summary>What a message is for; a proof for one is none for another.</summary>
    internal enum Purpose : byte
    {
        Connect = 1,
        Answer = 2,
        End = 3,
    }

    /// <summary>Signs a message; its own <see cref="RdmaHandshake.Proof"/> and <see cref="RdmaHandshake.ReplyMessage"/> are not looked at.</summary>
    /// <param name="key">The lease's.</param>
    /// <param name="purpose">What the message is for.</param>
    /// <param name="sequence">Of the asker's messages.</param>
    /// <param name="message">The message.</param>
    /// <param name="asked">Of an answer: the proof of what is answered; else null.</param>
    internal static RdmaProof Sign(RdmaKey key, Purpose purpose, ulong sequence, RdmaHandshake message, RdmaProof? asked = null)
    {
        var signed = new ArrayBufferWriter<byte>(512);
        signed.Write("checkpoint-engine/1 rdma"u8);
        signed.Write<byte>([(byte)purpose, message.ReadyAck switch { null => 0, false => 1, true => 2 }]);
        BinaryPrimitives.WriteUInt128LittleEndian(signed.GetSpan(RdmaKey.NumberBytes), key.Number);
        signed.Advance(RdmaKey.NumberBytes);
        BinaryPrimitives.WriteUInt64LittleEndian(signed.GetSpan(sizeof(ulong)), sequence);
        signed.Advance(sizeof(ulong));
        signed.Write(asked?.Sum ?? []);
        Write(signed, message.LocalNicPath);
        Write(signed, message.PeerNicPath);
        Write(signed, message.LocalGid);
        Write(signed, message.LocalLid);
        Write(signed, (uint)message.QueuePairs.Length);
        foreach (uint number in message.QueuePairs)
        {
            Write(signed, number);
        }
        return new RdmaProof(key.Number, sequence, HMACSHA256.HashData(key.Secret, signed.WrittenSpan));
    }

    /// <summary>Whether this proves <paramref name="message"/>; takes the same time wherever it does not.</summary>
    internal bool Proves(RdmaKey key, Purpose purpose, RdmaHandshake message, RdmaProof? asked = null)
        => Number == key.Number && (asked is null || asked.Sequence == Sequence)
            && CryptographicOperations.FixedTimeEquals(Sign(key, purpose, Sequence, message, asked).Sum, Sum);

    /// <summary>As the wire has it: hexadecimal digits of all three.</summary>
    internal string ToWireText()
    {
        byte[] bytes = new byte[TotalBytes];
        BinaryPrimitives.WriteUInt128LittleEndian(bytes, Number);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(RdmaKey.NumberBytes), Sequence);
        Sum.CopyTo(bytes, SumAt);
        return Convert.ToHexStringLower(bytes);
    }

    /// <summary>Reads one; false when it has another length, or is not hexadecimal.</summary>
    internal static bool TryParse(ReadOnlySpan<char> text, [NotNullWhen(true)] out RdmaProof? proof)
    {
        byte[] bytes = new byte[TotalBytes];
        bool isWhole = text.Length == 2 * TotalBytes && Convert.FromHexString(text, bytes, out _, out int written) == OperationStatus.Done && written == TotalBytes;
        proof = !isWhole ? null : new RdmaProof(BinaryPrimitives.ReadUInt128LittleEndian(bytes), BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(RdmaKey.NumberBytes)), bytes[SumAt..]);
        return isWhole;
    }

    /// <summary>Whether two say the same.</summary>
    public bool Equals(RdmaProof? other) => other is not null && Number == other.Number && Sequence == other.Sequence && Sum.AsSpan().SequenceEqual(other.Sum);

    /// <inheritdoc/>
    public override int GetHashCode() => HashCode.Combine(Number, Sequence);

    // A length before each text: two that follow each other cannot be taken for others.
    private static void Write(ArrayBufferWriter<byte> output, string text)
    {
        int length = Encoding.UTF8.GetByteCount(text);
        Write(output, (uint)length);
        output.Advance(Encoding.UTF8.GetBytes(text, output.GetSpan(length)));
    }

    private static void Write(ArrayBufferWriter<byte> output, uint value)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(output.GetSpan(sizeof(uint)), value);
        output.Advance(sizeof(uint));
    }
}
