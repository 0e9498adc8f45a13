using System.Diagnostics;
using System.Text;
using CheckpointEngine.Interop;
using CheckpointEngine.Metas.Pickle;

namespace CheckpointEngine.Inference;

/// <summary>Memory of one GPU that a worker opens by its IPC handle.</summary>
/// <remarks>
/// A thread of its own pins and queues what <see cref="BeginCopy"/> gives it. Of several GPUs the first takes the bytes from the host, and the others from it
/// where they are linked: host memory is read once, and the links between GPUs are many times faster than a GPU's to the host.
/// </remarks>
internal sealed unsafe class CudaUpdateBuffer : IUpdateBuffer
{
    // What the driver gives memory out by. A smaller piece would share its block with others, and a handle opens whole blocks.
    private const long Granule = 2 << 20;

    // Files are mapped in pages of 4 KiB: two threads pin 12 GB/s of such memory that this process has not touched, and 12 copy 40 out of it.
    private const int LeastCoresForStaging = 8;

    // torch counts a tensor's users in a file of /dev/shm by this name, and passes over one that is not there: who sends need not count, as it waits for
    // the worker's word that it has let go.
    private static readonly byte[] s_noCounter = Encoding.ASCII.GetBytes($"/checkpoint-engine_{Environment.ProcessId}_uncounted");

    private readonly CudaContext _context;
    private readonly CudaHostPins _pins;
    private readonly CudaUpdateBuffer? _source;
    private readonly List<CudaUpdateBuffer> _readers = [];      // whose source this one is
    private readonly bool _canPinReadOnly;
    private readonly SemaphoreSlim _go = new(0);
    private readonly ManualResetEventSlim _queued = new(true);
    private readonly ManualResetEventSlim _done = new(true);
    private readonly Thread? _thread;
    private readonly void*[] _ready = new void*[2];         // an event a half
    private LibCuda.IpcMemHandle _handle;
    private CudaStaging? _staging;
    private bool _prefersStaging;
    private ulong _address;
    private void* _stream;
    private int _half;
    private ReadOnlyMemory<UpdatePiece> _pieces;
    private Exception? _failure;
    private long _started;
    private long _ended;
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
            for (int half = 0; half < 2; half++)
            {
                CudaContext.Check(LibCuda.cuEventCreate(&made, LibCuda.CU_EVENT_DISABLE_TIMING | LibCuda.CU_EVENT_BLOCKING_SYNC), "cuEventCreate", context.Name);
                _ready[half] = made;
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

    public void Expect(IReadOnlyList<(nint Start, long Bytes)> runs, bool isMapped)
    {
        _prefersStaging = isMapped && Environment.ProcessorCount >= LeastCoresForStaging;
        if (_source is null && !_prefersStaging)
        {
            _pins.PinAhead(_context, runs, _canPinReadOnly);
        }
    }

    public void BeginCopy(int half, ReadOnlyMemory<UpdatePiece> pieces)
    {
        Debug.Assert(_done.IsSet, "one copy at a time");
        _half = half;
        _pieces = pieces;
        _started = _ended = Stopwatch.GetTimestamp();
        _queued.Reset();
        _done.Reset();
        _go.Release();
    }

    public double Synchronize()
    {
        _done.Wait();
        if (_failure is { } failure)
        {
            throw new CheckpointEngineException((failure as CheckpointEngineException)?.Error ?? CheckpointError.Native, failure.Message,
                (failure as CheckpointEngineException)?.NativeCode ?? 0, failure);
        }
        return Stopwatch.GetElapsedTime(_started, _ended).TotalSeconds;
    }

    public void Dispose()
    {
        if (_disposed)
        {
            return;
        }
        _disposed = true;
        _stop = true;
        foreach (CudaUpdateBuffer reader in _readers)
        {
            reader.Dispose();       // copies out of this memory end before it does
        }
        if (_thread is not null)
        {
            _go.Release();
            _thread.Join();
        }
        Free();
        _go.Dispose();
        _queued.Dispose();
        _done.Dispose();
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

    private void Free()
    {
        if (LibCuda.cuCtxPushCurrent(_context.Pointer) != LibCuda.CUDA_SUCCESS)
        {
            return;     // the context is gone, and with it what was in it
        }
        if (_stream != null)
        {
            LibCuda.cuStreamSynchronize(_stream);
        }
        _staging?.Dispose();
        foreach (void* ready in _ready)
        {
            if (ready != null)
            {
                LibCuda.cuEventDestroy(ready);
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
            if (_done.IsSet)
            {
                return;         // Dispose's call, and nothing is to do
            }
            try
            {
                CudaContext.Check(LibCuda.cuCtxSetCurrent(_context.Pointer), "cuCtxSetCurrent", _context.Name);
                Queue();
                CudaContext.Check(LibCuda.cuEventRecord(_ready[_half], _stream), "cuEventRecord", _context.Name);
                _queued.Set();
                CudaContext.Check(LibCuda.cuEventSynchronize(_ready[_half]), "copy", _context.Name);
            }
            catch (Exception failure)
            {
                _failure = failure;         // Synchronize throws it
            }
            _ended = Stopwatch.GetTimestamp();
            _queued.Set();
            _done.Set();
        }
    }

    private void Queue()
    {
        ulong half = _address + (ulong)(_half * HalfBytes);
        if (_source is not null)
        {
            QueueFromPeer(half);
            return;
        }
        if (_staging is null && (_prefersStaging || !TryPin()))
        {
            _staging = new CudaStaging(_context.Name, _stream);
        }
        if (_staging is not null)
        {
            _staging.Copy(_pieces.Span, half, () => _stop);
            return;
        }
        long queued = 0;
        foreach (UpdatePiece piece in _pieces.Span)
        {
            for (long done = 0; done < piece.Bytes && !_stop;)
            {
                nint from = piece.Source + (nint)done;
                long bytes = Math.Min(piece.Bytes - done, _pins.RunLength(from));
                CudaContext.Check(LibCuda.cuMemcpyHtoDAsync(half + (ulong)(piece.Offset + done), (void*)from, (nuint)bytes, _stream), "cuMemcpyHtoDAsync", _context.Name);
                done += bytes;
            }
            queued += piece.Bytes;
        }
        _pins.Advance(queued);
    }

    // Tensors that follow each other in memory are pinned together: a registration costs a system call and a table of the device.
    private bool TryPin()
    {
        nint start = 0;
        nint end = 0;
        foreach (UpdatePiece piece in _pieces.Span)
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

    private void QueueFromPeer(ulong half)
    {
        _source!._queued.Wait();
        if (_source._failure is { } failure)
        {
            throw new CheckpointEngineException(CheckpointError.Native, $"copy to {_context.Name}: {failure.Message}", 0, failure);
        }
        long bytes = 0;
        foreach (UpdatePiece piece in _pieces.Span)
        {
            bytes = Math.Max(bytes, piece.Offset + piece.Bytes);
        }
        CudaContext.Check(LibCuda.cuStreamWaitEvent(_stream, _source._ready[_half], 0), "cuStreamWaitEvent", _context.Name);
        CudaContext.Check(LibCuda.cuMemcpyPeerAsync(half, _context.Pointer, _source._address + (ulong)(_half * HalfBytes), _source._context.Pointer, (nuint)bytes, _stream),
            "cuMemcpyPeerAsync", _context.Name);
    }
}
