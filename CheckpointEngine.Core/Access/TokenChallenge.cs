using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace CheckpointEngine.Access;

/// <summary>
/// Proves to each other that two sides have the same token, without sending it: each signs both sides' random numbers, the role, what the
/// connection is for, and the TLS connection that it is said in, if any, with HMAC-SHA256.
/// </summary>
/// <remarks>
/// A listener on the wire learns nothing that opens another connection. Whoever can ask for a proof may try tokens against it offline, so a
/// token should be long and random.
/// </remarks>
internal static class TokenChallenge
{
    internal const int NonceBytes = 32;
    internal const int ProofBytes = 32;

    /// <summary>Of what binds a proof to a TLS connection.</summary>
    internal const int BindingBytes = 32;

    /// <summary>Of a key that both sides of a conversation make.</summary>
    internal const int KeyBytes = 32;

    /// <summary>What a connection is for; a proof for one is none for the other.</summary>
    internal enum Purpose : byte
    {
        PeerService = 1,
        TcpLane = 2,
    }

    /// <summary>The proof of one side.</summary>
    /// <param name="secret">The secret: of a client the first of its token, of a server the one that the client has.</param>
    /// <param name="purpose">What the connection is for.</param>
    /// <param name="asServer">Which side.</param>
    /// <param name="clientNonce">The client's random number.</param>
    /// <param name="serverNonce">The server's.</param>
    /// <param name="binding">The server's certificate as <see cref="BindingOf"/> has it, where TLS is spoken: who ends TLS in between cannot pass a proof on; else empty.</param>
    /// <param name="proof">Filled.</param>
    internal static void Prove(ReadOnlySpan<byte> secret, Purpose purpose, bool asServer, ReadOnlySpan<byte> clientNonce, ReadOnlySpan<byte> serverNonce, ReadOnlySpan<byte> binding, Span<byte> proof)
    {
        Span<byte> message = stackalloc byte[2 + NonceBytes * 2 + 24 + binding.Length];
        "checkpoint-engine/1 auth"u8.CopyTo(message);
        message[24] = (byte)purpose;
        message[25] = asServer ? (byte)1 : (byte)0;
        clientNonce.CopyTo(message[26..]);
        serverNonce.CopyTo(message[(26 + NonceBytes)..]);
        binding.CopyTo(message[(26 + NonceBytes * 2)..]);
        HMACSHA256.HashData(secret, message, proof);
    }

    /// <summary>What the proofs inside a TLS connection are bound to: SHA-256 of the server's certificate, tls-server-end-point of RFC 5929 for the certificates of today.</summary>
    internal static byte[] BindingOf(X509Certificate certificate) => SHA256.HashData(certificate.GetRawCertData());

    /// <summary>A key that both sides of a conversation have and that never crosses the wire; without a token it is nobody's secret.</summary>
    /// <param name="secret">What was proved; empty when nothing was.</param>
    /// <param name="clientNonce">The client's random number.</param>
    /// <param name="serverNonce">The server's.</param>
    /// <param name="binding">As of <see cref="Prove"/>.</param>
    internal static byte[] MakeKey(ReadOnlySpan<byte> secret, ReadOnlySpan<byte> clientNonce, ReadOnlySpan<byte> serverNonce, ReadOnlySpan<byte> binding)
    {
        byte[] message = [.. "checkpoint-engine/1 keys"u8, .. clientNonce, .. serverNonce, .. binding];
        return HMACSHA256.HashData(secret, message);
    }

    /// <summary>The secret of <paramref name="token"/> that the other side has proved; null when it is none of them.</summary>
    internal static byte[]? Check(AccessToken token, Purpose purpose, bool ofServer, ReadOnlySpan<byte> clientNonce, ReadOnlySpan<byte> serverNonce, ReadOnlySpan<byte> binding, ReadOnlySpan<byte> proof)
    {
        Span<byte> expected = stackalloc byte[ProofBytes];
        byte[]? proved = null;
        foreach (byte[] secret in token.Secrets)
        {
            Prove(secret, purpose, ofServer, clientNonce, serverNonce, binding, expected);
            proved = CryptographicOperations.FixedTimeEquals(expected, proof) ? secret : proved;
        }
        return proved;
    }

    /// <summary>Says to a server that proves first which secret the client means, of several that may be valid; to nobody else. 56 bits.</summary>
    internal static ulong Hint(ReadOnlySpan<byte> secret, ReadOnlySpan<byte> clientNonce)
    {
        Span<byte> message = stackalloc byte[24 + NonceBytes];
        "checkpoint-engine/1 hint"u8.CopyTo(message);
        clientNonce.CopyTo(message[24..]);
        Span<byte> sum = stackalloc byte[HMACSHA256.HashSizeInBytes];
        HMACSHA256.HashData(secret, message, sum);
        return BinaryPrimitives.ReadUInt64LittleEndian(sum) >> 8;
    }

    /// <summary>The secret of <paramref name="token"/> that a client means; the first one when it means none of them.</summary>
    internal static byte[] Choose(AccessToken token, ulong hint, ReadOnlySpan<byte> clientNonce)
    {
        byte[][] secrets = token.Secrets;
        for (int i = 1; i < secrets.Length; i++)
        {
            if (Hint(secrets[i], clientNonce) == hint)
            {
                return secrets[i];
            }
        }
        return secrets[0];
    }
}
