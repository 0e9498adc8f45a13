using System.CommandLine;

namespace CheckpointEngine.Cli.Commands;

/// <summary>Options of one theme, under one title in the help.</summary>
internal sealed record OptionGroup(string Title, IReadOnlyList<Option> Options);

/// <summary>A command line to paste, and what it is for.</summary>
internal sealed record Example(string Says, string Line);

/// <summary>A command that carries its own help: usage, examples, options by theme, notes.</summary>
internal abstract class DocumentedCommand : Command
{
    private readonly List<OptionGroup> _groups = [];

    protected DocumentedCommand(string name, string description)
        : base(name, description) => SetAction((parsed, _) => RunAsync(parsed));

    /// <summary>What follows the command's name in the usage line.</summary>
    public abstract string Usage { get; }

    public abstract IReadOnlyList<Example> Examples { get; }

    public virtual IReadOnlyList<string> Notes => [];

    public IReadOnlyList<OptionGroup> Groups => _groups;

    /// <summary>Runs it; what it throws is told by <see cref="CommandLine"/>.</summary>
    /// <returns>The exit status.</returns>
    protected abstract Task<int> RunAsync(ParseResult parsed);

    protected void AddGroup(OptionGroup group)
    {
        _groups.Add(group);
        foreach (Option option in group.Options)
        {
            Add(option);
        }
    }
}
