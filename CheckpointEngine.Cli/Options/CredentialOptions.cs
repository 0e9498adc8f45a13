using System.CommandLine;
using System.Security.Cryptography.X509Certificates;
using CheckpointEngine.Access;
using CheckpointEngine.Cli.Commands;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Cli.Options;

/// <summary>The shared secret and the certificates: what we show to others and what they have to show to us.</summary>
internal sealed class CredentialOptions
{
    private const string TokenVariable = "CHECKPOINT_ENGINE_TOKEN";

    private readonly Option<string> _tokenFile = new("--token-file")
    {
        Description = $"File with the shared token, looked after while it runs: one a line, the first is shown, each is accepted; without it the environment's {TokenVariable}, if set",
        HelpName = "FILE",
    };

    private readonly Option<string> _caFile = new("--ca-file")
    {
        Description = "PEM file with the authorities to trust for https and ce+tls instead of the system's",
        HelpName = "FILE",
    };

    private readonly Option<string> _certificate = new("--cert") { Description = "PEM certificate to show to an https server or a peer service with TLS (with --key)", HelpName = "FILE" };

    private readonly Option<string> _key = new("--key") { Description = "PEM private key of --cert", HelpName = "FILE" };

    private readonly Option<bool> _requireTls = new("--require-tls") { Description = "Read from no holder whose peer service speaks no TLS (--tls-peers there)" };

    public CredentialOptions(Command command)
    {
        Group = new OptionGroup("Access", [_tokenFile, _caFile, _certificate, _key, _requireTls]);
        command.Validators.Add(result =>
        {
            if (result.IsGiven(_certificate) != result.IsGiven(_key))
            {
                result.AddError("--cert and --key go together");
            }
        });
    }

    public OptionGroup Group { get; }

    /// <summary>The token, or null when there is none.</summary>
    /// <exception cref="CheckpointEngineException">Its file cannot be used.</exception>
    public AccessToken? ReadToken(ParseResult parsed)
    {
        if (parsed.GetValue(_tokenFile) is { } file)
        {
            return AccessToken.FromFile(file);
        }
        string? text = Environment.GetEnvironmentVariable(TokenVariable);
        if (string.IsNullOrWhiteSpace(text))
        {
            return null;
        }
        try
        {
            return AccessToken.FromText(text);
        }
        catch (ArgumentException unusable)
        {
            throw new CheckpointEngineException(CheckpointError.InvalidData, $"{TokenVariable}: {unusable.Message}", 0, unusable);
        }
    }

    /// <summary>As <see cref="ReadToken"/>, for a process that stays: the token goes with its file, which is read again on each <paramref name="reload"/>, too.</summary>
    /// <exception cref="CheckpointEngineException">Its file cannot be used.</exception>
    public AccessToken? WatchToken(ParseResult parsed, ReloadSignal reload, ILoggerFactory logging)
    {
        if (parsed.GetValue(_tokenFile) is not { } path)
        {
            return ReadToken(parsed);
        }
        var file = new AccessTokenFile(path, logging.CreateLogger("CheckpointEngine.Access"));
        reload.Add(() => file.Reload(), file);
        return file.Token;
    }

    /// <summary>How to reach others over HTTP with these credentials.</summary>
    public MetasClientOptions CreateClientOptions(ParseResult parsed, AccessToken? token)
    {
        var options = new MetasClientOptions { Token = token, CaFile = parsed.GetValue(_caFile) };
        if (parsed.GetValue(_certificate) is { } certificate)
        {
            options.ClientCertificate = ReadCertificate(certificate, parsed.GetRequiredValue(_key));
        }
        return options;
    }

    /// <summary>How peer services that speak TLS are met with these credentials.</summary>
    public TlsClientOptions CreateTlsOptions(ParseResult parsed) => new()
    {
        CaFile = parsed.GetValue(_caFile),
        Certificate = parsed.GetValue(_certificate) is { } certificate ? ReadCertificate(certificate, parsed.GetRequiredValue(_key)) : null,
        Required = parsed.GetValue(_requireTls),
    };

    private static X509Certificate2 ReadCertificate(string certificate, string key)
    {
        try
        {
            return X509Certificate2.CreateFromPemFile(certificate, key);
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException or System.Security.Cryptography.CryptographicException)
        {
            throw new CheckpointEngineException(CheckpointError.InvalidData, $"certificate '{certificate}' with key '{key}': {failure.Message}", 0, failure);
        }
    }
}
