namespace CheckpointEngine.Tests;

/// <summary>Tests that count what is mapped in the whole process, and so run alone.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public class CountsMemory
{
    public const string Name = "counts memory";
}
