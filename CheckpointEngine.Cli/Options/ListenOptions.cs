using System.CommandLine;
using System.CommandLine.Parsing;
using System.Net;
using CheckpointEngine.Cli.Commands;
using CheckpointEngine.Http;
using CheckpointEngine.Peers;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Cli.Options;

/// <summary>Where a holder answers over HTTP, whom it knows, and how long it stays.</summary>
internal sealed class ListenOptions
{
    private const string DefaultListen = "http://127.0.0.1:19700";

    private readonly Option<string> _listen = new("--listen")
    {
        Description = $"http://IP:PORT (0: any free port), https://IP:PORT or unix:/run/ce.sock; default {DefaultListen}",
        HelpName = "URL",
        DefaultValueFactory = _ => DefaultListen,
    };

    private readonly Option<string> _tlsCertificate = new("--tls-cert") { Description = "PEM certificate of the https server", HelpName = "FILE" };

    private readonly Option<string> _tlsKey = new("--tls-key") { Description = "PEM private key of --tls-cert", HelpName = "FILE" };

    private readonly Option<string> _tlsClientCa = new("--tls-client-ca") { Description = "Demand client certificates from these authorities (PEM)", HelpName = "FILE" };

    private readonly Option<bool> _insecure = new("--insecure") { Description = "Allow an address others can reach with neither token nor client certificates" };

    private readonly Option<string[]> _allowPaths = OptionRules.Repeated("--allow-path", "DIR", "Let HTTP clients register files under this directory (repeatable; default none)");

    private readonly Option<string[]> _peers = OptionRules.Repeated("--peers", "URL,URL…", "HTTP addresses of the other holders of this checkpoint");

    private readonly Option<bool> _gather = new("--gather") { Description = "Wait until all --peers answer and tell the whole world's metas from then on" };

    private readonly Option<string> _saveMetasFile = new("--save-metas-file")
    {
        Description = "Write the metas to this file when all is ready; JSON when it ends in .json, else pickle",
        HelpName = "FILE",
    };

    private readonly Option<TimeSpan?> _sleepTime = OptionRules.Seconds("--sleep-time", "Stop after this many seconds; default: stay until SIGTERM or SIGINT", zeroAllowed: true);

    public ListenOptions(Command command)
    {
        Group = new OptionGroup("Serving",
            [_listen, _tlsCertificate, _tlsKey, _tlsClientCa, _insecure, _allowPaths, _peers, _gather, _saveMetasFile, _sleepTime]);
        command.Validators.Add(result =>
        {
            string listen = result.GetValue(_listen) ?? DefaultListen;   // a validator sees no default values
            bool https = listen.StartsWith("https://", StringComparison.Ordinal);
            if (!https && !listen.StartsWith("http://", StringComparison.Ordinal) && !listen.StartsWith("unix:/", StringComparison.Ordinal))
            {
                result.AddError($"--listen: '{listen}' is not http://IP:PORT, https://IP:PORT or unix:/PATH");
            }
            else if (!listen.StartsWith("unix:", StringComparison.Ordinal) && !Uri.TryCreate(listen, UriKind.Absolute, out _))
            {
                result.AddError($"--listen: '{listen}' is not an address with a port from 0 to 65535");
            }
            if (result.IsGiven(_tlsCertificate) != result.IsGiven(_tlsKey) || https != result.IsGiven(_tlsCertificate))
            {
                result.AddError(https ? "--listen https://… needs --tls-cert and --tls-key" : "--tls-cert and --tls-key go together, with --listen https://…");
            }
            if (result.IsGiven(_tlsClientCa) && !https)
            {
                result.AddError("--tls-client-ca needs --listen https://…");
            }
            if (result.IsGiven(_gather) && !result.IsGiven(_peers))
            {
                result.AddError("--gather needs --peers");
            }
        });
    }

    public OptionGroup Group { get; }

    public bool AllowsPaths(SymbolResult result) => result.IsGiven(_allowPaths);

    /// <summary>The peers' base URLs.</summary>
    public IReadOnlyList<string> Peers(ParseResult parsed)
        => [.. (parsed.GetValue(_peers) ?? []).SelectMany(list => list.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries))];

    public bool Gather(ParseResult parsed) => parsed.GetValue(_gather);

    public string? SaveMetasFile(ParseResult parsed) => parsed.GetValue(_saveMetasFile);

    public TimeSpan? SleepTime(ParseResult parsed) => parsed.GetValue(_sleepTime);

    /// <summary>The IP address to listen on, or null for a Unix socket or a host name.</summary>
    public IPAddress? ListenAddress(ParseResult parsed)
        => Uri.TryCreate(parsed.GetValue(_listen), UriKind.Absolute, out Uri? uri) && IPAddress.TryParse(uri.DnsSafeHost, out IPAddress? address) ? address : null;

    public CheckpointEngineHostOptions CreateHostOptions(ParseResult parsed, AccessToken? token, ILoggerFactory logging) => new()
    {
        Listen = parsed.GetRequiredValue(_listen),
        TlsCertificateFile = parsed.GetValue(_tlsCertificate),
        TlsKeyFile = parsed.GetValue(_tlsKey),
        TlsClientCaFile = parsed.GetValue(_tlsClientCa),
        Token = token,
        Insecure = parsed.GetValue(_insecure),
        AllowPaths = parsed.GetValue(_allowPaths) ?? [],
        GatherPeers = Peers(parsed),
        LoggerFactory = logging,
    };
}
