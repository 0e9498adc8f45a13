namespace CheckpointEngine.Metas;

/// <summary>Fetches metas from a holder: http, https, a Unix socket, the peer service (ce), or a file.</summary>
/// <remarks>Any number of threads; keeps connections open until disposed.</remarks>
public sealed class MetasClient : IDisposable
{
    /// <summary>Makes a client.</summary>
    public MetasClient(MetasClientOptions? options = null) => _ = options;

    /// <summary>Fetches metas from <paramref name="url"/>: <c>http(s)://host:port/…</c>, <c>unix:/path/to.sock:/v1/metas</c>, <c>ce://host:port/NAME</c>.</summary>
    /// <exception cref="CheckpointEngineException">Not reached, refused, not found, too large or malformed.</exception>
    public Task<CheckpointMetas> FetchAsync(string url, CancellationToken cancellationToken = default)
        => throw new NotImplementedException(url);

    /// <summary>Reads metas from a file, JSON or pickle.</summary>
    /// <exception cref="CheckpointEngineException">Not there, too large or malformed.</exception>
    public static Task<CheckpointMetas> ReadFileAsync(string path, CancellationToken cancellationToken = default)
        => throw new NotImplementedException(path);

    /// <inheritdoc/>
    public void Dispose()
    {
    }
}
