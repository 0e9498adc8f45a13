using System.Diagnostics;
using System.Diagnostics.CodeAnalysis;
using System.Net;
using System.Net.Http.Headers;
using System.Net.Sockets;
using System.Security.Cryptography.X509Certificates;
using System.Text.Json;
using CheckpointEngine.Access;
using CheckpointEngine.Internal;
using CheckpointEngine.Peers;
using CheckpointEngine.Telemetry;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Metas;

/// <summary>Fetches metas from a holder: http, https, a Unix socket, the peer service (ce), or a file.</summary>
/// <remarks>Any number of threads; keeps connections open until disposed.</remarks>
public sealed class MetasClient : IDisposable
{
    private const string PlainScheme = "ce://";
    private const string TlsScheme = "ce+tls://";
    private const int MaxProblemBytes = 64 << 10;

    private readonly MetasClientOptions _options;
    private readonly Lock _lock = new();
    private readonly Dictionary<string, HttpClient> _clients = [];    // by Unix socket path; "" for TCP, "loopback" without compression

    // The C library leaves it out, for its size.
    [FeatureSwitchDefinition("CheckpointEngine.Metas.Brotli")]
    private static bool TakesBrotli { get; } = !AppContext.TryGetSwitch("CheckpointEngine.Metas.Brotli", out bool takes) || takes;

    /// <summary>Makes a client.</summary>
    public MetasClient(MetasClientOptions? options = null) => _options = options ?? new MetasClientOptions();

    /// <summary>Fetches metas from <paramref name="url"/>: <c>http(s)://host:port/…</c>, <c>unix:/path/to.sock:/v1/metas</c>, <c>ce://host:port/NAME</c> (<c>ce+tls://</c> with TLS), <c>file:///path</c>.</summary>
    /// <exception cref="CheckpointEngineException">Not reached, refused, not found, too large or malformed.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public async Task<CheckpointMetas> FetchAsync(string url, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(url);
        using Activity? activity = EngineTelemetry.Start("metas");
        if (url.StartsWith("file://", StringComparison.OrdinalIgnoreCase))
        {
            return await ReadFileAsync(Uri.TryCreate(url, UriKind.Absolute, out Uri? file) ? file.LocalPath : url["file://".Length..], cancellationToken).ConfigureAwait(false);
        }
        return await AskAsync(url, TimeSpan.Zero, async token =>
        {
            if (!IsOfPeerService(url))
            {
                return (await FetchOverHttpAsync(url, null, TimeSpan.Zero, token).ConfigureAwait(false)).Metas!;
            }
            using PeerClient peer = await ConnectAsync(url, out string name, token).ConfigureAwait(false);
            return await peer.GetMetasAsync(name, _options.MaxBytes, token).ConfigureAwait(false);
        }, cancellationToken).ConfigureAwait(false);
    }

    /// <summary>Fetches the metas of replicas, all at once, and puts them together; those that cannot be had are left out.</summary>
    /// <param name="urls">Each as for <see cref="FetchAsync"/>; one at least.</param>
    /// <param name="leftOut">Told why, for each that is left out; null: nobody is told.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="CheckpointEngineException">None of them could be had: what was wrong with the first.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public async Task<CheckpointMetas> FetchReplicasAsync(IReadOnlyList<string> urls, Action<CheckpointEngineException>? leftOut = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(urls);
        ArgumentOutOfRangeException.ThrowIfZero(urls.Count, nameof(urls));
        Task<CheckpointMetas>[] all = [.. urls.Select(url => FetchAsync(url, cancellationToken))];
        await ((Task)Task.WhenAll(all)).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        cancellationToken.ThrowIfCancellationRequested();
        if (!Array.Exists(all, static fetch => fetch.IsCompletedSuccessfully) || Array.Exists(all, static fetch => fetch.Exception?.InnerException is not (null or CheckpointEngineException)))
        {
            await Task.WhenAll(all).ConfigureAwait(false);
        }
        foreach (Task<CheckpointMetas> failed in all.Where(static fetch => fetch.IsFaulted))
        {
            leftOut?.Invoke((CheckpointEngineException)failed.Exception!.InnerException!);
        }
        return CheckpointMetas.Combine([.. all.Where(static fetch => fetch.IsCompletedSuccessfully).Select(static fetch => fetch.Result)]);
    }

    // Turns time and breakage into the engine's errors.
    private async Task<T> AskAsync<T>(string url, TimeSpan wait, Func<CancellationToken, Task<T>> ask, CancellationToken cancellationToken)
    {
        using var deadline = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        deadline.CancelAfter(_options.Timeout + wait);
        try
        {
            return await ask(deadline.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            throw new CheckpointEngineException(CheckpointError.Timeout, $"fetch metas from {url}: no answer within {_options.Timeout.TotalSeconds:0.#} s");
        }
        catch (Exception failure) when (failure is HttpRequestException or IOException or SocketException)
        {
            throw new CheckpointEngineException(CheckpointError.Unreachable,
                $"fetch metas from {url}: {failure.GetBaseException().Message}; check that the holder runs and listens there", 0, failure);
        }
    }

    /// <summary>Fetches metas with the entity tag by which a change is known; waits for the change, if a tag is given.</summary>
    /// <param name="url">As for <see cref="FetchAsync"/>; no file.</param>
    /// <param name="entityTag">Of the metas that are known; null for none: what there is, is told at once.</param>
    /// <param name="wait">How long at most, up to 300 s; beside <see cref="MetasClientOptions.Timeout"/>, which is for the answer.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <returns>Null when nothing has changed.</returns>
    /// <exception cref="CheckpointEngineException">Not reached, refused, not found, too large or malformed; or the answer has no entity tag.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public Task<PublishedMetas?> FollowAsync(string url, string? entityTag, TimeSpan wait, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(url);
        wait = entityTag is null ? TimeSpan.Zero : TimeSpan.FromSeconds(Math.Floor(Math.Clamp(wait.TotalSeconds, 0, PeerSession.MaxFollowMs / 1000)));
        return AskAsync(url, wait, async token =>
        {
            if (!IsOfPeerService(url))
            {
                (CheckpointMetas? metas, string tag) = await FetchOverHttpAsync(url, entityTag ?? "", wait, token).ConfigureAwait(false);
                return metas is null ? null
                    : tag.Length != 0 ? new PublishedMetas(metas, tag)
                    : ThrowHelper.Throw<PublishedMetas>(CheckpointError.NotSupported, $"follow {url}: its answer has no entity tag, so it is no CheckpointEngine and cannot be followed");
            }
            using PeerClient peer = await ConnectAsync(url, out string name, token).ConfigureAwait(false);
            return await peer.FollowAsync(name, entityTag ?? "", wait, _options.MaxBytes, token).ConfigureAwait(false);
        }, cancellationToken);
    }

    /// <summary>Reads metas from a file, JSON or pickle.</summary>
    /// <exception cref="CheckpointEngineException">Not there, too large or malformed.</exception>
    public static async Task<CheckpointMetas> ReadFileAsync(string path, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        try
        {
            long bytes = new FileInfo(path).Length;
            if (bytes > MetasLimits.MaxDocumentBytes)
            {
                ThrowHelper.Throw(CheckpointError.InvalidData, $"metas file {path}: {bytes:N0} bytes, and metas have at most {MetasLimits.MaxDocumentBytes:N0}");
            }
            return MetasDocument.Read(await File.ReadAllBytesAsync(path, cancellationToken).ConfigureAwait(false));
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            throw new CheckpointEngineException(failure is FileNotFoundException or DirectoryNotFoundException ? CheckpointError.NotFound : CheckpointError.Io,
                $"read metas file {path}: {failure.Message}", 0, failure);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_lock)
        {
            foreach (HttpClient client in _clients.Values)
            {
                client.Dispose();
            }
            _clients.Clear();
        }
    }

    private static bool IsOfPeerService(string url)
        => url.StartsWith(PlainScheme, StringComparison.OrdinalIgnoreCase) || url.StartsWith(TlsScheme, StringComparison.OrdinalIgnoreCase);

    private Task<PeerClient> ConnectAsync(string url, out string name, CancellationToken cancellationToken)
    {
        bool isTls = url.StartsWith(TlsScheme, StringComparison.OrdinalIgnoreCase);
        int host = isTls ? TlsScheme.Length : PlainScheme.Length;
        int slash = url.IndexOf('/', host);
        name = slash < 0 ? "" : Uri.UnescapeDataString(url[(slash + 1)..]);
        if (name.Length == 0)
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, $"'{url}' names no checkpoint; ce://host:port/NAME is needed");
        }
        EndpointName service = EndpointName.Parse(url.AsSpan(host, slash - host));
        return PeerClient.ConnectAsync(service, _options.Token, _options.Timeout, cancellationToken,
            isTls ? new TlsClientOptions { CaFile = _options.CaFile, Certificate = _options.ClientCertificate } : null);
    }

    // Null metas: they are those of the entity tag still.
    private async Task<(CheckpointMetas? Metas, string EntityTag)> FetchOverHttpAsync(string url, string? entityTag, TimeSpan wait, CancellationToken cancellationToken)
    {
        (HttpClient client, Uri target) = Resolve(url);
        if (wait > TimeSpan.Zero)
        {
            target = new UriBuilder(target) { Query = (target.Query.Length > 1 ? target.Query[1..] + "&" : "") + "wait=" + ((int)wait.TotalSeconds).ToString(System.Globalization.CultureInfo.InvariantCulture) }.Uri;
        }
        using var request = new HttpRequestMessage(HttpMethod.Get, target);
        request.Headers.Accept.Add(new MediaTypeWithQualityHeaderValue("application/json"));
        request.Headers.Accept.Add(new MediaTypeWithQualityHeaderValue("application/octet-stream", 0.5));
        if (!string.IsNullOrEmpty(entityTag))
        {
            request.Headers.TryAddWithoutValidation("If-None-Match", entityTag);
        }
        if (_options.Token is not null)
        {
            request.Headers.TryAddWithoutValidation("Authorization", _options.Token.ToBearerHeader());
        }
        using HttpResponseMessage response = await client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, cancellationToken).ConfigureAwait(false);
        using Stream body = await response.Content.ReadAsStreamAsync(cancellationToken).ConfigureAwait(false);
        if (response.StatusCode == HttpStatusCode.NotModified && !string.IsNullOrEmpty(entityTag))
        {
            return (null, entityTag);
        }
        if (response.StatusCode != HttpStatusCode.OK)
        {
            throw await ToErrorAsync(url, response.StatusCode, body, cancellationToken).ConfigureAwait(false);
        }
        CheckpointMetas metas = response.Content.Headers.ContentType?.MediaType == "application/json"
            ? await MetasJsonReader.ReadAsync(body, _options.MaxBytes, cancellationToken).ConfigureAwait(false)
            : MetasDocument.Read(await ReadBoundedAsync(body, response.Content.Headers.ContentLength, _options.MaxBytes, cancellationToken).ConfigureAwait(false));
        return (metas, response.Headers.ETag?.ToString() ?? "");
    }

    private (HttpClient Client, Uri Target) Resolve(string url)
    {
        if (url.StartsWith("unix:", StringComparison.OrdinalIgnoreCase))
        {
            int split = url.IndexOf(":/", 5, StringComparison.Ordinal);
            if (split < 0)
            {
                ThrowHelper.Throw(CheckpointError.InvalidData, $"'{url}' names no path behind the socket; unix:/path/to.sock:/v1/metas is needed");
            }
            return (GetClient(url[5..split]), new Uri("http://localhost" + url[(split + 1)..]));
        }
        if (!Uri.TryCreate(url, UriKind.Absolute, out Uri? uri) || uri.Scheme is not ("http" or "https"))
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, $"'{url}' is no metas URL; http(s)://host:port/v1/metas, unix:/path/to.sock:/v1/metas and ce://host:port/NAME are");
        }
        return (GetClient(uri.IsLoopback ? "loopback" : ""), uri);
    }

    private HttpClient GetClient(string key)
    {
        lock (_lock)
        {
            if (!_clients.TryGetValue(key, out HttpClient? client))
            {
                _clients.Add(key, client = MakeClient(key));
            }
            return client;
        }
    }

    private HttpClient MakeClient(string key)
    {
        var handler = new SocketsHttpHandler
        {
            AllowAutoRedirect = false,      // a holder has no reason to send us elsewhere, our token least of all
            UseProxy = key.Length == 0,
            UseCookies = false,
            ConnectTimeout = TimeSpan.FromSeconds(5),
            // On one host inflating costs more than the bytes that it spares.
            AutomaticDecompression = key.Length != 0 ? DecompressionMethods.None : TakesBrotli ? DecompressionMethods.Brotli | DecompressionMethods.GZip : DecompressionMethods.GZip,
        };
        if (key.StartsWith('/'))
        {
            handler.ConnectCallback = async (_, cancellationToken) =>
            {
                var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                try
                {
                    await socket.ConnectAsync(new UnixDomainSocketEndPoint(key), cancellationToken).ConfigureAwait(false);
                    return new NetworkStream(socket, ownsSocket: true);
                }
                catch
                {
                    socket.Dispose();
                    throw;
                }
            };
        }
        if (_options.ClientCertificate is not null)
        {
            handler.SslOptions.ClientCertificates = [_options.ClientCertificate];
        }
        if (_options.CaFile is string caFile)
        {
            var authorities = new X509Certificate2Collection();
            try
            {
                authorities.ImportFromPemFile(caFile);
            }
            catch (Exception failure) when (failure is IOException or UnauthorizedAccessException or System.Security.Cryptography.CryptographicException)
            {
                throw new CheckpointEngineException(CheckpointError.Io, $"read certificate authorities from {caFile}: {failure.Message}", 0, failure);
            }
            handler.SslOptions.CertificateChainPolicy = new X509ChainPolicy { TrustMode = X509ChainTrustMode.CustomRootTrust, RevocationMode = X509RevocationMode.NoCheck };
            handler.SslOptions.CertificateChainPolicy.CustomTrustStore.AddRange(authorities);
        }
        return new HttpClient(handler) { Timeout = Timeout.InfiniteTimeSpan };
    }

    private static async Task<CheckpointEngineException> ToErrorAsync(string url, HttpStatusCode status, Stream body, CancellationToken cancellationToken)
    {
        string detail = "";
        try
        {
            using JsonDocument problem = JsonDocument.Parse(await ReadBoundedAsync(body, null, MaxProblemBytes, cancellationToken).ConfigureAwait(false));
            detail = problem.RootElement.ValueKind == JsonValueKind.Object && problem.RootElement.TryGetProperty("detail", out JsonElement text)
                ? text.ToString()
                : problem.RootElement.ToString();
        }
        catch (Exception failure) when (failure is JsonException or CheckpointEngineException or IOException)
        {
            // An answer of another server: its status says enough.
        }
        (CheckpointError error, string hint) = (int)status switch
        {
            401 or 403 => (CheckpointError.Refused, "; give the token by --token-file or CHECKPOINT_ENGINE_TOKEN"),
            404 => (CheckpointError.NotFound, ""),
            503 => (CheckpointError.Busy, "; try again"),
            409 => (CheckpointError.InvalidData, ""),
            _ => (CheckpointError.ProtocolViolation, ""),
        };
        return new CheckpointEngineException(error, $"fetch metas from {url}: HTTP {(int)status}{(detail.Length == 0 ? "" : $": {detail[..Math.Min(detail.Length, 1000)]}")}{hint}");
    }

    // A body whose length is told (and within the limit) is read into its place; growing to it would cost four times its size.
    private static async Task<byte[]> ReadBoundedAsync(Stream body, long? lengthBytes, long maxBytes, CancellationToken cancellationToken)
    {
        if (lengthBytes <= Math.Min(maxBytes, Array.MaxLength))
        {
            byte[] whole = GC.AllocateUninitializedArray<byte>((int)lengthBytes);
            await body.ReadExactlyAsync(whole, cancellationToken).ConfigureAwait(false);
            return whole;
        }
        using var collected = new MemoryStream();
        byte[] buffer = new byte[81920];
        int read;
        while ((read = await body.ReadAsync(buffer, cancellationToken).ConfigureAwait(false)) != 0)
        {
            if (collected.Length + read > maxBytes)
            {
                ThrowHelper.Throw(CheckpointError.InvalidData, $"an answer of more than {maxBytes:N0} bytes");
            }
            collected.Write(buffer, 0, read);
        }
        return collected.ToArray();
    }
}
