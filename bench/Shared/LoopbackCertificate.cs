using System.Net;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using CheckpointEngine.Access;

namespace CheckpointEngine.Benchmarks;

/// <summary>A certificate for 127.0.0.1 that is its own authority, in files that go with it.</summary>
internal sealed class LoopbackCertificate : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("ce-certificate-").FullName;

    internal LoopbackCertificate()
    {
        using ECDsa key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest("CN=measured", key, HashAlgorithmName.SHA256);
        var names = new SubjectAlternativeNameBuilder();
        names.AddIpAddress(IPAddress.Loopback);
        request.CertificateExtensions.Add(names.Build());
        using X509Certificate2 certificate = request.CreateSelfSigned(DateTimeOffset.UtcNow.AddHours(-1), DateTimeOffset.UtcNow.AddDays(1));
        File.WriteAllText(CertificateFile, certificate.ExportCertificatePem());
        File.WriteAllText(KeyFile, key.ExportPkcs8PrivateKeyPem());
    }

    internal TlsServerOptions Server => new() { CertificateFile = CertificateFile, KeyFile = KeyFile };

    internal TlsClientOptions Client => new() { CaFile = CertificateFile };

    internal string CertificateFile => Path.Combine(_directory, "cert");

    internal string KeyFile => Path.Combine(_directory, "key");

    public void Dispose() => Directory.Delete(_directory, recursive: true);
}
