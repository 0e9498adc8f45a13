using System.Net.Security;
using System.Security.Authentication;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using CheckpointEngine.Internal;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Access;

/// <summary>Certificates of a server and of those it lets in: those of their files, which may be replaced while it runs.</summary>
/// <remarks>Any number of threads. Connections that are open keep what they were made with; those that come get what is there then.</remarks>
public sealed class ServerCertificates : IConnectionSecurity
{
    private const string ClientAuthentication = "1.3.6.1.5.5.7.3.2";    // RFC 5280, 4.2.1.12: id-kp-clientAuth

    private const int MaxSubjectChars = 200;

    private readonly TlsServerOptions _options;
    private readonly WatchedFiles _watched;
    private Credentials _current;

    /// <summary>Reads the files, and begins to look after them.</summary>
    /// <param name="options">Which.</param>
    /// <param name="logger">Told of changes and failures.</param>
    /// <exception cref="CheckpointEngineException">A file cannot be read, or holds no certificate or key.</exception>
    public ServerCertificates(TlsServerOptions options, ILogger logger)
    {
        ArgumentNullException.ThrowIfNull(options);
        _options = options;
        _current = Load(options);
        string?[] files = [options.CertificateFile, options.KeyFile, options.ClientCaFile];
        _watched = new WatchedFiles(files.OfType<string>(), Renew, logger);
    }

    /// <summary>What a connection that comes now is to be made with.</summary>
    /// <param name="protocols">The versions of TLS.</param>
    /// <param name="demandsCertificate">Whether a client without a certificate is refused, where there are authorities for some.</param>
    public SslServerAuthenticationOptions CreateOptions(SslProtocols protocols, bool demandsCertificate)
    {
        Credentials current = Volatile.Read(ref _current);
        return new SslServerAuthenticationOptions
        {
            ServerCertificateContext = current.Context,
            EnabledSslProtocols = protocols,
            ClientCertificateRequired = current.Authorities is not null,
            CertificateRevocationCheckMode = X509RevocationMode.NoCheck,
            RemoteCertificateValidationCallback = current.Authorities is not { } authorities ? null : (_, client, sent, _)
                => client is null ? !demandsCertificate : client is X509Certificate2 full && IsIssuedBy(authorities, full, sent),
        };
    }

    /// <summary>Reads the files now.</summary>
    /// <returns>Whether they could be used; if not, those that were read before stay.</returns>
    public bool Reload() => _watched.Reload();

    bool IConnectionSecurity.Reload(out CheckpointEngineException? unusable) => _watched.Reload(out unusable);

    /// <inheritdoc/>
    public void Dispose() => _watched.Dispose();

    async Task<SecuredConnection> IConnectionSecurity.SecureAsync(Stream connection, CancellationToken cancellationToken)
    {
        var stream = new SslStream(connection);
        try
        {
            SslServerAuthenticationOptions options = CreateOptions(SslProtocols.Tls13, demandsCertificate: true);
            await stream.AuthenticateAsServerAsync(options, cancellationToken).ConfigureAwait(false);
            byte[] binding = TokenChallenge.BindingOf(options.ServerCertificateContext!.TargetCertificate);
            return new SecuredConnection(stream, binding, stream.RemoteCertificate is X509Certificate2 certificate ? MessageText.Clean(certificate.Subject, MaxSubjectChars) : "");
        }
        catch (Exception failure)
        {
            await stream.DisposeAsync().ConfigureAwait(false);
            if (failure is AuthenticationException)
            {
                throw new CheckpointEngineException(CheckpointError.Refused, $"it speaks no TLS 1.3, or shows no certificate that is trusted: {failure.Message}", 0, failure);
            }
            throw;
        }
    }

    private bool Renew()
    {
        Credentials read = Load(_options);
        Credentials before = Interlocked.Exchange(ref _current, read);
        return before.Thumbprint != read.Thumbprint;      // what came before is left to the collector: a handshake may be using it
    }

    private static Credentials Load(TlsServerOptions options)
    {
        string files = options.KeyFile is null ? options.CertificateFile : $"{options.CertificateFile}' and '{options.KeyFile}";
        X509Certificate2 certificate = Read(files, () => X509Certificate2.CreateFromPemFile(options.CertificateFile, options.KeyFile));
        // Offline: what the chain lacks is not fetched from whatever address the certificate names, which may take a start minutes.
        SslStreamCertificateContext context = SslStreamCertificateContext.Create(certificate, ReadAll(options.CertificateFile), offline: true);
        X509Certificate2Collection? authorities = options.ClientCaFile is { } authoritiesFile ? ReadAll(authoritiesFile) : null;
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

    internal static X509Certificate2Collection ReadAll(string file)
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
