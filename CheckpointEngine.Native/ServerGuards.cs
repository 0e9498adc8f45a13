using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using CheckpointEngine.Access;

namespace CheckpointEngine.Native;

/// <summary>What guards a server of the C interface: TLS of its peer service and of those that it reads from, and what others get of it at a time.</summary>
internal static unsafe class ServerGuards
{
    // As of the command: a GiB.
    private const uint MostInFlightKib = 1 << 20;

    /// <summary>With what its peer service speaks TLS; null: it does not.</summary>
    internal static TlsServerOptions? PeerTls(in CeServerOptions given)
    {
        string? certificate = Call.OptionalText(given.TlsCertFile, "tls_cert_file");
        string? key = Call.OptionalText(given.TlsKeyFile, "tls_key_file");
        string? authorities = Call.OptionalText(given.TlsClientCaFile, "tls_client_ca_file");
        if (certificate is null && (key ?? authorities) is not null)
        {
            throw new CallException(Status.Argument, "tls_key_file and tls_client_ca_file are of use with tls_cert_file");
        }
        if (certificate is null && given.EncryptData != 0)
        {
            throw new CallException(Status.Argument, "encrypt_data needs tls_cert_file: there is no certificate to do it with");
        }
        return certificate is null ? null : new TlsServerOptions { CertificateFile = certificate, KeyFile = key, ClientCaFile = authorities };
    }

    /// <summary>How its joins meet those who speak TLS.</summary>
    /// <exception cref="CheckpointEngineException">The certificate cannot be read.</exception>
    internal static TlsClientOptions ClientTls(in CeServerOptions given) => new()
    {
        CaFile = Call.OptionalText(given.CaFile, "ca_file"),
        Certificate = Certificate(given.CertFile, given.KeyFile),
        Required = given.RequireTls != 0,
        EncryptionRequired = given.RequireEncryption != 0,
    };

    /// <summary>A certificate to show, with its key; null for none.</summary>
    /// <exception cref="CheckpointEngineException">It cannot be read.</exception>
    internal static X509Certificate2? Certificate(byte* certFile, byte* keyFile)
    {
        string? certificate = Call.OptionalText(certFile, "cert_file");
        string? key = Call.OptionalText(keyFile, "key_file");
        if (certificate is null != key is null)
        {
            throw new CallException(Status.Argument, "cert_file and key_file belong together");
        }
        try
        {
            return certificate is null ? null : X509Certificate2.CreateFromPemFile(certificate, key);
        }
        catch (Exception failure) when (failure is CryptographicException or IOException or UnauthorizedAccessException)
        {
            throw new CheckpointEngineException(CheckpointError.Io, $"read certificate {certificate}: {failure.Message}", 0, failure);
        }
    }

    internal static ServerLimits Limits(in CeServerOptions given)
    {
        var standard = new ServerLimits();
        return new ServerLimits
        {
            Peers = Connections(given.MaxPeers, given.MaxPeersOfAddress, standard.Peers, "max_peers") with { RequestsPerSecond = Number(given.MaxRequests, standard.Peers.RequestsPerSecond, "max_requests") },
            Data = Connections(given.MaxData, given.MaxDataOfAddress, standard.Data, "max_data"),
            Handshake = Connections(given.MaxHandshakes, given.MaxHandshakesOfAddress, standard.Handshake, "max_handshakes"),
            Leases = Number(given.MaxLeases, standard.Leases, "max_leases"),
            DataBytesInFlight = given.MaxInFlightKib > MostInFlightKib
                ? throw new CallException(Status.Argument, $"max_in_flight_kib is {given.MaxInFlightKib}, and {MostInFlightKib} is the most")
                : (int)given.MaxInFlightKib << 10,
        };
    }

    private static ConnectionLimits Connections(uint all, uint ofAnAddress, ConnectionLimits standard, string what)
    {
        int connections = Number(all, standard.Connections, what);
        return standard with { Connections = connections, ConnectionsOfAnAddress = Number(ofAnAddress, Math.Min(standard.ConnectionsOfAnAddress, connections), what + "_of_address") };
    }

    private static int Number(uint given, int standard, string what) => given switch
    {
        0 => standard,
        <= int.MaxValue => (int)given,
        _ => throw new CallException(Status.Argument, $"{what} is {given}, and {int.MaxValue} is the most"),
    };
}
