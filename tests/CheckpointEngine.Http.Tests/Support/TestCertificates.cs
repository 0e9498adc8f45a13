using System.Net;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace CheckpointEngine.Http.Tests.Support;

/// <summary>An authority and what it issues, made for one test.</summary>
internal sealed class TestCertificates : IDisposable
{
    private readonly ECDsa _key = ECDsa.Create(ECCurve.NamedCurves.nistP256);

    internal TestCertificates(string name)
    {
        var request = new CertificateRequest($"CN={name}", _key, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(certificateAuthority: true, false, 0, critical: true));
        request.CertificateExtensions.Add(new X509KeyUsageExtension(X509KeyUsageFlags.KeyCertSign, critical: true));
        Authority = request.CreateSelfSigned(DateTimeOffset.UtcNow.AddHours(-1), DateTimeOffset.UtcNow.AddHours(1));
    }

    internal X509Certificate2 Authority { get; }

    /// <summary>Issues a certificate with its key.</summary>
    /// <param name="isClient">Whether it is a client's.</param>
    /// <param name="notAfter">Until when it is valid; null for 50 minutes.</param>
    /// <param name="addresses">What it is for; null for 127.0.0.1.</param>
    internal X509Certificate2 Issue(bool isClient, DateTimeOffset? notAfter = null, IEnumerable<IPAddress>? addresses = null)
    {
        using ECDsa key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest(isClient ? "CN=client" : "CN=server", key, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509EnhancedKeyUsageExtension([new Oid(isClient ? "1.3.6.1.5.5.7.3.2" : "1.3.6.1.5.5.7.3.1")], critical: false));
        var names = new SubjectAlternativeNameBuilder();
        foreach (IPAddress address in addresses ?? [IPAddress.Loopback])
        {
            names.AddIpAddress(address);
        }
        request.CertificateExtensions.Add(names.Build());
        byte[] serial = RandomNumberGenerator.GetBytes(8);
        using X509Certificate2 issued = request.Create(Authority, DateTimeOffset.UtcNow.AddMinutes(-50), notAfter ?? DateTimeOffset.UtcNow.AddMinutes(50), serial);
        return issued.CopyWithPrivateKey(key);
    }

    public void Dispose()
    {
        Authority.Dispose();
        _key.Dispose();
    }
}
