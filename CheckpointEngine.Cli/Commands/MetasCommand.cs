using System.CommandLine;
using CheckpointEngine.Cli.Options;
using CheckpointEngine.Cli.Output;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Cli.Commands;

/// <summary><c>metas</c>: shows or converts what holders tell of a checkpoint.</summary>
internal sealed class MetasCommand : DocumentedCommand
{
    private readonly Option<string> _format = OptionRules.Word("--format", "table for people (default), json or pickle for programs", "table", "json", "pickle");
    private readonly Option<string> _output = new("--output") { Description = "Write to this file instead of stdout", HelpName = "FILE" };
    private readonly CommonOptions _common;
    private readonly SourceOptions _source;
    private readonly CredentialOptions _credentials;

    public MetasCommand()
        : base("metas", "Show which owner holds which tensors of a checkpoint, or save that as a file to join from.")
    {
        _source = new SourceOptions(this);
        _credentials = new CredentialOptions(this);
        _common = new CommonOptions(new OptionGroup("Output", [_format, _output]));
        AddGroup(_source.Group);
        AddGroup(_credentials.Group);
        AddGroup(_common.Group);
    }

    public override string Usage => "(--metas-url URL | --load-metas-file FILE) [options]";

    public override IReadOnlyList<Example> Examples =>
    [
        new("Who holds what:", "checkpoint-engine metas --metas-url http://10.0.0.5:19700/v1/metas"),
        new("Save it for a host that cannot ask:", "checkpoint-engine metas --metas-url http://10.0.0.5:19700/v1/metas --format pickle --output metas.pkl"),
    ];

    protected override async Task<int> RunAsync(ParseResult parsed)
    {
        using StderrLogging logging = _common.CreateLogging(parsed);
        string format = parsed.GetRequiredValue(_format);
        string? file = parsed.GetValue(_output);
        if (format == "pickle" && file is null && !Console.IsOutputRedirected)
        {
            throw new UsageException("--format pickle is not for a terminal; give --output FILE or redirect");
        }
        MetasClientOptions client = _credentials.CreateClientOptions(parsed, _credentials.ReadToken(parsed));
        CheckpointMetas metas = await _source.ReadAsync(parsed, client, CancellationToken.None).ConfigureAwait(false);
        ReadOnlyMemory<byte> content = format switch
        {
            "json" => MetasFile.Encode(metas, MetasFormat.Json),
            "pickle" => MetasFile.Encode(metas, MetasFormat.Pickle),
            _ => MetasTable.Encode(metas),
        };
        if (file is not null)
        {
            MetasFile.Write(content.Span, file);
            return ExitCode.Done;
        }
        try
        {
            using Stream output = Console.OpenStandardOutput();
            output.Write(content.Span);
            if (format == "json")
            {
                output.WriteByte((byte)'\n');
            }
        }
        catch (IOException failure)
        {
            throw new CheckpointEngineException(CheckpointError.Io, $"write metas to standard output: {failure.Message}", 0, failure);
        }
        return ExitCode.Done;
    }
}
