using System.Security.Cryptography;
using System.Text;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Access;

/// <summary>A shared secret that guards HTTP, the peer service and our own TCP lanes; several at once while one takes the place of another.</summary>
/// <remarks>
/// Any number of threads. The first secret is the one that is shown to others, every one is accepted. They stay as they are, but those of an
/// <see cref="AccessTokenFile"/>, which change with the file. Never printed: <see cref="ToString"/> gives no part of them.
/// </remarks>
public sealed class AccessToken
{
    /// <summary>The most secrets that are valid at once.</summary>
    internal const int MaxSecrets = 16;

    private const int MaxBytes = 4096;
    private byte[][] _secrets;

    private AccessToken(byte[][] secrets) => _secrets = secrets;

    /// <summary>The secrets of this moment, the one to show first; never changed in place.</summary>
    internal byte[][] Secrets => Volatile.Read(ref _secrets);

    /// <summary>Takes a key that one of our own processes told.</summary>
    internal static AccessToken FromKey(ReadOnlySpan<byte> key) => new([key.ToArray()]);

    /// <summary>Takes a token from text; white space around it does not count. Of several lines the first is shown to others, and each is accepted.</summary>
    /// <exception cref="ArgumentException">Empty, more than 16 lines, or one that is longer than 4,096 bytes.</exception>
    public static AccessToken FromText(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        byte[][] secrets = [.. text.Split('\n', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries).Select(Encoding.UTF8.GetBytes)];
        if (secrets.Length is 0 or > MaxSecrets)
        {
            throw new ArgumentException($"a token has 1 to {MaxSecrets} lines, this one {secrets.Length:N0}", nameof(text));
        }
        int longest = secrets.Max(secret => secret.Length);
        return longest <= MaxBytes ? new AccessToken(secrets) : throw new ArgumentException($"a token has 1 to {MaxBytes:N0} bytes, this one {longest:N0}", nameof(text));
    }

    /// <summary>Reads a token from a file, once; <see cref="AccessTokenFile"/> goes on with what the file becomes.</summary>
    /// <exception cref="CheckpointEngineException">The file cannot be read, is empty or too long.</exception>
    public static AccessToken FromFile(string path)
    {
        try
        {
            if (new FileInfo(path).Length > MaxSecrets * (MaxBytes + 2))
            {
                ThrowHelper.Throw(CheckpointError.InvalidData, $"token file '{path}' has more than {MaxSecrets} tokens of {MaxBytes:N0} bytes");
            }
            return FromText(File.ReadAllText(path));
        }
        catch (ArgumentException unusable)
        {
            throw new CheckpointEngineException(CheckpointError.InvalidData, $"token file '{path}' holds no token that can be used: one a line, at most {MaxSecrets} of {MaxBytes:N0} bytes", 0, unusable);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            throw new CheckpointEngineException(CheckpointError.Io, $"read token file '{path}': {failure.Message}", 0, failure);
        }
    }

    /// <summary>Whether <paramref name="candidate"/> is one of the secrets; takes the same time wherever they differ.</summary>
    public bool Matches(ReadOnlySpan<byte> candidate)
    {
        Span<byte> mine = stackalloc byte[SHA256.HashSizeInBytes];
        Span<byte> theirs = stackalloc byte[SHA256.HashSizeInBytes];
        SHA256.HashData(candidate, theirs);
        bool matches = false;
        foreach (byte[] secret in Secrets)
        {
            SHA256.HashData(secret, mine);
            matches |= CryptographicOperations.FixedTimeEquals(mine, theirs);
        }
        return matches;
    }

    /// <summary>The value of an HTTP <c>Authorization</c> header for this token.</summary>
    public string ToBearerHeader() => "Bearer " + Encoding.UTF8.GetString(Secrets[0]);

    /// <inheritdoc/>
    public override string ToString() => "(token)";

    /// <summary>Takes the secrets of another token in place of its own.</summary>
    /// <returns>Whether they are others than before.</returns>
    internal bool Become(AccessToken other)
    {
        byte[][] before = Interlocked.Exchange(ref _secrets, other.Secrets);
        return before.Length != other.Secrets.Length || !before.Zip(other.Secrets).All(pair => pair.First.AsSpan().SequenceEqual(pair.Second));
    }
}
