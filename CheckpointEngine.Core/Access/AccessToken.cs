using System.Security.Cryptography;
using System.Text;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Access;

/// <summary>A shared secret that guards HTTP, the peer service and our own TCP lanes.</summary>
/// <remarks>Immutable; any number of threads. Never printed: <see cref="ToString"/> gives no part of it.</remarks>
public sealed class AccessToken
{
    private const int MaxBytes = 4096;
    private readonly byte[] _secret;

    private AccessToken(byte[] secret) => _secret = secret;

    /// <summary>Takes a key that one of our own processes told.</summary>
    internal static AccessToken FromKey(ReadOnlySpan<byte> key) => new(key.ToArray());

    /// <summary>Takes a token from text; white space around it does not count.</summary>
    /// <exception cref="ArgumentException">Empty, or longer than 4,096 bytes.</exception>
    public static AccessToken FromText(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        byte[] secret = Encoding.UTF8.GetBytes(text.Trim());
        return secret.Length is > 0 and <= MaxBytes
            ? new AccessToken(secret)
            : throw new ArgumentException($"a token has 1 to {MaxBytes:N0} bytes, this one {secret.Length:N0}", nameof(text));
    }

    /// <summary>Reads a token from a file.</summary>
    /// <exception cref="CheckpointEngineException">The file cannot be read, is empty or too long.</exception>
    public static AccessToken FromFile(string path)
    {
        try
        {
            if (new FileInfo(path).Length > MaxBytes + 2)
            {
                ThrowHelper.Throw(CheckpointError.InvalidData, $"token file '{path}' has more than {MaxBytes:N0} bytes");
            }
            return FromText(File.ReadAllText(path));
        }
        catch (ArgumentException empty)
        {
            throw new CheckpointEngineException(CheckpointError.InvalidData, $"token file '{path}' holds no token", 0, empty);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            throw new CheckpointEngineException(CheckpointError.Io, $"read token file '{path}': {failure.Message}", 0, failure);
        }
    }

    /// <summary>Whether <paramref name="candidate"/> is this token; takes the same time wherever they differ.</summary>
    public bool Matches(ReadOnlySpan<byte> candidate)
    {
        Span<byte> mine = stackalloc byte[SHA256.HashSizeInBytes];
        Span<byte> theirs = stackalloc byte[SHA256.HashSizeInBytes];
        SHA256.HashData(_secret, mine);
        SHA256.HashData(candidate, theirs);
        return CryptographicOperations.FixedTimeEquals(mine, theirs);
    }

    /// <summary>The value of an HTTP <c>Authorization</c> header for this token.</summary>
    public string ToBearerHeader() => "Bearer " + Encoding.UTF8.GetString(_secret);

    /// <inheritdoc/>
    public override string ToString() => "(token)";

    /// <summary>HMAC-SHA256 of <paramref name="message"/> under the secret.</summary>
    internal void Sign(ReadOnlySpan<byte> message, Span<byte> destination) => HMACSHA256.HashData(_secret, message, destination);
}
