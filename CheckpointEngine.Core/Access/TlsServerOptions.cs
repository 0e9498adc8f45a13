using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Access;

/// <summary>Where a server's certificates are: PEM files, looked after while it runs.</summary>
public class TlsServerOptions
{
    /// <summary>The server's certificate, then those of the authorities between it and the root, if any.</summary>
    public required string CertificateFile { get; set; }

    /// <summary>The certificate's key, not encrypted; null when the certificate's file holds it.</summary>
    public string? KeyFile { get; set; }

    /// <summary>The authorities of client certificates; they alone are trusted. Null: clients are asked for none.</summary>
    public string? ClientCaFile { get; set; }

    internal IConnectionSecurity Open(ILogger logger) => new ServerCertificates(this, logger);
}
