using CheckpointEngine.Interop;

namespace CheckpointEngine.Inference;

/// <summary>The way to a GPU for memory that cannot be pinned where it lies: two pinned slots, of which one is filled while the other travels.</summary>
/// <remarks>One thread, with the context current; Dispose once the stream is empty.</remarks>
internal sealed unsafe class CudaStaging : IDisposable
{
    // Long enough that threads and link stream, short enough that the first is soon on its way.
    private const long SlotBytes = 32 << 20;

    /// <summary>Bytes of pinned memory.</summary>
    internal const long Bytes = 2 * SlotBytes;

    // Four fill the link to no GPU of today: out of small pages a thread copies 3 to 10 GB/s.
    private const int MostThreads = 14;

    private readonly string _device;
    private readonly void* _stream;
    private readonly CopyCrew _crew = new(MostThreads);
    private readonly void*[] _slots = new void*[2];
    private readonly void*[] _sent = new void*[2];
    private UpdatePiece[] _parts = new UpdatePiece[64];
    private int _next;

    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>; what the driver says.</exception>
    internal CudaStaging(string device, void* stream)
    {
        _device = device;
        _stream = stream;
        try
        {
            for (int slot = 0; slot < 2; slot++)
            {
                void* made;
                CudaContext.Check(LibCuda.cuMemHostAlloc(&made, (nuint)SlotBytes, LibCuda.CU_MEMHOSTALLOC_PORTABLE), $"cuMemHostAlloc of {SlotBytes} bytes", device);
                _slots[slot] = made;
                CudaContext.Check(LibCuda.cuEventCreate(&made, LibCuda.CU_EVENT_DISABLE_TIMING | LibCuda.CU_EVENT_BLOCKING_SYNC), "cuEventCreate", device);
                _sent[slot] = made;
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Queues pieces whose offsets ascend; what lies between them is padding, and is overwritten. The last of it travels when this returns.</summary>
    internal void Copy(ReadOnlySpan<UpdatePiece> pieces, ulong destination, Func<bool> stop)
    {
        int piece = 0;
        long done = 0;
        while (piece < pieces.Length && !stop())
        {
            long first = pieces[piece].Offset + done;
            long end = first;
            int count = 0;
            while (piece < pieces.Length && pieces[piece].Offset + done < first + SlotBytes)
            {
                UpdatePiece from = pieces[piece];
                long offset = from.Offset + done - first;
                long bytes = Math.Min(from.Bytes - done, SlotBytes - offset);
                if (count == _parts.Length)
                {
                    Array.Resize(ref _parts, 2 * count);
                }
                _parts[count++] = new UpdatePiece(from.Source + (nint)done, offset, bytes);
                end = first + offset + bytes;
                done += bytes;
                if (done == from.Bytes)
                {
                    piece++;
                    done = 0;
                }
            }
            int slot = _next;
            _next ^= 1;
            CudaContext.Check(LibCuda.cuEventSynchronize(_sent[slot]), "copy", _device);
            _crew.Begin(_parts.AsMemory(0, count), (nint)_slots[slot]);
            _crew.Wait();
            CudaContext.Check(LibCuda.cuMemcpyHtoDAsync(destination + (ulong)first, _slots[slot], (nuint)(end - first), _stream), "cuMemcpyHtoDAsync", _device);
            CudaContext.Check(LibCuda.cuEventRecord(_sent[slot], _stream), "cuEventRecord", _device);
        }
    }

    public void Dispose()
    {
        _crew.Dispose();
        for (int slot = 0; slot < 2; slot++)
        {
            if (_sent[slot] != null)
            {
                LibCuda.cuEventDestroy(_sent[slot]);
            }
            if (_slots[slot] != null)
            {
                LibCuda.cuMemFreeHost(_slots[slot]);
            }
        }
    }
}
