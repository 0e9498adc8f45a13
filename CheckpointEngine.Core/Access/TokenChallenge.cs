using System.Security.Cryptography;

namespace CheckpointEngine.Access;

/// <summary>
/// Proves to each other that two sides have the same token, without sending it: each signs both sides' random numbers, the role and what the
/// connection is for with HMAC-SHA256.
/// </summary>
/// <remarks>
/// A listener on the wire learns nothing that opens another connection. Whoever can ask for a proof may try tokens against it offline, so a
/// token should be long and random.
/// </remarks>
internal static class TokenChallenge
{
    internal const int NonceBytes = 32;
    internal const int ProofBytes = 32;

    /// <summary>What a connection is for; a proof for one is none for the other.</summary>
    internal enum Purpose : byte
    {
        PeerService = 1,
        TcpLane = 2,
    }

    internal static void Prove(AccessToken token, Purpose purpose, bool asServer, ReadOnlySpan<byte> clientNonce, ReadOnlySpan<byte> serverNonce, Span<byte> proof)
    {
        Span<byte> message = stackalloc byte[2 + NonceBytes * 2 + 24];
        "checkpoint-engine/1 auth"u8.CopyTo(message);
        message[24] = (byte)purpose;
        message[25] = asServer ? (byte)1 : (byte)0;
        clientNonce.CopyTo(message[26..]);
        serverNonce.CopyTo(message[(26 + NonceBytes)..]);
        token.Sign(message, proof);
    }

    internal static bool Check(AccessToken token, Purpose purpose, bool ofServer, ReadOnlySpan<byte> clientNonce, ReadOnlySpan<byte> serverNonce, ReadOnlySpan<byte> proof)
    {
        Span<byte> expected = stackalloc byte[ProofBytes];
        Prove(token, purpose, ofServer, clientNonce, serverNonce, expected);
        return CryptographicOperations.FixedTimeEquals(expected, proof);
    }
}
