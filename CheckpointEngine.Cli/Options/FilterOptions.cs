using System.CommandLine;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Cli.Options;

/// <summary>Which tensors are wanted, by name.</summary>
internal sealed class FilterOptions
{
    private readonly Option<string[]> _include = OptionRules.Repeated("--include", "GLOB",
        "Only tensors whose name matches (repeatable): 'model.layers.[0-9].*'; * also matches dots");

    private readonly Option<string[]> _exclude = OptionRules.Repeated("--exclude", "GLOB", "No tensors whose name matches (repeatable)");

    public FilterOptions(Command command)
        => command.Validators.Add(result =>
        {
            try
            {
                _ = new TensorFilter(result.GetValue(_include) ?? [], result.GetValue(_exclude) ?? []);
            }
            catch (ArgumentException malformed)
            {
                result.AddError(malformed.Message);
            }
        });

    public IReadOnlyList<Option> Options => [_include, _exclude];

    public IReadOnlyList<string> Include(ParseResult parsed) => parsed.GetValue(_include) ?? [];

    public IReadOnlyList<string> Exclude(ParseResult parsed) => parsed.GetValue(_exclude) ?? [];

    public TensorFilter Read(ParseResult parsed) => new(Include(parsed), Exclude(parsed));
}
