using System.CommandLine;
using System.CommandLine.Parsing;
using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Cli.Commands;
using CheckpointEngine.Http;
using CheckpointEngine.Http.Telemetry;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Cli.Options;

/// <summary>Where a holder answers over HTTP, whom it knows, and how long it stays.</summary>
internal sealed class ListenOptions
{
    private const string DefaultListen = "http://127.0.0.1:19700";

    private readonly HoldingOptions _holding;
    private readonly Option<bool>? _serve;

    private readonly Option<string[]> _listen = OptionRules.Repeated("--listen", "URL",
        $"http://HOST:PORT (0: any free port), https://HOST:PORT or unix:/run/ce.sock (repeatable); default {DefaultListen}");

    private readonly Option<string> _tlsCertificate = new("--tls-cert") { Description = "PEM certificate to serve with, over https and where else TLS is spoken; replaced while it runs, new connections get the new one", HelpName = "FILE" };

    private readonly Option<string> _tlsKey = new("--tls-key") { Description = "PEM private key of --tls-cert", HelpName = "FILE" };

    private readonly Option<string> _tlsClientCa = new("--tls-client-ca") { Description = "Demand client certificates from these authorities (PEM)", HelpName = "FILE" };

    private readonly Option<bool> _tlsPeers = new("--tls-peers")
    {
        Description = "Speak TLS 1.3 on the peer service as well, with --tls-cert, --tls-key and --tls-client-ca; joiners trust it by --ca-file",
    };

    private readonly Option<bool> _insecure = new("--insecure") { Description = "Allow an address others can reach with neither token nor client certificates" };

    private readonly Option<bool> _metricsOpen = new("--metrics-open") { Description = "Let everybody read /metrics, without the token" };

    private readonly Option<string[]> _allowPaths = OptionRules.Repeated("--allow-path", "DIR", "Let HTTP clients register files under this directory (repeatable; default none)");

    private readonly Option<string[]> _peers = OptionRules.Repeated("--peers", "URL,URL…", "HTTP addresses of the other holders of this checkpoint");

    private readonly Option<bool> _gather = new("--gather") { Description = "Wait until all --peers answer and tell the whole world's metas from then on" };

    private readonly Option<string> _saveMetasFile = new("--save-metas-file")
    {
        Description = "Write the metas to this file when all is ready; JSON when it ends in .json, else pickle",
        HelpName = "FILE",
    };

    private readonly Option<TimeSpan?> _sleepTime = OptionRules.Seconds("--sleep-time", "Stop after this many seconds; default: stay until SIGTERM or SIGINT", zeroAllowed: true);

    /// <param name="command">The command that takes them.</param>
    /// <param name="holding">Says whether what is served is encrypted.</param>
    /// <param name="serve">Whether there is a holder at all; null: always.</param>
    /// <param name="relay">Whether there are relays, which speak TLS where there is a certificate; null: never.</param>
    public ListenOptions(Command command, HoldingOptions holding, Option<bool>? serve = null, Option<bool>? relay = null)
    {
        _holding = holding;
        _serve = serve;
        Group = new OptionGroup("Serving",
            [_listen, _tlsCertificate, _tlsKey, _tlsClientCa, _tlsPeers, _insecure, _metricsOpen, _allowPaths, _peers, _gather, _saveMetasFile, _sleepTime]);
        command.Validators.Add(result =>
        {
            string[] addresses = result.GetValue(_listen) ?? [];
            bool https = addresses.Any(address => address.StartsWith("https://", StringComparison.Ordinal));
            foreach (string address in addresses.Where(address => !IsAddress(address)))
            {
                result.AddError($"--listen: '{address}' is not http://HOST:PORT, https://HOST:PORT or unix:/PATH");
            }
            bool encrypts = holding.Encrypts(result) && (serve is null || result.GetValue(serve));
            bool isNeeded = https || result.GetValue(_tlsPeers) || encrypts;
            bool isUsed = isNeeded || (relay is not null && result.GetValue(relay));
            string uses = $"--listen https://…, --tls-peers{(relay is null ? " or --encrypt" : ", --encrypt or --relay")}";
            if (result.IsGiven(_tlsCertificate) != result.IsGiven(_tlsKey) || (isNeeded && !result.IsGiven(_tlsCertificate)) || (result.IsGiven(_tlsCertificate) && !isUsed))
            {
                result.AddError(https ? "--listen https://… needs --tls-cert and --tls-key"
                    : encrypts ? "--encrypt needs --tls-cert and --tls-key for what is served"
                    : isNeeded ? "--tls-peers needs --tls-cert and --tls-key"
                    : $"--tls-cert and --tls-key go together, with {uses}");
            }
            if (result.IsGiven(_tlsClientCa) && !(isUsed && result.IsGiven(_tlsCertificate)))
            {
                result.AddError($"--tls-client-ca needs --tls-cert, and {uses}");
            }
            if (result.IsGiven(_gather) && !result.IsGiven(_peers))
            {
                result.AddError("--gather needs --peers");
            }
        });
    }

    public OptionGroup Group { get; }

    /// <summary>What a joiner that only relays takes of them, too.</summary>
    public IReadOnlyList<Option> OfRelays => [_tlsCertificate, _tlsKey, _tlsClientCa];

    public bool AllowsPaths(SymbolResult result) => result.IsGiven(_allowPaths);

    /// <summary>The peers' base URLs.</summary>
    public IReadOnlyList<string> Peers(ParseResult parsed)
        => [.. (parsed.GetValue(_peers) ?? []).SelectMany(list => list.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries))];

    /// <summary>With what the peer service speaks TLS, or relays where there is none; null: they do not.</summary>
    public TlsServerOptions? PeerTls(ParseResult parsed) => !HasCertificate(parsed) || (Serves(parsed) && !parsed.GetValue(_tlsPeers) && !_holding.Encrypts(parsed)) ? null : new TlsServerOptions
    {
        CertificateFile = parsed.GetRequiredValue(_tlsCertificate),
        KeyFile = parsed.GetValue(_tlsKey),
        ClientCaFile = parsed.GetValue(_tlsClientCa),
    };

    /// <summary>Whether what is served is encrypted: by a holder, or by relays with a certificate.</summary>
    public bool EncryptsData(ParseResult parsed) => _holding.Encrypts(parsed) && HasCertificate(parsed);

    private bool Serves(ParseResult parsed) => _serve is null || parsed.GetValue(_serve);

    public bool HasCertificate(ParseResult parsed) => parsed.IsGiven(_tlsCertificate);

    public bool Gather(ParseResult parsed) => parsed.GetValue(_gather);

    public string? SaveMetasFile(ParseResult parsed) => parsed.GetValue(_saveMetasFile);

    public TimeSpan? SleepTime(ParseResult parsed) => parsed.GetValue(_sleepTime);

    /// <summary>The first IP address to listen on, or null when there are only Unix sockets and host names.</summary>
    public IPAddress? ListenAddress(ParseResult parsed)
    {
        foreach (string text in Listen(parsed))
        {
            if (text.StartsWith("http", StringComparison.Ordinal) && Uri.TryCreate(text.Replace("//*:", "//0.0.0.0:", StringComparison.Ordinal), UriKind.Absolute, out Uri? uri)
                && IPAddress.TryParse(uri.DnsSafeHost, out IPAddress? address))
            {
                return address;
            }
        }
        return null;
    }

    public CheckpointEngineHostOptions CreateHostOptions(ParseResult parsed, AccessToken? token, MetasClientOptions client, ConnectionLimits limits, Func<string?> notReady, TelemetryExport? telemetry, ILoggerFactory logging) => new()
    {
        Listen = Listen(parsed),
        TlsCertificateFile = parsed.GetValue(_tlsCertificate),
        TlsKeyFile = parsed.GetValue(_tlsKey),
        TlsClientCaFile = parsed.GetValue(_tlsClientCa),
        Token = token,
        Insecure = parsed.GetValue(_insecure),
        MetricsOpen = parsed.GetValue(_metricsOpen),
        Telemetry = telemetry,
        AllowPaths = parsed.GetValue(_allowPaths) ?? [],
        GatherPeers = Peers(parsed),
        GatherClient = client,
        NotReady = notReady,
        Limits = limits,
        LoggerFactory = logging,
    };

    private string[] Listen(ParseResult parsed) => parsed.GetValue(_listen) is { Length: > 0 } given ? given : [DefaultListen];

    private static bool IsAddress(string text)
        => text.StartsWith("unix:/", StringComparison.Ordinal)
            || ((text.StartsWith("http://", StringComparison.Ordinal) || text.StartsWith("https://", StringComparison.Ordinal))
                && Uri.TryCreate(text.Replace("//*:", "//any:", StringComparison.Ordinal), UriKind.Absolute, out _));
}
