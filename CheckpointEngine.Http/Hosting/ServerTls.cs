using System.Net.Security;
using System.Security.Authentication;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using CheckpointEngine.Access;
using Microsoft.AspNetCore.Server.Kestrel.Https;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Http.Hosting;

/// <summary>Certificates of the server and of those it lets in: those of their files, which may be replaced while it runs.</summary>
/// <remarks>Any number of threads. Connections that are open keep what they were made with; those that come get what is there then.</remarks>
internal sealed class ServerTls : IDisposable
{
    private const string ClientAuthentication = "1.3.6.1.5.5.7.3.2";    // RFC 5280, 4.2.1.12: id-kp-clientAuth

    private readonly CheckpointEngineHostOptions _options;
    private readonly WatchedFiles _watched;
    private Credentials _current;

    /// <summary>Reads what https needs from its files, and begins to look after them.</summary>
    /// <exception cref="ArgumentException">No certificate was named.</exception>
    /// <exception cref="CheckpointEngineException">A file cannot be read, or holds no certificate or key.</exception>
    internal ServerTls(CheckpointEngineHostOptions options)
    {
        _options = options;
        _current = Load(options);
        string?[] files = [options.TlsCertificateFile, options.TlsKeyFile, options.TlsClientCaFile];
        _watched = new WatchedFiles(files.OfType<string>(), Renew, options.LoggerFactory.CreateLogger("CheckpointEngine.Http"));
        HandshakeOptions = new TlsHandshakeCallbackOptions { OnConnection = _ => ValueTask.FromResult(Answer()) };
    }

    /// <summary>What Kestrel asks for each connection.</summary>
    internal TlsHandshakeCallbackOptions HandshakeOptions { get; }

    /// <summary>Reads the files now.</summary>
    /// <returns>Whether they could be used; if not, those that were read before stay.</returns>
    internal bool Reload() => _watched.Reload();

    public void Dispose() => _watched.Dispose();

    private bool Renew()
    {
        Credentials read = Load(_options);
        Credentials before = Interlocked.Exchange(ref _current, read);
        return before.Thumbprint != read.Thumbprint;      // what came before is left to the collector: a handshake may be using it
    }

    private SslServerAuthenticationOptions Answer()
    {
        Credentials current = Volatile.Read(ref _current);
        bool isCertificateDemanded = _options.Token is null;
        return new SslServerAuthenticationOptions
        {
            ServerCertificateContext = current.Context,
            EnabledSslProtocols = SslProtocols.Tls12 | SslProtocols.Tls13,
            ClientCertificateRequired = current.Authorities is not null,
            CertificateRevocationCheckMode = X509RevocationMode.NoCheck,
            RemoteCertificateValidationCallback = current.Authorities is not { } authorities ? null : (_, client, sent, _)
                => client is null ? !isCertificateDemanded : client is X509Certificate2 full && IsIssuedBy(authorities, full, sent),
        };
    }

    private static Credentials Load(CheckpointEngineHostOptions options)
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
        return new Credentials(context, authorities, certificate.Thumbprint + string.Concat(authorities?.Select(authority => authority.Thumbprint) ?? []));
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

    private sealed record Credentials(SslStreamCertificateContext Context, X509Certificate2Collection? Authorities, string Thumbprint);
}
