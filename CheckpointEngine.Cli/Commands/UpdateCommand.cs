using System.CommandLine;
using System.CommandLine.Parsing;
using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Cli.Options;
using CheckpointEngine.Cli.Output;
using CheckpointEngine.Http.Telemetry;
using CheckpointEngine.Inference;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Cli.Commands;

/// <summary><c>update</c>: brings a checkpoint of files into a running inference server.</summary>
internal sealed class UpdateCommand : DocumentedCommand
{
    private readonly Option<string> _path = new("--checkpoint-path")
    {
        Description = "The checkpoint: a directory, a .safetensors file, or a model.safetensors.index.json",
        HelpName = "PATH",
        Required = true,
    };

    private readonly Option<string> _name = new("--checkpoint-name")
    {
        Description = "Its name here; default my-checkpoint-iter-0",
        HelpName = "NAME",
        DefaultValueFactory = _ => "my-checkpoint-iter-0",
    };

    private readonly Option<string> _saveMetasFile = new("--save-metas-file")
    {
        Description = "Also serve its memory, and write the metas to this file; JSON when it ends in .json, else pickle",
        HelpName = "FILE",
    };

    private readonly Option<TimeSpan?> _sleepTime = OptionRules.Seconds("--sleep-time", "Stay this long after the update, so that others can join; default 0", zeroAllowed: true);
    private readonly Option<string> _method = OptionRules.Word("--update-method", "Accepted for upstream's scripts: one copy serves every worker of this host", "broadcast", "p2p", "all");

    private readonly CommonOptions _common = new("Print one JSON document with bytes, seconds, buckets; no progress");
    private readonly CredentialOptions _credentials;
    private readonly HoldingOptions _holding;
    private readonly InferenceOptions _inference;
    private readonly TelemetryOptions _telemetry;

    public UpdateCommand()
        : base("update", "Bring a checkpoint into a running inference server (vLLM, SGLang, LMDeploy).")
    {
        _inference = new InferenceOptions(this);
        _credentials = new CredentialOptions(this);
        _holding = new HoldingOptions(this);
        _telemetry = new TelemetryOptions(this);
        AddGroup(new OptionGroup("Checkpoint", [_path, _name]));
        AddGroup(_inference.Group);
        AddGroup(new OptionGroup("Afterwards", [_saveMetasFile, _sleepTime, _method]));
        AddGroup(_holding.FilesGroup);
        AddGroup(_holding.ServingGroup);
        AddGroup(_holding.TransportGroup);
        AddGroup(_credentials.Group);
        AddGroup(_telemetry.Group);
        AddGroup(_common.Group);
    }

    public override string Usage => "--checkpoint-path PATH [--endpoint URL] [options]";

    public override IReadOnlyList<Example> Examples =>
    [
        new("Have SGLang read new weights out of memory; nothing of ours is in its workers:",
            "checkpoint-engine update --checkpoint-path /models/Qwen2.5-7B --endpoint http://127.0.0.1:30000 --engine sglang-files"),
        new("Hand them to workers that keep weights in host memory:",
            "checkpoint-engine update --checkpoint-path /models/Qwen2.5-7B --endpoint http://127.0.0.1:19730 --inference-parallel-size 2"),
    ];

    public override IReadOnlyList<string> Notes =>
    [
        "It waits until the server's /health (of SGLang also /ping) answers. After a failure the server may have parts of the new weights: update it again.",
        "The worker protocol needs libzmq (Debian: libzmq5), and workers of the same network and PID namespace; -files needs neither.",
        "Without --endpoint it is http://localhost:19730. To take weights out of other holders' memory: join --endpoint URL.",
    ];

    protected override async Task<int> RunAsync(ParseResult parsed)
    {
        using var signals = new ShutdownSignals();
        try
        {
            await UpdateAsync(parsed, signals.Token).ConfigureAwait(false);
            return ExitCode.Done;
        }
        catch (Exception) when (signals.Received)
        {
            Stderr.Error("interrupted; the server may have parts of the new weights");
            return signals.InterruptedExitCode;
        }
    }

    private async Task UpdateAsync(ParseResult parsed, CancellationToken stop)
    {
        using StderrLogging logging = _common.CreateLogging(parsed);
        if (parsed.IsGiven(_method))
        {
            Stderr.Note("--update-method is ignored: each byte is copied once, however many workers there are");
        }
        bool json = _common.Json(parsed);
        using TelemetryExport? telemetry = _telemetry.Start(parsed, serves: false);
        AccessToken? token = _credentials.ReadToken(parsed);
        IPAddress address = _holding.Address(parsed) ?? AnnouncedAddress.OfHolder(null, []);
        ParameterServerOptions serverOptions = _holding.CreateServerOptions(parsed, address, token, logging);
        bool serve = parsed.IsGiven(_saveMetasFile) || parsed.GetValue(_sleepTime) > TimeSpan.Zero;
        if (!serve)
        {
            // Each page is read once, soon: to lock it takes as long as to copy it, and nobody will ask for digests.
            serverOptions.Digest = DigestAlgorithm.None;
            serverOptions.Pin = _holding.IsPinGiven(parsed) ? serverOptions.Pin : PinMode.None;
        }
        await using var server = new ParameterServer(serverOptions);
        if (serve)
        {
            await server.StartAsync(stop).ConfigureAwait(false);
        }
        string name = parsed.GetRequiredValue(_name);
        HeldCheckpoint held = await ProgressDisplay.OfRegistration(server.Options.Hold, json)
            .RunAsync(progress => server.RegisterAsync(name, [parsed.GetRequiredValue(_path)], progress, stop)).ConfigureAwait(false);
        foreach (string warning in held.Warnings)
        {
            Stderr.Warning(warning);
        }
        if (parsed.GetValue(_saveMetasFile) is { } file)
        {
            MetasFile.Write(server.GetMetas(name).Metas, file, Path.GetExtension(file).Equals(".json", StringComparison.OrdinalIgnoreCase) ? MetasFormat.Json : MetasFormat.Pickle);
        }
        InferenceUpdateReport report = await ProgressDisplay.OfJoin(json)
            .RunAsync(progress => server.UpdateAsync(name, _inference.Create(parsed), progress, stop)).ConfigureAwait(false);
        UpdatePrinter.Print(report, json);
        try
        {
            await Task.Delay(parsed.GetValue(_sleepTime) ?? TimeSpan.Zero, stop).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            // It has done what it was to do; staying on was for others.
        }
    }
}
