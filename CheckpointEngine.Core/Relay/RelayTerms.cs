using CheckpointEngine.Access;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Relay;

/// <summary>On what terms a joiner offers to others what it has, and reads from them: those of its server.</summary>
internal sealed record RelayTerms
{
    /// <summary>Where the listeners log.</summary>
    internal required ILoggerFactory Logging { get; init; }

    /// <summary>How others are met.</summary>
    internal TlsClientOptions Client { get; init; } = new();

    /// <summary>With what the listeners speak TLS; null: they do not. The server's to dispose of.</summary>
    internal IConnectionSecurity? Security { get; init; }

    /// <summary>Whether the data port does, too.</summary>
    internal bool Encrypts { get; init; }

    /// <summary>What others may have at a time.</summary>
    internal ServerLimits Limits { get; init; } = new();

    /// <summary>Told of those that read and are refused; null for nobody.</summary>
    internal AuditLog? Audit { get; init; }

    /// <summary>How what is offered is guarded.</summary>
    internal RelaySecurity Speaks => Security is null ? RelaySecurity.None : Encrypts ? RelaySecurity.Encrypted : RelaySecurity.Tls;

    /// <summary>What is demanded of others.</summary>
    internal RelaySecurity Demands => Client.EncryptionRequired ? RelaySecurity.Encrypted : Client.Required ? RelaySecurity.Tls : RelaySecurity.None;

    /// <summary>The terms for what an owner sends encrypted: it crosses the network in no other way afterwards.</summary>
    internal RelayTerms Encrypted() => this with
    {
        Client = new TlsClientOptions { CaFile = Client.CaFile, Certificate = Client.Certificate, Required = true, EncryptionRequired = true },
        Encrypts = Security is not null,
    };
}
