using System.Diagnostics;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Inference;

/// <summary>The way to a GPU for memory that is not pinned where it lies: a ring of pinned slots, which threads fill in order and whoever fills the last of one sends.</summary>
/// <remarks>
/// No thread waits for all others, and the ring is small enough to stay in the processor's cache, out of which the GPU reads it, from huge pages
/// and from pages of 4 KiB alike (docs/gpu.md has the rates). Twice as large it left the cache. Dispose it before stream and context.
/// </remarks>
internal sealed unsafe class CudaStaging : CopyCrew
{
    // A copy of 4 MiB leaves gaps on the link, of 16 the caches.
    private const long SlotBytes = 8 << 20;
    private const int Slots = 6;

    /// <summary>Bytes of pinned memory.</summary>
    internal const long Bytes = Slots * SlotBytes;

    private const long StepBytes = 512 << 10;

    // Four fill the link to no GPU of today: out of small pages a thread copies 3 to 10 GB/s.
    private const int MostThreads = 14;

    // Two threads pin 12 GB/s of files, which are mapped in pages of 4 KiB, and 40 of huge pages, and the driver copies nothing while it pins. A core copies 5 into
    // memory that is pinned, and the driver goes on: from so many cores on that is faster.
    private const int LeastCores = 8;

    private readonly CudaContext _context;
    private readonly void* _stream;
    private readonly Action<int, Exception?> _queued;
    private readonly Slot[] _slots = new Slot[Slots];
    private readonly MemoryBuffer _memory;
    private bool _isPinned;
    private long _slotsBegun;

    /// <param name="context">Where; current.</param>
    /// <param name="stream">What copies are queued in.</param>
    /// <param name="memory">As <see cref="AllocateMemory"/> gives it; its owner from here on.</param>
    /// <param name="queued">Told which half is queued to its end, or will not be, by a thread with the context current.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>; what the driver says.</exception>
    internal CudaStaging(CudaContext context, void* stream, MemoryBuffer memory, Action<int, Exception?> queued) : base(MostThreads, StepBytes)
    {
        _context = context;
        _stream = stream;
        _queued = queued;
        _memory = memory;
        try
        {
            CudaContext.Check(LibCuda.cuMemHostRegister((void*)_memory.Address, (nuint)Bytes, LibCuda.CU_MEMHOSTREGISTER_PORTABLE), $"cuMemHostRegister of {Bytes} bytes", context.Name);
            _isPinned = true;
            for (int i = 0; i < Slots; i++)
            {
                _slots[i] = new Slot(_memory.Address + (nint)(i * SlotBytes));
                void* made;
                CudaContext.Check(LibCuda.cuEventCreate(&made, LibCuda.CU_EVENT_DISABLE_TIMING | LibCuda.CU_EVENT_BLOCKING_SYNC), "cuEventCreate", context.Name);
                _slots[i].Sent = made;
            }
            Start();
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Whether this host has the cores to fill a GPU's link through pinned memory, where pinning every page where it lies takes longer.</summary>
    internal static bool IsFaster => Environment.ProcessorCount >= LeastCores;

    /// <summary>Memory for the slots, all of it touched. The driver's own allocation of pinned memory takes three times as long as this and pinning it.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>.</exception>
    internal static MemoryBuffer AllocateMemory()
    {
        MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(Bytes);
        for (long offset = 0; offset < Bytes; offset += Environment.SystemPageSize)
        {
            *((byte*)memory.Address + offset) = 0;
        }
        return memory;
    }

    public override void Dispose()
    {
        Stop();
        LibCuda.cuStreamSynchronize(_stream);
        foreach (Slot? slot in _slots)
        {
            if (slot is not null && slot.Sent != null)
            {
                LibCuda.cuEventDestroy(slot.Sent);
                slot.Sent = null;
            }
        }
        if (_isPinned)
        {
            _isPinned = false;
            LibCuda.cuMemHostUnregister((void*)_memory.Address);
        }
        _memory.Dispose();
    }

    protected override void Enter() => CudaContext.Check(LibCuda.cuCtxSetCurrent(_context.Pointer), "cuCtxSetCurrent", _context.Name);

    protected override void Begun(Copy copy)
    {
        copy.FirstSlot = _slotsBegun;
        _slotsBegun += (copy.Bytes + SlotBytes - 1) / SlotBytes;
    }

    protected override byte* RoomFor(Copy copy, long offset)
    {
        Slot slot = SlotOf(copy, offset, out long round);
        var spin = new SpinWait();
        while (Volatile.Read(ref slot.TimesQueued) < round)         // another thread has the last piece of what is to be sent first
        {
            if (IsOver)
            {
                throw new OperationCanceledException();             // Ended tells what it was
            }
            spin.SpinOnce(sleep1Threshold: -1);
        }
        if (Volatile.Read(ref slot.TimesSent) < round)
        {
            CudaContext.Check(LibCuda.cuEventSynchronize(slot.Sent), "copy", _context.Name);
            Volatile.Write(ref slot.TimesSent, round);
        }
        return (byte*)slot.Address + offset % SlotBytes;
    }

    // Through the caches: the GPU reads it out of them.
    protected override void CopyBytes(byte* source, byte* destination, long bytes) => Buffer.MemoryCopy(source, destination, bytes, bytes);

    protected override void Filled(Copy copy, long offset)
    {
        Slot slot = SlotOf(copy, offset, out long round);
        long start = offset - offset % SlotBytes;
        long bytes = Math.Min(SlotBytes, copy.Bytes - start);
        if (Interlocked.Increment(ref slot.StepsFilled) == (bytes + StepBytes - 1) / StepBytes)
        {
            slot.StepsFilled = 0;
            CudaContext.Check(LibCuda.cuMemcpyHtoDAsync((ulong)(copy.Destination + (nint)start), (void*)slot.Address, (nuint)bytes, _stream), "cuMemcpyHtoDAsync", _context.Name);
            CudaContext.Check(LibCuda.cuEventRecord(slot.Sent, _stream), "cuEventRecord", _context.Name);
            Debug.Assert(slot.TimesQueued == round, "a slot is filled by one round at a time");
            Volatile.Write(ref slot.TimesQueued, round + 1);
        }
    }

    protected override void Ended(Copy copy, Exception? failure) => _queued(copy.Half, failure);

    private Slot SlotOf(Copy copy, long offset, out long round)
    {
        long number = copy.FirstSlot + offset / SlotBytes;
        round = number / Slots;
        return _slots[number % Slots];
    }

    private sealed class Slot(nint address)
    {
        internal readonly nint Address = address;
        internal void* Sent;
        internal long TimesQueued;
        internal long TimesSent;        // that a thread has waited for
        internal long StepsFilled;
    }
}
