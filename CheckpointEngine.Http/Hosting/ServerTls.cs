using System.Security.Authentication;
using CheckpointEngine.Access;
using Microsoft.AspNetCore.Server.Kestrel.Https;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Http.Hosting;

/// <summary>Shows Kestrel the certificates of the server and of those it lets in, for each connection those of then.</summary>
internal static class ServerTls
{
    /// <summary>Reads what https needs from its files, and begins to look after them.</summary>
    /// <exception cref="ArgumentException">No certificate was named.</exception>
    /// <exception cref="CheckpointEngineException">A file cannot be read, or holds no certificate or key.</exception>
    internal static ServerCertificates Open(CheckpointEngineHostOptions options)
    {
        if (options.TlsCertificateFile is not { } certificateFile)
        {
            throw new ArgumentException("https needs a certificate: name its file with --tls-cert, and its key's with --tls-key", nameof(options));
        }
        return new ServerCertificates(new TlsServerOptions { CertificateFile = certificateFile, KeyFile = options.TlsKeyFile, ClientCaFile = options.TlsClientCaFile },
            options.LoggerFactory.CreateLogger("CheckpointEngine.Http"));
    }

    /// <summary>What Kestrel asks for each connection: a certificate may take the place of the token, so it is demanded where there is none.</summary>
    internal static TlsHandshakeCallbackOptions OfEachConnection(ServerCertificates certificates, CheckpointEngineHostOptions options) => new()
    {
        OnConnection = _ => ValueTask.FromResult(certificates.CreateOptions(SslProtocols.Tls12 | SslProtocols.Tls13, demandsCertificate: options.Token is null)),
    };
}
