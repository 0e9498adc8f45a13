using System.CommandLine;
using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Cli.Options;
using CheckpointEngine.Cli.Output;
using CheckpointEngine.Http.Telemetry;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;

namespace CheckpointEngine.Cli.Commands;

/// <summary><c>serve</c>: holds checkpoints and lets others read them.</summary>
internal sealed class ServeCommand : DocumentedCommand
{
    private readonly Option<string[]> _checkpoints = OptionRules.Repeated("--checkpoint", "NAME=PATH",
        "A checkpoint to hold (repeatable); PATH: a directory, a .safetensors file, or a model.safetensors.index.json");

    private readonly CommonOptions _common = new("Print one line of JSON when it can serve, then nothing");
    private readonly CredentialOptions _credentials;
    private readonly HoldingOptions _holding;
    private readonly ListenOptions _listen;
    private readonly LimitOptions _limits;
    private readonly TelemetryOptions _telemetry;

    public ServeCommand()
        : base("serve", "Hold checkpoints in memory and let other processes and hosts read them.")
    {
        _credentials = new CredentialOptions(this);
        _holding = new HoldingOptions(this);
        _listen = new ListenOptions(this, _holding);
        _limits = new LimitOptions(this);
        _telemetry = new TelemetryOptions(this);
        AddGroup(new OptionGroup("Checkpoints", [_checkpoints]));
        AddGroup(_listen.Group);
        AddGroup(_holding.FilesGroup);
        AddGroup(_holding.ServingGroup);
        AddGroup(_holding.NetworkGroup);
        AddGroup(_limits.Group);
        AddGroup(_credentials.Group);
        AddGroup(_telemetry.Group);
        AddGroup(_common.Group);
        Validators.Add(result =>
        {
            string[] checkpoints = result.GetValue(_checkpoints) ?? [];
            if (checkpoints.Length == 0 && !_listen.AllowsPaths(result))
            {
                result.AddError("give at least one --checkpoint NAME=PATH (or --allow-path DIR, to register over HTTP)");
            }
            foreach (string checkpoint in checkpoints)
            {
                if (checkpoint.IndexOf('=') is var equals && (equals <= 0 || equals == checkpoint.Length - 1))
                {
                    result.AddError($"--checkpoint: '{checkpoint}' is not NAME=PATH");
                }
            }
            foreach (IGrouping<string, string> twice in checkpoints.GroupBy(checkpoint => checkpoint.Split('=')[0]).Where(group => group.Count() > 1))
            {
                result.AddError($"--checkpoint: the name '{twice.Key}' is given twice");
            }
        });
    }

    public override string Usage => "--checkpoint NAME=PATH [options]";

    public override IReadOnlyList<Example> Examples =>
    [
        new("Hold a model for processes of this host:", "checkpoint-engine serve --checkpoint qwen=/models/Qwen2.5-7B"),
        new("For other hosts, guarded by a shared token:",
            "checkpoint-engine serve --checkpoint qwen=/models/Qwen2.5-7B --listen http://0.0.0.0:19700 --address 10.0.0.5 --token-file /etc/ce.token"),
        new("And encrypted, with a certificate for 10.0.0.5:",
            "checkpoint-engine serve --checkpoint qwen=/models/Qwen2.5-7B --listen https://10.0.0.5:19700 --token-file /etc/ce.token --tls-cert cert.pem --tls-key key.pem --encrypt"),
        new("As one of two holders that know each other:",
            "checkpoint-engine serve --checkpoint qwen=/models/part0 --rank 0 --peers http://10.0.0.6:19700 --gather"),
    ];

    public override IReadOnlyList<string> Notes =>
    [
        "It prints where it serves, stays until SIGTERM or SIGINT (or --sleep-time), lets reads that are under way end, and exits 0. A second signal ends it at once.",
        "The token's file and the certificates' are read again when they change, and on SIGHUP: conversations that are open go on, new ones need what is there then.",
        "With --hold map the files must not be changed or cut short while they are held: a joiner's check would fail, a page that is gone ends the process (SIGBUS).",
    ];

    protected override async Task<int> RunAsync(ParseResult parsed)
    {
        using var signals = new ShutdownSignals();
        try
        {
            await ServeAsync(parsed, signals.Token).ConfigureAwait(false);
            return ExitCode.Done;
        }
        catch (Exception) when (signals.Received)
        {
            Stderr.Error("interrupted before it could serve");
            return signals.InterruptedExitCode;
        }
    }

    private async Task ServeAsync(ParseResult parsed, CancellationToken stop)
    {
        using var reload = new ReloadSignal();
        using StderrLogging logging = _common.CreateLogging(parsed, _limits, reload);
        using TelemetryExport? telemetry = _telemetry.Start(parsed, serves: true);      // before there is anything to count
        AccessToken? token = _credentials.WatchToken(parsed, reload, logging);
        MetasClientOptions client = _credentials.CreateClientOptions(parsed, token);
        IPAddress address = _holding.Address(parsed) ?? AnnouncedAddress.OfHolder(_listen.ListenAddress(parsed), _listen.Peers(parsed));
        ParameterServerOptions serverOptions = _holding.CreateServerOptions(parsed, address, token, logging, _limits.ServerLimits(parsed));
        serverOptions.PeerTls = _listen.PeerTls(parsed);
        serverOptions.EncryptData = _listen.EncryptsData(parsed);
        serverOptions.ClientTls = _credentials.CreateTlsOptions(parsed);
        await using var server = new ParameterServer(serverOptions);
        await server.StartAsync(stop).ConfigureAwait(false);
        foreach (string checkpoint in parsed.GetValue(_checkpoints) ?? [])
        {
            int equals = checkpoint.IndexOf('=');
            HeldCheckpoint held = await ProgressDisplay.OfRegistration(server.Options.Hold, _common.Json(parsed))
                .RunAsync(progress => server.RegisterAsync(checkpoint[..equals], [checkpoint[(equals + 1)..]], progress, stop)).ConfigureAwait(false);
            foreach (string warning in held.Warnings)
            {
                Stderr.Warning(warning);
            }
        }
        var session = new HolderSession(_listen, _limits, parsed, token, client, telemetry, reload, logging);
        await session.RunAsync(server, _common.Json(parsed), stop).ConfigureAwait(false);
    }
}
