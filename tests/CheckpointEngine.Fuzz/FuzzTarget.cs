namespace CheckpointEngine.Fuzz;

/// <summary>One parser, or one side of a conversation, as a function of bytes.</summary>
internal abstract class FuzzTarget : IDisposable
{
    /// <summary>What the command line calls it.</summary>
    internal abstract string Name { get; }

    /// <summary>The folder of its seeds in tests/corpora.</summary>
    internal virtual string Folder => Name;

    /// <summary>Which files of the folder are its seeds.</summary>
    internal virtual string SeedPattern => "*";

    /// <summary>Why it cannot run here; null when it can.</summary>
    internal virtual string? WhyNot => null;

    /// <summary>Bytes that mean something to the parser.</summary>
    internal virtual IReadOnlyList<byte[]> Tokens => [];

    /// <summary>The longest input that is made by mutation, in bytes.</summary>
    internal virtual int MaxInputBytes => 1 << 16;

    /// <summary>Managed bytes that an input may cost beyond the fixed part, for each of its own; more where every request has a buffer of its own.</summary>
    internal virtual int AllocationPerInputByte => 64;

    /// <summary>Whether it works on other threads too: the process's allocations are counted then.</summary>
    internal virtual bool UsesOtherThreads => false;

    /// <summary>What processes of its own have taken of the processor's time.</summary>
    internal virtual TimeSpan ProcessorTime => TimeSpan.Zero;

    /// <summary>Makes a new input of one from the pool; a target overrides it to keep length fields right most of the time.</summary>
    internal virtual byte[] Mutate(Mutator mutator, byte[] input) => mutator.Mutate(input);

    /// <summary>Gives the parser an input.</summary>
    /// <returns>What it was taken for; an input with a new outcome becomes a parent of others.</returns>
    /// <exception cref="CheckpointEngineException">It was refused, as it may be. Every other exception is a finding.</exception>
    internal abstract string Run(byte[] input);

    public virtual void Dispose()
    {
    }

    /// <summary>States what must hold of any input.</summary>
    /// <exception cref="FindingException">It does not.</exception>
    protected static void Check(bool holds, string what)
    {
        if (!holds)
        {
            throw new FindingException(what);
        }
    }

    /// <summary>States that two encodings are the same bytes.</summary>
    /// <exception cref="FindingException">They differ.</exception>
    protected static void CheckSame(ReadOnlySpan<byte> first, ReadOnlySpan<byte> second, string what)
    {
        int same = first.CommonPrefixLength(second);
        if (same != first.Length || same != second.Length)
        {
            throw new FindingException($"{what}: {first.Length:N0} and {second.Length:N0} bytes that differ from byte {same:N0} on");
        }
    }
}
