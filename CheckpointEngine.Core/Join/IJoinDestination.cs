using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>Where the bytes of a join go.</summary>
/// <remarks>Any number of lanes at once, each with units of its own. Dispose releases what was not handed on.</remarks>
internal interface IJoinDestination : IDisposable
{
    /// <summary>Where a unit is to be received; 0 for the lane's own staging memory, and then <see cref="Write"/> is called with it.</summary>
    nint AddressOf(in ReadUnit unit);

    /// <summary>The memory that <see cref="AddressOf"/> gives places in.</summary>
    IEnumerable<(nint Address, long LengthBytes)> Regions => [];

    /// <summary>Takes a unit out of a lane's staging memory.</summary>
    void Write(in ReadUnit unit, ReadOnlySpan<byte> bytes);

    /// <summary>Whether there is room for a unit by now; one that has been let in has room for good.</summary>
    bool HasRoom(in ReadUnit unit) => true;

    /// <summary>Opens what is filled for others to read out of, while and after it is filled.</summary>
    /// <returns>The memory of the buffers of one owner; null when units lie nowhere for longer.</returns>
    /// <exception cref="CheckpointEngineException">A file cannot be mapped.</exception>
    SharedUnits? Share(int owner) => null;

    /// <summary>Counts a unit that is in its place and checked, as far as it can be by now.</summary>
    void Completed(in ReadUnit unit)
    {
    }
}
