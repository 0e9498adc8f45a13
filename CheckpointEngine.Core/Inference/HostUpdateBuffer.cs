using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Metas.Pickle;

namespace CheckpointEngine.Inference;

/// <summary>A piece of shared memory without a name, which ends with this process and its mappings however they end.</summary>
/// <remarks>
/// A memfd and no file of /dev/shm: nothing is left behind by a crash, and a container's /dev/shm is 64 MiB by default. Workers open it by its
/// descriptor under /proc, for reading; that needs the same user (or root) and the same PID namespace, as its socket needs the same network namespace.
/// </remarks>
internal sealed class HostUpdateBuffer : IUpdateBuffer
{
    private readonly MemoryBuffer _memory;
    private readonly HostCopyCrew _crew = new();
    private Thread? _freeing;

    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.OutOfMemory"/>.</exception>
    internal HostUpdateBuffer(long halfBytes)
    {
        HalfBytes = halfBytes;
        _memory = MemoryBuffer.AllocateMemfd(checked(2 * halfBytes), "checkpoint-engine:update");
    }

    public long HalfBytes { get; }

    public void WriteHandle(PickleWriter pickle)
    {
        pickle.StackGlobal("checkpoint_engine"u8, "map_host_buffer"u8);
        Span<byte> path = stackalloc byte[64];
        path = path[..System.Text.Encoding.UTF8.GetBytes($"/proc/{Environment.ProcessId}/fd/{_memory.FileDescriptor!.DangerousGetHandle()}", path)];
        pickle.String(path);
        pickle.Integer((ulong)(2 * HalfBytes));
        pickle.Tuple(2);
        pickle.Tuple(2);
    }

    public void BeginCopy(int half, ReadOnlyMemory<UpdatePiece> pieces) => _crew.Begin(half, pieces, _memory.Address + (nint)(half * HalfBytes));

    public double Synchronize(int half) => _crew.Wait(half);

    // The kernel takes a quarter of a second for each GiB of such memory, and the server waits for the last message behind it.
    public void BeginDispose()
    {
        if (_freeing is null)
        {
            _crew.Dispose();
            _freeing = new Thread(_memory.Dispose) { IsBackground = true, Name = "checkpoint-engine update memory" };
            _freeing.Start();
        }
    }

    public void Dispose()
    {
        BeginDispose();
        _freeing!.Join();
    }

    private sealed unsafe class HostCopyCrew : CopyCrew
    {
        // More fill no memory bandwidth that these leave, and a server's workers want cores, too.
        private const int MostThreads = 4;

        // Large enough to stream, small enough that threads end together.
        private const long StepBytes = 1 << 20;

        internal HostCopyCrew() : base(MostThreads, StepBytes) => Start();

        public override void Dispose() => Stop();

        // Who exchanges messages, and the workers, whom copies serve, go first: on few cores an answer waits for two milliseconds otherwise.
        protected override void Enter() => BackgroundThread.StepBack();

        protected override byte* RoomFor(Copy copy, long offset) => (byte*)copy.Destination + offset;

        protected override void CopyBytes(byte* source, byte* destination, long bytes) => StreamingCopy.Copy(source, destination, bytes);
    }
}

/// <summary>Stands for one worker that reads host memory; all of an update share one buffer.</summary>
internal sealed class HostUpdateDevice : IUpdateDevice
{
    // Shared memory is slow to touch for the first time, for engine and worker alike, and a bucket of this size is soon there; beside its copy the exchange
    // of messages is still nothing. At four times the size a checkpoint of a few GiB takes half as long again.
    private const long BucketBytes = 64 << 20;

    private readonly HostUpdateDevice _first;
    private HostUpdateBuffer? _buffer;

    private HostUpdateDevice(int index, HostUpdateDevice? first)
    {
        Uuid = $"HOST-{index}";
        _first = first ?? this;
    }

    public string Uuid { get; }

    public long FreeBytes => Internal.HostMemory.AvailableBytes();

    public long DefaultBucketBytes => BucketBytes;

    /// <summary>Makes <c>HOST-0</c> to <c>HOST-(count - 1)</c>.</summary>
    internal static IUpdateDevice[] Make(int count)
    {
        var devices = new IUpdateDevice[count];
        HostUpdateDevice? first = null;
        for (int i = 0; i < count; i++)
        {
            var device = new HostUpdateDevice(i, first);
            first ??= device;
            devices[i] = device;
        }
        return devices;
    }

    public IUpdateBuffer AllocateBuffer(long halfBytes) => _first._buffer ??= new HostUpdateBuffer(halfBytes);

    public void Dispose() => _buffer?.Dispose();
}
