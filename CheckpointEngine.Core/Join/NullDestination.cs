using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>Drops what it gets, to measure.</summary>
internal sealed class NullDestination : IJoinDestination
{
    public nint AddressOf(in ReadUnit unit) => 0;

    public void Write(in ReadUnit unit, ReadOnlySpan<byte> bytes)
    {
    }

    public void Dispose()
    {
    }
}
