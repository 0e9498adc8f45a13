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

    /// <summary>Where the engine logs, for a command that serves: audit lines as its limits say, reopened on each <paramref name="reload"/>.</summary>
    /// <exception cref="CheckpointEngineException">The audit log cannot be opened.</exception>
    public StderrLogging CreateLogging(ParseResult parsed, LimitOptions limits, ReloadSignal reload)
    {
        AuditFile? audit = limits.AuditLog(parsed) is { } path ? new AuditFile(path) : null;
        if (audit is not null)
        {
            reload.Add(audit.Reopen);
        }
        return CreateLogging(parsed, audit);
    }

    public StderrLogging CreateLogging(ParseResult parsed, AuditFile? audit = null)
    {
        if (parsed.IsGiven(_customDist))
        {
            Stderr.Note("--custom-dist is ignored: no process group is needed here");
        }
        return new StderrLogging(parsed.GetValue(_verbose), audit);
    }
}
