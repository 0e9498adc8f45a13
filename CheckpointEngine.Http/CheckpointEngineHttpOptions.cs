using CheckpointEngine.Access;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;

namespace CheckpointEngine.Http;

/// <summary>Who may use the endpoints, and for what.</summary>
public sealed class CheckpointEngineHttpOptions
{
    /// <summary>The bearer token that every endpoint but <c>/v1/healthz</c> and <c>/v1/readyz</c> demands; null (the default) demands none.</summary>
    public AccessToken? Token { get; set; }

    /// <summary>
    /// Whether a TLS client certificate takes the place of the token. Default false; set it only where the server checks client certificates
    /// against an authority of its own, as <see cref="CheckpointEngineHost"/> does.
    /// </summary>
    public bool AcceptClientCertificates { get; set; }

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
}
