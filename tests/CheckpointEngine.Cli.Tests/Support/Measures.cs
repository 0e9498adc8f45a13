[assembly: Xunit.v3.Parallelization(MaxThreads = 4)]       // most wait for timeouts and slow lines, whatever the number of processors

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>Tests that measure rates and times of answers, which others would spoil: they run alone.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class Measures
{
    public const string Name = nameof(Measures);
}
