using CheckpointEngine.Interop;

namespace CheckpointEngine.Inference;

/// <summary>One worker's GPU.</summary>
internal sealed unsafe class CudaUpdateDevice : IUpdateDevice
{
    /// <summary>Bytes of a bucket where none are asked for: the exchange of messages is nothing beside the copy, and the first bucket is soon there.</summary>
    internal const long BucketBytes = 256 << 20;

    private readonly CudaContext _context;
    private readonly CudaHostPins _pins;
    private readonly CudaUpdateDevice? _first;
    private CudaUpdateBuffer? _buffer;
    private bool _disposed;

    /// <param name="uuid">Its name.</param>
    /// <param name="context">Disposed with it.</param>
    /// <param name="pins">Those of all devices of the update.</param>
    /// <param name="first">The update's first device; null for that.</param>
    internal CudaUpdateDevice(string uuid, CudaContext context, CudaHostPins pins, CudaUpdateDevice? first)
    {
        Uuid = uuid;
        _context = context;
        _pins = pins;
        _first = first;
        pins.AddUser();
    }

    public string Uuid { get; }

    public long DefaultBucketBytes => BucketBytes;

    public long FreeBytes
    {
        get
        {
            using CudaContext.Scope scope = _context.Enter();
            nuint free, total;
            CudaContext.Check(LibCuda.cuMemGetInfo(&free, &total), "cuMemGetInfo", Uuid);
            return (long)free;
        }
    }

    public IUpdateBuffer AllocateBuffer(long halfBytes) => _buffer = new CudaUpdateBuffer(_context, halfBytes, _pins, _first?._buffer);

    public void Dispose()
    {
        if (_disposed)
        {
            return;
        }
        _disposed = true;
        _buffer?.Dispose();
        _pins.RemoveUser(_context);
        _context.Dispose();
    }
}
