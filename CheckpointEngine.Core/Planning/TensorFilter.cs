using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Planning;

/// <summary>Chooses tensors by name: those that match one of the include patterns (all, when there is none) and none of the exclude patterns.</summary>
/// <remarks>Immutable; any number of threads.</remarks>
public sealed class TensorFilter
{
    private readonly Glob[] _include;
    private readonly Glob[] _exclude;
    private readonly TensorTable? _only;

    /// <summary>Makes a filter.</summary>
    /// <exception cref="ArgumentException">A pattern is malformed.</exception>
    public TensorFilter(IReadOnlyList<string> include, IReadOnlyList<string> exclude)
    {
        ArgumentNullException.ThrowIfNull(include);
        ArgumentNullException.ThrowIfNull(exclude);
        _include = [.. include.Select(pattern => new Glob(pattern))];
        _exclude = [.. exclude.Select(pattern => new Glob(pattern))];
    }

    /// <summary>Takes of what the patterns take only the tensors of a table.</summary>
    internal TensorFilter(IReadOnlyList<string> include, IReadOnlyList<string> exclude, TensorTable only)
        : this(include, exclude) => _only = only;

    /// <summary>The filter that takes everything.</summary>
    public static TensorFilter All { get; } = new([], []);

    /// <summary>The tensors that were named one by one; null when there are patterns alone.</summary>
    internal TensorTable? Only => _only;

    /// <summary>Whether it takes everything.</summary>
    public bool TakesAll => _only is null && _include.Length == 0 && _exclude.Length == 0;

    /// <summary>Whether the tensor of that name is wanted.</summary>
    public bool Takes(ReadOnlySpan<byte> nameUtf8) => (_only is null || _only.IndexOf(nameUtf8) >= 0) && (_include.Length == 0 || AnyMatches(_include, nameUtf8)) && !AnyMatches(_exclude, nameUtf8);

    private static bool AnyMatches(Glob[] patterns, ReadOnlySpan<byte> nameUtf8)
    {
        foreach (Glob pattern in patterns)
        {
            if (pattern.IsMatch(nameUtf8))
            {
                return true;
            }
        }
        return false;
    }
}
