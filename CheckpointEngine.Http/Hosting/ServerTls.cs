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
    internal static HttpsConnectionAdapterOptions Load(CheckpointEngineHostOptions options)
    {
        if (options.TlsCertificateFile is not { } certificateFile)
        {
            throw new ArgumentException("https needs a certificate: name its file with --tls-cert, and its key's with --tls-key", nameof(options));
        }
        X509Certificate2 certificate = Read(certificateFile, () => X509Certificate2.CreateFromPemFile(certificateFile, options.TlsKeyFile));
        var https = new HttpsConnectionAdapterOptions
        {
            ServerCertificate = certificate,
            ServerCertificateChain = ReadAll(certificateFile),
            SslProtocols = SslProtocols.Tls12 | SslProtocols.Tls13,
        };
        if (options.TlsClientCaFile is { } authoritiesFile)
        {
            X509Certificate2Collection authorities = ReadAll(authoritiesFile);
            https.ClientCertificateMode = options.Token is null ? ClientCertificateMode.RequireCertificate : ClientCertificateMode.AllowCertificate;
            https.ClientCertificateValidation = (client, sent, _) => IsIssuedBy(authorities, client, sent);
        }
        return https;
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
