using System.Security.Cryptography.X509Certificates;
using CheckpointEngine.Access;
using CheckpointEngine.Peers;

namespace CheckpointEngine.Metas;

/// <summary>How a <see cref="MetasClient"/> reaches a holder.</summary>
public sealed class MetasClientOptions
{
    /// <summary>The token to show; null for none.</summary>
    public AccessToken? Token { get; set; }

    /// <summary>PEM file with the authorities that a https server's certificate must come from; null for the system's.</summary>
    public string? CaFile { get; set; }

    /// <summary>The certificate, with key, to show to a https server; null for none.</summary>
    public X509Certificate2? ClientCertificate { get; set; }

    /// <summary>The longest time for one request, body included; default 60 s.</summary>
    public TimeSpan Timeout { get; set; } = TimeSpan.FromSeconds(60);

    /// <summary>The most bytes that metas may have, decompressed; default 128 MiB.</summary>
    public long MaxBytes { get; set; } = 128L << 20;
}
