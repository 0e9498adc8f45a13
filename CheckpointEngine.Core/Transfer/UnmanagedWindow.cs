using System.Buffers;

namespace CheckpointEngine.Transfer;

/// <summary>Shows a piece of unmanaged memory to socket calls that take <see cref="Memory{T}"/>, one piece after the other without allocating.</summary>
/// <remarks>One thread at a time; whoever moves it keeps the memory alive.</remarks>
internal sealed unsafe class UnmanagedWindow : MemoryManager<byte>
{
    private byte* _pointer;
    private int _length;

    /// <summary>Moves the window; what was given out before must no longer be in use.</summary>
    internal ReadOnlyMemory<byte> MoveTo(ulong address, int lengthBytes)
    {
        _pointer = (byte*)address;
        _length = lengthBytes;
        return CreateMemory(lengthBytes);
    }

    public override Span<byte> GetSpan() => new(_pointer, _length);

    public override MemoryHandle Pin(int elementIndex = 0) => new(_pointer + elementIndex);

    public override void Unpin()
    {
    }

    protected override void Dispose(bool disposing)
    {
    }
}
