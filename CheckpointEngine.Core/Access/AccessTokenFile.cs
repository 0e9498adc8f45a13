using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Access;

/// <summary>A token that goes with its file: when the file changes, everything that has <see cref="Token"/> shows and accepts what is in it then, without a restart.</summary>
/// <remarks>
/// Any number of threads. Conversations that are open go on: a token is proved once a connection. To change a token without a gap, write the new one behind the old
/// on every host, then the new one before the old, then the new one alone.
/// </remarks>
public sealed class AccessTokenFile : IDisposable
{
    private readonly WatchedFiles _watched;

    /// <summary>Reads the file, and begins to look after it.</summary>
    /// <param name="path">The file: one token a line, the first is shown, each is accepted.</param>
    /// <param name="logger">Told of changes and failures; null for nobody.</param>
    /// <param name="interval">How often it looks; null for two seconds.</param>
    /// <exception cref="CheckpointEngineException">The file cannot be read, is empty or too long.</exception>
    public AccessTokenFile(string path, ILogger? logger = null, TimeSpan? interval = null)
    {
        Token = AccessToken.FromFile(path);
        _watched = new WatchedFiles([path], () => Token.Become(AccessToken.FromFile(path)), logger, interval);
        _watched.Reload();      // what came between the reading and the first look
    }

    /// <summary>The token; its secrets are those of the file.</summary>
    public AccessToken Token { get; }

    /// <summary>Reads the file now.</summary>
    /// <returns>Whether it could be used; if not, the token stays as it is.</returns>
    public bool Reload() => _watched.Reload();

    /// <summary>Looks no more; the token stays as it is.</summary>
    public void Dispose() => _watched.Dispose();
}
