using System.Net.Security;
using System.Security.Authentication;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Microsoft.AspNetCore.Server.Kestrel.Https;

namespace CheckpointEngine.Http.Hosting;

/// <summary>Certificates of the server and of those it lets in.</summary>
internal static class ServerTls
{
    private const string ClientAuthentication = "1.3.6.1.5.5.7.3.2";    // RFC 5280, 4.2.1.12: id-kp-clientAuth

    /// <summary>What https needs, read from files.</summary>
    /// <exception cref="ArgumentException">No certificate was named.</exception>
    /// <exception cref="CheckpointEngineException">A file cannot be read, or holds no certificate or key.</exception>
    internal static TlsHandshakeCallbackOptions Load(CheckpointEngineHostOptions options)
    {
        if (options.TlsCertificateFile is not { } certificateFile)
        {
            throw new ArgumentException("https needs a certificate: name its file with --tls-cert, and its key's with --tls-key", nameof(options));
        }
        string files = options.TlsKeyFile is null ? certificateFile : $"{certificateFile}' and '{options.TlsKeyFile}";
        X509Certificate2 certificate = Read(files, () => X509Certificate2.CreateFromPemFile(certificateFile, options.TlsKeyFile));
        // Offline: what the chain lacks is not fetched from whatever address the certificate names, which may take a start minutes.
        SslStreamCertificateContext context = SslStreamCertificateContext.Create(certificate, ReadAll(certificateFile), offline: true);
        X509Certificate2Collection? authorities = options.TlsClientCaFile is { } authoritiesFile ? ReadAll(authoritiesFile) : null;
        bool isCertificateDemanded = options.Token is null;
        return new TlsHandshakeCallbackOptions
        {
            OnConnection = _ => ValueTask.FromResult(new SslServerAuthenticationOptions
            {
                ServerCertificateContext = context,
                EnabledSslProtocols = SslProtocols.Tls12 | SslProtocols.Tls13,
                ClientCertificateRequired = authorities is not null,
                CertificateRevocationCheckMode = X509RevocationMode.NoCheck,
                RemoteCertificateValidationCallback = authorities is null ? null : (_, client, sent, _)
                    => client is null ? !isCertificateDemanded : client is X509Certificate2 full && IsIssuedBy(authorities, full, sent),
            }),
        };
    }

    // The system's authorities have no say: the errors that its own check found are put aside, and the chain is built anew.
    private static bool IsIssuedBy(X509Certificate2Collection authorities, X509Certificate2 client, X509Chain? sent)
    {
        using var chain = new X509Chain();
        chain.ChainPolicy.TrustMode = X509ChainTrustMode.CustomRootTrust;
        chain.ChainPolicy.CustomTrustStore.AddRange(authorities);
        chain.ChainPolicy.RevocationMode = X509RevocationMode.NoCheck;
        chain.ChainPolicy.DisableCertificateDownloads = true;
        chain.ChainPolicy.ApplicationPolicy.Add(new Oid(ClientAuthentication));
        if (sent is not null)
        {
            chain.ChainPolicy.ExtraStore.AddRange(sent.ChainPolicy.ExtraStore);
        }
        return chain.Build(client);
    }

    private static X509Certificate2Collection ReadAll(string file)
    {
        var certificates = new X509Certificate2Collection();
        Read(file, () =>
        {
            certificates.ImportFromPemFile(file);
            return certificates;
        });
        return certificates.Count != 0
            ? certificates
            : throw new CheckpointEngineException(CheckpointError.InvalidData, $"read certificates from '{file}': it holds none in PEM");
    }

    private static T Read<T>(string file, Func<T> read)
    {
        try
        {
            return read();
        }
        catch (CryptographicException bad)
        {
            throw new CheckpointEngineException(CheckpointError.InvalidData, $"read a certificate and its key from '{file}': {bad.Message}", 0, bad);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            throw new CheckpointEngineException(CheckpointError.Io, $"read certificates from '{file}': {failure.Message}", 0, failure);
        }
    }
}
