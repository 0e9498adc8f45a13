using System.Buffers;
using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;
using System.Security.Cryptography;
using System.Text;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>
/// What proves, in a handshake, that its sender has the key of a lease: HMAC-SHA256 over all that the message says of queue pairs and devices, over what it
/// is for, and over a random number of the asker, which the answer signs again with the asker's proof.
/// </summary>
/// <remarks>So a proof is of use for the queue pairs that it names, and nothing secret crosses the wire.</remarks>
/// <param name="Number">Of the <see cref="RdmaKey"/>.</param>
/// <param name="Nonce">The asker's random number.</param>
/// <param name="Sum">32 bytes.</param>
internal sealed record RdmaProof(UInt128 Number, UInt128 Nonce, byte[] Sum)
{
    private const int WordBytes = RdmaKey.NumberBytes;
    private const int TotalBytes = 2 * WordBytes + HMACSHA256.HashSizeInBytes;

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
    /// <param name="nonce">The asker's random number.</param>
    /// <param name="message">The message.</param>
    /// <param name="asked">Of an answer: the proof of what is answered; else null.</param>
    internal static RdmaProof Sign(RdmaKey key, Purpose purpose, UInt128 nonce, RdmaHandshake message, RdmaProof? asked = null)
    {
        var signed = new ArrayBufferWriter<byte>(512);
        signed.Write("checkpoint-engine/1 rdma"u8);
        signed.Write<byte>([(byte)purpose, message.ReadyAck switch { null => 0, false => 1, true => 2 }]);
        Write(signed, key.Number);
        Write(signed, nonce);
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
        return new RdmaProof(key.Number, nonce, HMACSHA256.HashData(key.Secret, signed.WrittenSpan));
    }

    /// <summary>Whether this proves <paramref name="message"/>; takes the same time wherever it does not.</summary>
    internal bool Proves(RdmaKey key, Purpose purpose, RdmaHandshake message, RdmaProof? asked = null)
        => Number == key.Number && (asked is null || asked.Nonce == Nonce)
            && CryptographicOperations.FixedTimeEquals(Sign(key, purpose, Nonce, message, asked).Sum, Sum);

    /// <summary>A random number that no message had before.</summary>
    internal static UInt128 NewNonce() => BinaryPrimitives.ReadUInt128LittleEndian(RandomNumberGenerator.GetBytes(WordBytes));

    /// <summary>As the wire has it: hexadecimal digits of all three.</summary>
    internal string ToWireText()
    {
        byte[] bytes = new byte[TotalBytes];
        BinaryPrimitives.WriteUInt128LittleEndian(bytes, Number);
        BinaryPrimitives.WriteUInt128LittleEndian(bytes.AsSpan(WordBytes), Nonce);
        Sum.CopyTo(bytes, 2 * WordBytes);
        return Convert.ToHexStringLower(bytes);
    }

    /// <summary>Reads one; false when it has another length, or is not hexadecimal.</summary>
    internal static bool TryParse(ReadOnlySpan<char> text, [NotNullWhen(true)] out RdmaProof? proof)
    {
        byte[] bytes = new byte[TotalBytes];
        bool isWhole = text.Length == 2 * TotalBytes && Convert.FromHexString(text, bytes, out _, out int written) == OperationStatus.Done && written == TotalBytes;
        proof = !isWhole ? null : new RdmaProof(BinaryPrimitives.ReadUInt128LittleEndian(bytes), BinaryPrimitives.ReadUInt128LittleEndian(bytes.AsSpan(WordBytes)), bytes[(2 * WordBytes)..]);
        return isWhole;
    }

    /// <summary>Whether two say the same.</summary>
    public bool Equals(RdmaProof? other) => other is not null && Number == other.Number && Nonce == other.Nonce && Sum.AsSpan().SequenceEqual(other.Sum);

    /// <inheritdoc/>
    public override int GetHashCode() => HashCode.Combine(Number, Nonce);

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

    private static void Write(ArrayBufferWriter<byte> output, UInt128 value)
    {
        BinaryPrimitives.WriteUInt128LittleEndian(output.GetSpan(WordBytes), value);
        output.Advance(WordBytes);
    }
}
