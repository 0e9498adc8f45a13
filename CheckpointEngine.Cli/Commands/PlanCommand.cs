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
    private readonly Option<string> _devices = HoldingOptions.CreateDevices();
    private readonly CommonOptions _common = new("Print one JSON document");
    private readonly SourceOptions _source;
    private readonly CredentialOptions _credentials;

    public PlanCommand()
        : base("plan", "Print what a join into memory would read from whom and which way, without moving a byte.")
    {
        _source = new SourceOptions(this);
        _credentials = new CredentialOptions(this);
        _filter = new FilterOptions(this);
        AddGroup(_source.Group);
        AddGroup(new OptionGroup("Choice", [.. _filter.Options, _devices, _offline]));
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
            await using var server = new ParameterServer(new ParameterServerOptions { Token = token, RdmaDevices = parsed.GetValue(_devices), LoggerFactory = logging });
            var options = new JoinOptions { Include = _filter.Include(parsed), Exclude = _filter.Exclude(parsed), StallTimeout = s_ask };
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
                owner.Transport is null ? "" : owner.Attached == true ? "local, attached" : owner.Transport, owner.Reason ?? "");
        }
        table.Add("all", "", Quantity.Count(plan.Tensors), Quantity.Count(plan.Ranges), Quantity.Bytes(plan.Bytes), "", "");
        table.Print(Console.Out);
        return ExitCode.Done;
    }
}
