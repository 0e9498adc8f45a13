using System.CommandLine;
using System.Text.Json;
using CheckpointEngine.Access;
using CheckpointEngine.Cli.Options;
using CheckpointEngine.Cli.Output;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Cli.Commands;

/// <summary><c>plan</c>: who would be read, and in how many pieces, without moving a byte.</summary>
internal sealed class PlanCommand : DocumentedCommand
{
    private readonly FilterOptions _filter;
    private static readonly TimeSpan s_ask = TimeSpan.FromSeconds(5);

    private readonly Option<bool> _offline = new("--offline") { Description = "Do not ask the owners which way their bytes would come" };
    private readonly CommonOptions _common = new("Print one JSON document");
    private readonly SourceOptions _source;
    private readonly HoldingOptions _holding;
    private readonly CredentialOptions _credentials;

    public PlanCommand()
        : base("plan", "Print what a join into memory would read from whom and which way, without moving a byte.")
    {
        _source = new SourceOptions(this);
        _credentials = new CredentialOptions(this);
        _filter = new FilterOptions(this);
        _holding = new HoldingOptions(this);
        AddGroup(_source.Group);
        AddGroup(new OptionGroup("Choice", [.. _filter.Options, _offline]));
        AddGroup(_holding.NetworkGroup);
        AddGroup(_credentials.Group);
        AddGroup(_common.Group);
    }

    public override string Usage => "(--metas-url URL | --load-metas-file FILE) [options]";

    public override IReadOnlyList<Example> Examples =>
    [
        new("What a join would do:", "checkpoint-engine plan --metas-url http://10.0.0.5:19700/v1/metas"),
        new("How much the experts of one layer are:", "checkpoint-engine plan --load-metas-file metas.pkl --include 'model.layers.3.mlp.experts.*'"),
    ];

    protected override async Task<int> RunAsync(ParseResult parsed)
    {
        using StderrLogging logging = _common.CreateLogging(parsed);
        AccessToken? token = _credentials.ReadToken(parsed);
        MetasClientOptions client = _credentials.CreateClientOptions(parsed, token);
        CheckpointMetas metas = await _source.ReadAsync(parsed, client, CancellationToken.None).ConfigureAwait(false);
        PlanJson plan = PlanSummary.Of(metas, _filter.Read(parsed));
        if (!parsed.GetValue(_offline))
        {
            ParameterServerOptions serverOptions = _holding.CreateServerOptions(parsed, AnnouncedAddress.OfJoiner(metas), token, logging);
            serverOptions.ClientTls = _credentials.CreateTlsOptions(parsed);
            serverOptions.ClientTls.EncryptionRequired = _holding.Encrypts(parsed);
            await using var server = new ParameterServer(serverOptions);
            var options = new JoinOptions { Include = _filter.Include(parsed), Exclude = _filter.Exclude(parsed), StallTimeout = s_ask, Transport = _holding.Transport(parsed), AttachFiles = _holding.AttachFiles(parsed) };
            IReadOnlyList<OwnerPlane> planes = await server.ProbeAsync(metas, options).ConfigureAwait(false);
            plan = PlanSummary.WithPlanes(plan, planes);
        }
        if (_common.Json(parsed))
        {
            Console.Out.WriteLine(JsonSerializer.Serialize(plan, OutputJson.Default.PlanJson));
            return ExitCode.Done;
        }
        var table = new TextTable(">rank", "address", ">tensors", ">ranges", ">bytes", "over", "because");
        foreach (PlanOwnerJson owner in plan.Owners)
        {
            table.Add($"{owner.Rank}", owner.Address ?? "(none)", Quantity.Count(owner.Tensors), Quantity.Count(owner.Ranges), Quantity.Bytes(owner.Bytes),
                owner.Transport is null ? "" : owner.Attached == true ? "local, attached" : owner.Encrypted == true ? $"{owner.Transport}, encrypted" : owner.Transport, owner.Reason ?? "");
        }
        table.Add("all", "", Quantity.Count(plan.Tensors), Quantity.Count(plan.Ranges), Quantity.Bytes(plan.Bytes), "", "");
        table.Print(Console.Out);
        Console.Out.WriteLine($"memory: {Quantity.Bytes(plan.MemoryBytes)} where nothing is attached to; an update of an inference server beside it two buckets, {Quantity.Bytes(plan.UpdateBytes.Buckets)} "
            + $"on each GPU or once on the host, and up to {Quantity.Bytes(plan.UpdateBytes.Staging)} to stage for GPUs");
        return ExitCode.Done;
    }
}
