using System.Buffers;

namespace CheckpointEngine.Checkpoints;

/// <summary>Shows a part of a <see cref="MemoryBuffer"/> as <see cref="Memory{T}"/>.</summary>
/// <remarks>Holds the buffer, so the collector does not take it from under a view; a pin holds its mapping against Dispose too.</remarks>
internal sealed unsafe class RegionMemoryManager(MemoryBuffer buffer, nint address, int length) : MemoryManager<byte>
{
    public override Span<byte> GetSpan()
    {
        ObjectDisposedException.ThrowIf(buffer.Region.IsClosed, buffer);
        return new Span<byte>((byte*)address, length);
    }

    public override MemoryHandle Pin(int elementIndex = 0)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)elementIndex, (uint)length, nameof(elementIndex));
        bool held = false;
        buffer.Region.DangerousAddRef(ref held);
        return new MemoryHandle((byte*)address + elementIndex, default, this);
    }

    public override void Unpin() => buffer.Region.DangerousRelease();

    protected override void Dispose(bool disposing)
    {
    }
}
