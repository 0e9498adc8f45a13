using System.CommandLine;
using System.Text.Json;
using CheckpointEngine.Cli.Doctor;
using CheckpointEngine.Cli.Options;
using CheckpointEngine.Cli.Output;

namespace CheckpointEngine.Cli.Commands;

/// <summary><c>doctor</c>: what this host offers, and what to change.</summary>
internal sealed class DoctorCommand : DocumentedCommand
{
    private readonly Option<string> _devices = HoldingOptions.CreateDevices();
    private readonly CommonOptions _common = new("Print one JSON document");

    public DoctorCommand()
        : base("doctor", "Tell what this host offers to the engine, and what to change: memory limits, huge pages, NUMA, RDMA, libraries, sockets.")
    {
        AddGroup(new OptionGroup("Choice", [_devices]));
        AddGroup(_common.Group);
    }

    public override string Usage => "[--devices LIST] [--json]";

    public override IReadOnlyList<Example> Examples => 
    [
        new("Before asking for help:", "checkpoint-engine doctor --json > doctor.json"),
        new("What serve or join would make of a list of devices:", "checkpoint-engine doctor --devices mlx5_0,mlx5_3"),
    ];

    protected override Task<int> RunAsync(ParseResult parsed)
    {
        using StderrLogging logging = _common.CreateLogging(parsed);
        HostReport report = new HostProbe("/").Examine(parsed.GetValue(_devices));
        if (_common.Json(parsed))
        {
            Console.Out.WriteLine(JsonSerializer.Serialize(report, OutputJson.Default.HostReport));
        }
        else
        {
            HostReportPrinter.Print(Console.Out, report);
        }
        return Task.FromResult(ExitCode.Done);
    }
}
