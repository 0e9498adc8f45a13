using CheckpointEngine.Access;
using CheckpointEngine.Http.Telemetry;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Http;

/// <summary>Where a <see cref="CheckpointEngineHost"/> listens and whom it lets in.</summary>
public sealed class CheckpointEngineHostOptions
{
    /// <summary>
    /// Where to listen: <c>http://HOST:PORT</c>, <c>https://HOST:PORT</c> (HOST a name, an address, IPv6 in square brackets, or <c>*</c>; PORT 0
    /// takes any free one) or <c>unix:/path/to.sock</c>. Default <c>http://127.0.0.1:19700</c>.
    /// </summary>
    public IReadOnlyList<string> Listen { get; set; } = ["http://127.0.0.1:19700"];

    /// <summary>PEM file with the certificate for https, then those of the authorities between it and the root, if any.</summary>
    public string? TlsCertificateFile { get; set; }

    /// <summary>PEM file with the certificate's key, not encrypted; null when the certificate's file holds it.</summary>
    public string? TlsKeyFile { get; set; }

    /// <summary>
    /// PEM file with the authorities of client certificates; they alone are trusted. With it https demands a certificate; where there is a
    /// token too, either will do.
    /// </summary>
    public string? TlsClientCaFile { get; set; }

    /// <summary>The bearer token that every endpoint but <c>/v1/healthz</c> and <c>/v1/readyz</c> demands; null (the default) demands none.</summary>
    public AccessToken? Token { get; set; }

    /// <summary>Listen on an address that others can reach, though anybody could use it. Default false.</summary>
    public bool Insecure { get; set; }

    /// <summary>Directories (or files) of which files may be registered over HTTP; default none.</summary>
    public IReadOnlyList<string> AllowPaths { get; set; } = [];

    /// <summary>Base URLs of the peers that <c>gather-metas</c> asks; default none.</summary>
    public IReadOnlyList<string> GatherPeers { get; set; } = [];

    /// <summary>How those peers are reached; null (the default) shows them <see cref="Token"/> and trusts the system's authorities.</summary>
    public MetasClientOptions? GatherClient { get; set; }

    /// <summary>
    /// Why nobody should be sent here yet, asked at each <c>/v1/readyz</c>, whose answer is 503 with this text then; everybody can read it. Null (the default), and null from it: it is
    /// ready as soon as a checkpoint is held.
    /// </summary>
    public Func<string?>? NotReady { get; set; }

    /// <summary>
    /// Connections at a time over all addresses to listen on, and requests a second of one client; default 1,024 and 512 of one address, 1,000 requests. Health is answered
    /// at any rate. A client that asks for more is answered later, and with 429 at last.
    /// </summary>
    public ConnectionLimits Limits { get; set; } = new(1024, 512, 1000);

    /// <summary>How long a client may take for the head of a request; default 10 s. A body must come, and an answer be taken, at 240 bytes a second.</summary>
    public TimeSpan RequestHeadTimeout { get; set; } = TimeSpan.FromSeconds(10);

    /// <summary>
    /// What <c>/metrics</c> tells; stays the caller's. Null (the default): the host makes its own, which counts from the host's start on.
    /// </summary>
    public TelemetryExport? Telemetry { get; set; }

    /// <summary>Whether everybody may read <c>/metrics</c>, token or not: for scrapers that have none. Default false.</summary>
    public bool MetricsOpen { get; set; }

    /// <summary>How long <see cref="CheckpointEngineHost.StopAsync"/> waits for requests under way before it cuts them; default 30 s.</summary>
    public TimeSpan DrainTimeout { get; set; } = TimeSpan.FromSeconds(30);

    /// <summary>Where the server logs; default nowhere. Who was refused is told in the category <see cref="AuditLog.Category"/>.</summary>
    public ILoggerFactory LoggerFactory { get; set; } = NullLoggerFactory.Instance;
}
