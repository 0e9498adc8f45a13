using System.CommandLine;
using CheckpointEngine.Cli.Commands;
using CheckpointEngine.Cli.Output;

namespace CheckpointEngine.Cli.Options;

/// <summary>How a command talks: <c>--json</c>, <c>--verbose</c>; and what upstream's scripts pass that means nothing here.</summary>
internal sealed class CommonOptions
{
    private readonly Option<bool> _json;

    private readonly Option<bool> _verbose = new("--verbose") { Description = "Also tell on stderr what the engine is doing" };

    private readonly Option<bool> _customDist = new("--custom-dist") { Description = "Accepted for upstream's scripts, ignored", Hidden = true, Arity = ArgumentArity.ZeroOrOne };

    public CommonOptions(string jsonDescription)
    {
        _json = new Option<bool>("--json") { Description = jsonDescription };
        Group = new OptionGroup("Output", [_json, _verbose, _customDist]);
    }

    public CommonOptions(OptionGroup withoutJson)
    {
        _json = new Option<bool>("--json") { Hidden = true };
        Group = withoutJson with { Options = [.. withoutJson.Options, _verbose, _customDist] };
    }

    public OptionGroup Group { get; }

    public bool Json(ParseResult parsed) => parsed.GetValue(_json);

    public StderrLogging CreateLogging(ParseResult parsed)
    {
        if (parsed.IsGiven(_customDist))
        {
            Stderr.Note("--custom-dist is ignored: no process group is needed here");
        }
        return new StderrLogging(parsed.GetValue(_verbose));
    }
}
