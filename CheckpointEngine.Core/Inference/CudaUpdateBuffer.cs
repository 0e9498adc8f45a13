using System.Collections.Concurrent;
using System.Diagnostics;
using System.Text;
using CheckpointEngine.Interop;
using CheckpointEngine.Metas.Pickle;

namespace CheckpointEngine.Inference;

/// <summary>Memory of one GPU that a worker opens by its IPC handle.</summary>
/// <remarks>
/// A thread of its own pins and queues what <see cref="BeginCopy"/> gives it; where there are cores enough for it, more threads copy it into pinned memory first. Of several GPUs the first takes the bytes from the host, and the others from it
/// where they are linked: host memory is read once, and the links between GPUs are many times faster than a GPU's to the host.
/// </remarks>
internal sealed unsafe class CudaUpdateBuffer : IUpdateBuffer
{
    // What the driver gives memory out by. A smaller piece would share its block with others, and a handle opens whole blocks.
    private const long Granule = 2 << 20;

    // torch counts a tensor's users in a file of /dev/shm by this name, and passes over one that is not there: who sends need not count, as it waits for
    // the worker's word that it has let go.
    private static readonly byte[] s_noCounter = Encoding.ASCII.GetBytes($"/checkpoint-engine_{Environment.ProcessId}_uncounted");

    private readonly CudaContext _context;
    private readonly CudaHostPins _pins;
    private readonly CudaUpdateBuffer? _source;
    private readonly List<CudaUpdateBuffer> _readers = [];      // whose source this one is
    private readonly bool _canPinReadOnly;
    private readonly SemaphoreSlim _go = new(0);
    private readonly ConcurrentQueue<Half> _begun = new();
    private readonly Half[] _halves = [new Half(0), new Half(1)];
    private readonly Thread? _thread;
    private LibCuda.IpcMemHandle _handle;
    private CudaStaging? _staging;
    private bool _prefersStaging;
    private ulong _address;
    private void* _stream;
    private void* _made;                // the event that others are timed from
    private double _readySeconds;       // when the newest copy was in its place
    private volatile bool _stop;
    private bool _disposed;

    /// <param name="context">Where.</param>
    /// <param name="halfBytes">Bytes of a half.</param>
    /// <param name="pins">What is pinned of the host.</param>
    /// <param name="first">The buffer of the update's first device, which is given every copy before this one; null for that itself.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>; what the driver says.</exception>
    internal CudaUpdateBuffer(CudaContext context, long halfBytes, CudaHostPins pins, CudaUpdateBuffer? first)
    {
        _context = context;
        _pins = pins;
        HalfBytes = halfBytes;
        try
        {
            _source = first is not null && context.CanReach(first._context) ? first : null;
            if (_source is null)
            {
                pins.AddReader();
            }
            _source?._readers.Add(this);
            using CudaContext.Scope scope = context.Enter();
            int can;
            _canPinReadOnly = LibCuda.cuDeviceGetAttribute(&can, LibCuda.CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, context.Device) == LibCuda.CUDA_SUCCESS && can != 0;
            Allocate(checked(2 * halfBytes + Granule - 1) & -Granule);
            LibCuda.IpcMemHandle handle;
            CudaContext.Check(LibCuda.cuIpcGetMemHandle(&handle, _address), "cuIpcGetMemHandle", context.Name);
            _handle = handle;
            void* made;
            CudaContext.Check(LibCuda.cuStreamCreate(&made, LibCuda.CU_STREAM_NON_BLOCKING), "cuStreamCreate", context.Name);
            _stream = made;
            _made = MakeEvent();
            CudaContext.Check(LibCuda.cuEventRecord(_made, _stream), "cuEventRecord", context.Name);
            foreach (Half half in _halves)
            {
                half.Begun = MakeEvent();
                half.Ready = MakeEvent();
            }
            _thread = new Thread(Work) { IsBackground = true, Name = "checkpoint-engine update copy" };
            _thread.Start();
        }
        catch
        {
            _thread = null;
            Dispose();
            throw;
        }
    }

    public long HalfBytes { get; }

    /// <summary>Whether what is copied from the host goes through pinned memory of our own.</summary>
    internal bool IsStaged => _staging is not null;

    /// <summary>Writes what torch's reduce_tensor gives for a flat tensor of bytes.</summary>
    /// <remarks>
    /// The handle is the bare 64 bytes: since 2.5 torch puts a version and a kind before it, and all versions, 2.5 to 2.9 too, take one of exactly 64 bytes
    /// as what older ones sent, while a version of newer torch is refused by older. The storage's class is TypedStorage, as in reduce_tensor. Source: torch 2.9,
    /// torch/multiprocessing/reductions.py, torch/csrc/StorageSharing.cpp, c10/cuda/CUDACachingAllocator.cpp.
    /// </remarks>
    public void WriteHandle(PickleWriter pickle)
    {
        fixed (byte* handle = _handle.reserved)
        {
            WriteHandle(pickle, new ReadOnlySpan<byte>(handle, LibCuda.IpcHandleBytes), (ulong)(2 * HalfBytes), _context.Device);
        }
    }

    internal static void WriteHandle(PickleWriter pickle, ReadOnlySpan<byte> handle, ulong bytes, int device)
    {
        pickle.StackGlobal("torch.multiprocessing.reductions"u8, "rebuild_cuda_tensor"u8);
        pickle.Mark();
        pickle.StackGlobal("torch"u8, "Tensor"u8);
        pickle.StackGlobal("torch"u8, "Size"u8);            // size
        pickle.Integer(bytes);
        pickle.Tuple(1);
        pickle.Tuple(1);
        pickle.Reduce();
        pickle.Integer(1);                                  // stride
        pickle.Tuple(1);
        pickle.Integer(0);                                  // offset in the storage
        pickle.StackGlobal("torch.storage"u8, "TypedStorage"u8);
        pickle.StackGlobal("torch"u8, "uint8"u8);
        pickle.Integer((ulong)device);                      // the worker puts its own there
        pickle.Bytes(handle);
        pickle.Integer(bytes);                              // of the storage
        pickle.Integer(0);                                  // offset in the allocation
        pickle.Boolean(false);                              // requires_grad
        pickle.Bytes(s_noCounter);
        pickle.Integer(0);
        Span<byte> noEvent = stackalloc byte[LibCuda.IpcHandleBytes];
        noEvent.Clear();
        pickle.Bytes(noEvent);
        pickle.Boolean(false);                              // no event: workers are told of bytes that are there
        pickle.Tuple(15);
        pickle.Tuple(2);
    }

    public void Expect(IReadOnlyList<(nint Start, long Bytes)> runs)
    {
        if (_source is not null)
        {
            return;
        }
        _prefersStaging = CudaStaging.IsFaster && _pins.Readers == 1;
        if (!_prefersStaging)
        {
            _pins.PinAhead(_context, runs, _canPinReadOnly);
        }
    }

    public void BeginCopy(int half, ReadOnlyMemory<UpdatePiece> pieces)
    {
        Half begun = _halves[half];
        Debug.Assert(begun.Queued.IsSet, "one copy of a half at a time");
        begun.Pieces = pieces;
        begun.Queued.Reset();
        _begun.Enqueue(begun);
        _go.Release();
    }

    public double Synchronize(int half)
    {
        Half begun = _halves[half];
        begun.Queued.Wait();
        begun.ThrowIfFailed(_context.Name);
        using CudaContext.Scope scope = _context.Enter();
        CudaContext.Check(LibCuda.cuEventSynchronize(begun.Ready), "copy", _context.Name);
        double before = Math.Max(SecondsTo(begun.Begun), _readySeconds);
        _readySeconds = SecondsTo(begun.Ready);
        return _readySeconds - before;
    }

    public void Dispose()
    {
        if (_disposed)
        {
            return;
        }
        _disposed = true;
        foreach (CudaUpdateBuffer reader in _readers)
        {
            reader.Dispose();       // copies out of this memory end before it does, and they wait for copies into it
        }
        _stop = true;
        if (_thread is not null)
        {
            _go.Release();
            _thread.Join();
        }
        Free();
        _go.Dispose();
        Array.ForEach(_halves, static half => half.Dispose());
    }

    /// <summary>Copies a half to the host and waits.</summary>
    internal void Read(int half, byte* destination)
    {
        using CudaContext.Scope scope = _context.Enter();
        CudaContext.Check(LibCuda.cuMemcpyDtoH(destination, _address + (ulong)(half * HalfBytes), (nuint)HalfBytes), "cuMemcpyDtoH", _context.Name);
    }

    private void Allocate(long bytes)
    {
        ulong address;
        int result = LibCuda.cuMemAlloc(&address, (nuint)bytes);
        if (result == LibCuda.CUDA_ERROR_OUT_OF_MEMORY)
        {
            nuint free, total;
            long left = LibCuda.cuMemGetInfo(&free, &total) == LibCuda.CUDA_SUCCESS ? (long)free : 0;
            throw new CheckpointEngineException(CheckpointError.OutOfMemory,
                $"cuMemAlloc of {bytes} bytes on {_context.Name}: {left} bytes are free; let the server keep less (--gpu-memory-utilization, --mem-fraction-static), or take smaller buckets (--bucket-mib)", result);
        }
        CudaContext.Check(result, "cuMemAlloc", _context.Name);
        _address = address;
    }

    private void* MakeEvent()
    {
        void* made;
        CudaContext.Check(LibCuda.cuEventCreate(&made, LibCuda.CU_EVENT_BLOCKING_SYNC), "cuEventCreate", _context.Name);
        return made;
    }

    private double SecondsTo(void* happened)
    {
        float milliseconds;
        CudaContext.Check(LibCuda.cuEventElapsedTime(&milliseconds, _made, happened), "cuEventElapsedTime", _context.Name);
        return milliseconds / 1000.0;
    }

    private void Free()
    {
        if (LibCuda.cuCtxPushCurrent(_context.Pointer) != LibCuda.CUDA_SUCCESS)
        {
            return;     // the context is gone, and with it what was in it
        }
        _staging?.Dispose();
        if (_stream != null)
        {
            LibCuda.cuStreamSynchronize(_stream);
        }
        foreach (void* made in (ReadOnlySpan<nint>)[(nint)_made, (nint)_halves[0].Begun, (nint)_halves[0].Ready, (nint)_halves[1].Begun, (nint)_halves[1].Ready])
        {
            if (made != null)
            {
                LibCuda.cuEventDestroy(made);
            }
        }
        if (_stream != null)
        {
            LibCuda.cuStreamDestroy(_stream);
        }
        if (_address != 0)
        {
            LibCuda.cuMemFree(_address);
        }
        void* popped;
        LibCuda.cuCtxPopCurrent(&popped);
    }

    // The thread is ours, so its context is set and not pushed.
    private void Work()
    {
        while (true)
        {
            _go.Wait();
            if (_stop || !_begun.TryDequeue(out Half? half))
            {
                return;
            }
            try
            {
                CudaContext.Check(LibCuda.cuCtxSetCurrent(_context.Pointer), "cuCtxSetCurrent", _context.Name);
                Queue(half);
            }
            catch (Exception failure)
            {
                half.Fail(failure);
            }
        }
    }

    // By the thread that has queued the last of it.
    private void EndQueueing(Half half)
    {
        CudaContext.Check(LibCuda.cuEventRecord(half.Ready, _stream), "cuEventRecord", _context.Name);
        half.Queued.Set();
    }

    private void StagingQueued(int half, Exception? failure)
    {
        try
        {
            if (failure is null)
            {
                EndQueueing(_halves[half]);
                return;
            }
        }
        catch (CheckpointEngineException own)
        {
            failure = own;
        }
        _halves[half].Fail(failure);
    }

    private void Queue(Half half)
    {
        CudaContext.Check(LibCuda.cuEventRecord(half.Begun, _stream), "cuEventRecord", _context.Name);
        ulong destination = _address + (ulong)(half.Index * HalfBytes);
        if (_source is not null)
        {
            QueueFromPeer(half, destination);
            EndQueueing(half);
            return;
        }
        if (_staging is null && (_prefersStaging || !TryPin(half)))
        {
            _staging = new CudaStaging(_context, _stream, _pins.TakeStagingMemory(), StagingQueued);
        }
        if (_staging is not null)
        {
            _staging.Begin(half.Index, half.Pieces, (nint)destination);
            return;
        }
        long queued = 0;
        foreach (UpdatePiece piece in half.Pieces.Span)
        {
            for (long done = 0; done < piece.Bytes && !_stop;)
            {
                nint from = piece.Source + (nint)done;
                long bytes = Math.Min(piece.Bytes - done, _pins.RunLength(from));
                CudaContext.Check(LibCuda.cuMemcpyHtoDAsync(destination + (ulong)(piece.Offset + done), (void*)from, (nuint)bytes, _stream), "cuMemcpyHtoDAsync", _context.Name);
                done += bytes;
            }
            queued += piece.Bytes;
        }
        _pins.Advance(queued);
        EndQueueing(half);
    }

    // Tensors that follow each other in memory are pinned together: a registration costs a system call and a table of the device.
    private bool TryPin(Half half)
    {
        nint start = 0;
        nint end = 0;
        foreach (UpdatePiece piece in half.Pieces.Span)
        {
            if (piece.Source < end || piece.Source - end >= Environment.SystemPageSize || start == 0)
            {
                if (_stop || (end > start && !_pins.TryPin(start, end - start, _canPinReadOnly)))
                {
                    return _stop;
                }
                start = piece.Source;
            }
            end = piece.Source + (nint)piece.Bytes;
        }
        return end == start || _pins.TryPin(start, end - start, _canPinReadOnly);
    }

    private void QueueFromPeer(Half half, ulong destination)
    {
        Half source = _source!._halves[half.Index];
        source.Queued.Wait();
        source.ThrowIfFailed(_context.Name);
        long bytes = 0;
        foreach (UpdatePiece piece in half.Pieces.Span)
        {
            bytes = Math.Max(bytes, piece.Offset + piece.Bytes);
        }
        CudaContext.Check(LibCuda.cuStreamWaitEvent(_stream, source.Ready, 0), "cuStreamWaitEvent", _context.Name);
        CudaContext.Check(LibCuda.cuMemcpyPeerAsync(destination, _context.Pointer, _source._address + (ulong)(half.Index * HalfBytes), _source._context.Pointer, (nuint)bytes, _stream),
            "cuMemcpyPeerAsync", _context.Name);
    }

    private sealed class Half(int index) : IDisposable
    {
        internal readonly int Index = index;
        internal readonly ManualResetEventSlim Queued = new(true);
        internal ReadOnlyMemory<UpdatePiece> Pieces;
        internal void* Begun;       // events
        internal void* Ready;
        private volatile Exception? _failure;

        public void Dispose() => Queued.Dispose();

        internal void Fail(Exception failure)
        {
            _failure ??= failure;
            Queued.Set();
        }

        internal void ThrowIfFailed(string device)
        {
            if (_failure is { } failure)
            {
                throw new CheckpointEngineException((failure as CheckpointEngineException)?.Error ?? CheckpointError.Native, $"copy to {device}: {failure.Message}",
                    (failure as CheckpointEngineException)?.NativeCode ?? 0, failure);
            }
        }
    }
}
