using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>Bytes that are on this host already and may be those that are wanted: of an earlier version, or of a join that was killed.</summary>
/// <remarks>Any number of threads at once. What it gives is believed only when its digests are the owner's.</remarks>
internal interface IJoinSeed
{
    /// <summary>Whether what it gives is in its place at the destination.</summary>
    bool IsInPlace { get; }

    /// <summary>Fills in the bytes of a unit's tensors; padding may be left out.</summary>
    /// <param name="unit">The unit.</param>
    /// <param name="bytes">As many as the unit has.</param>
    /// <returns>False when it lacks one of the tensors.</returns>
    bool TryRead(in ReadUnit unit, Span<byte> bytes);
}
