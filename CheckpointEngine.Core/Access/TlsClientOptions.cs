using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;
using System.Security.Cryptography.X509Certificates;

namespace CheckpointEngine.Access;

/// <summary>How holders that speak TLS are met, on their peer service and their data port.</summary>
public sealed class TlsClientOptions
{
    /// <summary>PEM file with the authorities that a peer's certificate must come from; null for the system's.</summary>
    public string? CaFile { get; set; }

    /// <summary>The certificate, with key, to show; null for none.</summary>
    public X509Certificate2? Certificate { get; set; }

    /// <summary>Speak to no peer service without TLS: what an owner announces of itself comes over a connection that somebody in between may have changed. Default false.</summary>
    public bool Required { get; set; }

    /// <summary>Read from no owner over a network but within TLS (<see cref="ParameterServerOptions.EncryptData"/> there); what <see cref="Required"/> says is implied. Default false.</summary>
    public bool EncryptionRequired { get; set; }

    /// <summary>Makes a connection a TLS 1.3 one, to a server whose certificate is for <paramref name="host"/>.</summary>
    /// <param name="socket">The connection; disposed of with the result, and when this throws.</param>
    /// <param name="host">The address or name that was connected to.</param>
    /// <param name="peer">The peer, for messages.</param>
    /// <param name="timeout">For the handshake.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Refused"/>: the certificate is not what it should be, or the peer speaks no TLS. Timeout, Unreachable.</exception>
    internal async Task<SslStream> SecureAsync(Socket socket, string host, string peer, TimeSpan timeout, CancellationToken cancellationToken)
    {
        var stream = new SslStream(new NetworkStream(socket, ownsSocket: true));
        using var deadline = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        deadline.CancelAfter(timeout);
        try
        {
            await stream.AuthenticateAsClientAsync(CreateOptions(host), deadline.Token).ConfigureAwait(false);
            return stream;
        }
        catch (Exception failure)
        {
            await stream.DisposeAsync().ConfigureAwait(false);
            throw failure switch
            {
                AuthenticationException => new CheckpointEngineException(CheckpointError.Refused, $"begin TLS with {peer}: {failure.Message}; check --ca-file, and that its certificate is for '{host}'", 0, failure),
                OperationCanceledException when !cancellationToken.IsCancellationRequested => new CheckpointEngineException(CheckpointError.Timeout, $"begin TLS with {peer}: no answer within {timeout.TotalSeconds:0.#} s"),
                IOException or SocketException => new CheckpointEngineException(CheckpointError.Unreachable, $"begin TLS with {peer}: {failure.Message}", 0, failure),
                _ => failure,
            };
        }
    }

    /// <summary>What a connection to a server whose certificate is for <paramref name="host"/> is made with; files are read as they are now.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CaFile"/> cannot be read.</exception>
    internal SslClientAuthenticationOptions CreateOptions(string host)
    {
        var options = new SslClientAuthenticationOptions
        {
            TargetHost = host,
            EnabledSslProtocols = SslProtocols.Tls13,
            CertificateRevocationCheckMode = X509RevocationMode.NoCheck,
        };
        if (Certificate is { } certificate)
        {
            options.ClientCertificates = [certificate];
            options.LocalCertificateSelectionCallback = (_, _, _, _, _) => certificate;
        }
        if (CaFile is { } file)
        {
            options.CertificateChainPolicy = new X509ChainPolicy { TrustMode = X509ChainTrustMode.CustomRootTrust, RevocationMode = X509RevocationMode.NoCheck, DisableCertificateDownloads = true };
            options.CertificateChainPolicy.CustomTrustStore.AddRange(ServerCertificates.ReadAll(file));
        }
        return options;
    }
}
