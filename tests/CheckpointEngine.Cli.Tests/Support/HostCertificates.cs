using System.Net;
using System.Security.Cryptography.X509Certificates;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Simulation;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>What hosts of a network need to send weights within TLS: one certificate for all of their addresses, of an authority of its own.</summary>
internal sealed class HostCertificates
{
    private readonly string _authority;
    private readonly string _certificate;
    private readonly string _key;

    /// <summary>Makes them.</summary>
    /// <param name="temp">Where they are written to.</param>
    /// <param name="hosts">How many hosts there are.</param>
    public HostCertificates(TempDirectory temp, int hosts)
    {
        (_authority, _certificate, _key) = (temp["authority"], temp["certificate"], temp["key"]);
        using var authority = new TestCertificates("hosts");
        using X509Certificate2 certificate = authority.Issue(isClient: false, addresses: Enumerable.Range(0, hosts).Select(host => IPAddress.Parse(NetworkOfHosts.AddressOf(host))));
        File.WriteAllText(_authority, authority.Authority.ExportCertificatePem());
        File.WriteAllText(_certificate, certificate.ExportCertificatePem());
        File.WriteAllText(_key, certificate.GetECDsaPrivateKey()!.ExportPkcs8PrivateKeyPem());
    }

    /// <summary>Options of everybody.</summary>
    public string[] Access => ["--encrypt", "--ca-file", _authority];

    /// <summary>Options of those that send weights.</summary>
    public string[] Own => ["--tls-cert", _certificate, "--tls-key", _key];
}
