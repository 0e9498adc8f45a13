using System.CommandLine;
using System.Text.Json;
using CheckpointEngine.Cli.Options;
using CheckpointEngine.Cli.Output;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Cli.Commands;

/// <summary><c>plan</c>: who would be read, and in how many pieces, without moving a byte.</summary>
internal sealed class PlanCommand : DocumentedCommand
{
    private readonly FilterOptions _filter;
    private readonly CommonOptions _common = new("Print one JSON document");
    private readonly SourceOptions _source;
    private readonly CredentialOptions _credentials;

    public PlanCommand()
        : base("plan", "Print what a join would read from whom, without moving a byte.")
    {
        _source = new SourceOptions(this);
        _credentials = new CredentialOptions(this);
        _filter = new FilterOptions(this);
        AddGroup(_source.Group);
        AddGroup(new OptionGroup("Choice", _filter.Options));
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
        MetasClientOptions client = _credentials.CreateClientOptions(parsed, _credentials.ReadToken(parsed));
        CheckpointMetas metas = await _source.ReadAsync(parsed, client, CancellationToken.None).ConfigureAwait(false);
        PlanJson plan = PlanSummary.Of(metas, _filter.Read(parsed));
        if (_common.Json(parsed))
        {
            Console.Out.WriteLine(JsonSerializer.Serialize(plan, OutputJson.Default.PlanJson));
            return ExitCode.Done;
        }
        var table = new TextTable(">rank", "address", ">tensors", ">ranges", ">bytes");
        foreach (PlanOwnerJson owner in plan.Owners)
        {
            table.Add($"{owner.Rank}", owner.Address ?? "(none)", Quantity.Count(owner.Tensors), Quantity.Count(owner.Ranges), Quantity.Bytes(owner.Bytes));
        }
        table.Add("all", "", Quantity.Count(plan.Tensors), Quantity.Count(plan.Ranges), Quantity.Bytes(plan.Bytes));
        table.Print(Console.Out);
        return ExitCode.Done;
    }
}
