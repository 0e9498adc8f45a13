using System.Text;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>
/// Tensors in memory that the caller owns: to be held in place (<see cref="ParameterServer.RegisterTensors"/>), or to be filled by a join
/// (<see cref="JoinOptions.Tensors"/>).
/// </summary>
/// <remarks>
/// One thread at a time while tensors are added; then read-only. The memory stays the caller's, who keeps it mapped while it is held or filled.
/// Tensors may overlap, as tied weights do. Dense and row-major.
/// </remarks>
public sealed class CallerTensors : IDisposable
{
    private const int MaxNameBytes = 64 << 10;

    // Where user addresses end; beyond is no memory of any process.
    private const ulong AddressEnd = 1UL << 47;

    private readonly TensorTableBuilder _builder = new();
    private NativeColumn<nint> _addresses;
    private TensorTable? _table;

    /// <summary>Number of tensors.</summary>
    public int Count => _addresses.Count;

    /// <summary>Adds a tensor.</summary>
    /// <param name="nameUtf8">Its name, unique among them: 1 to 65,536 bytes of UTF-8.</param>
    /// <param name="dtype">Its type, not <see cref="TensorDtype.Unknown"/>.</param>
    /// <param name="shape">Its dimensions; empty for a scalar.</param>
    /// <param name="address">Its first byte; of no meaning for a tensor without elements.</param>
    /// <exception cref="ArgumentException">One of them cannot be.</exception>
    public void Add(ReadOnlySpan<byte> nameUtf8, TensorDtype dtype, ReadOnlySpan<long> shape, nint address)
    {
        if (nameUtf8.Length is 0 or > MaxNameBytes || !System.Text.Unicode.Utf8.IsValid(nameUtf8))
        {
            throw new ArgumentException($"tensor {Count:N0}: a name has 1 to {MaxNameBytes:N0} bytes of UTF-8, and this one has {nameUtf8.Length:N0}", nameof(nameUtf8));
        }
        if (!Enum.IsDefined(dtype) || dtype == TensorDtype.Unknown)
        {
            throw new ArgumentException($"tensor {TensorNames.Quote(nameUtf8)}: {(int)dtype} is no element type", nameof(dtype));
        }
        long bytes = dtype.ByteLength(shape);
        if (bytes < 0)
        {
            throw new ArgumentException($"tensor {TensorNames.Quote(nameUtf8)}: its shape [{string.Join(',', shape.ToArray())}] is negative, too large, or does not fill whole bytes", nameof(shape));
        }
        if (bytes != 0 && (address <= 0 || (ulong)bytes > AddressEnd || (ulong)address > AddressEnd - (ulong)bytes))
        {
            throw new ArgumentException($"tensor {TensorNames.Quote(nameUtf8)}: {bytes:N0} bytes at 0x{address:x} are no memory of a process", nameof(address));
        }
        _builder.Add(nameUtf8, dtype, shape, bytes, 0);
        _addresses.Add(bytes == 0 ? 0 : address);
        _table = null;
    }

    /// <summary>As <see cref="Add(ReadOnlySpan{byte}, TensorDtype, ReadOnlySpan{long}, nint)"/>.</summary>
    public void Add(string name, TensorDtype dtype, ReadOnlySpan<long> shape, nint address)
    {
        ArgumentNullException.ThrowIfNull(name);
        Add(Encoding.UTF8.GetBytes(name), dtype, shape, address);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _builder.Dispose();
        _addresses.Dispose();
    }

    /// <summary>Names, types and shapes, in the order they were added; offsets have no meaning.</summary>
    internal TensorTable Table => _table ??= _builder.Build();

    internal ReadOnlySpan<nint> Addresses => _addresses.Span;

    /// <exception cref="ArgumentException">There are none, or two have one name.</exception>
    internal void ThrowIfUnfit()
    {
        if (Count == 0)
        {
            throw new ArgumentException("there are no tensors");
        }
        if (Table.FindDuplicateName() is >= 0 and int twice)
        {
            throw new ArgumentException($"tensor {TensorNames.Quote(Table, twice)} is there twice");
        }
    }

    /// <summary>
    /// Makes a checkpoint of them without a copy. Tensors that follow each other without a gap become one buffer; nothing between tensors is
    /// ever readable to peers.
    /// </summary>
    /// <exception cref="CheckpointEngineException">Native: <see cref="PinMode.Mlock"/> was asked for and is not allowed.</exception>
    internal HeldCheckpoint ToCheckpoint(string name, PinMode pin)
    {
        ThrowIfUnfit();
        TensorTable source = Table;
        int[] order = new int[Count];
        for (int i = 0; i < order.Length; i++)
        {
            order[i] = i;
        }
        nint[] addresses = Addresses.ToArray();
        Array.Sort((nint[])addresses.Clone(), order);          // empty tensors, at 0, come first
        using var table = new TensorTableBuilder();
        var runs = new List<(nint Start, long Bytes, int FirstTensor, int TensorCount)>();
        foreach (int tensor in order)
        {
            long bytes = source.GetByteLength(tensor);
            nint address = addresses[tensor];
            if (runs.Count == 0 || (bytes != 0 && address != runs[^1].Start + (nint)runs[^1].Bytes))
            {
                runs.Add((address, 0, table.Count, 0));
            }
            (nint start, long length, int first, int count) = runs[^1];
            table.AddFrom(source, tensor, bytes, length);
            runs[^1] = (start, length + bytes, first, count + 1);
        }
        HeldBuffer[] buffers = MakeBuffers(runs);
        var warnings = new List<string>();
        MemoryPinning.Lock([.. buffers.DistinctBy(buffer => buffer.Memory)], pin, onFault: false, warnings);
        return new HeldCheckpoint(name, table.Build(), buffers, [], warnings) { IsOfCaller = true };
    }

    // Runs that overlap share one piece of memory, so that what peers may read is registered once.
    private static HeldBuffer[] MakeBuffers(List<(nint Start, long Bytes, int FirstTensor, int TensorCount)> runs)
    {
        var buffers = new HeldBuffer[runs.Count];
        for (int first = 0; first < runs.Count;)
        {
            nint start = runs[first].Start;
            nint end = start + (nint)runs[first].Bytes;
            int next = first + 1;
            while (next < runs.Count && runs[next].Start < end)
            {
                end = Math.Max(end, runs[next].Start + (nint)runs[next].Bytes);
                next++;
            }
            // A run of empty tensors alone has no address of its own; any one does, since nothing is read there.
            MemoryBuffer memory = start == end ? MemoryBuffer.AllocateAnonymous(1) : MemoryBuffer.Borrow(start, end - start);
            for (; first < next; first++)
            {
                buffers[first] = new HeldBuffer(memory, start == end ? 0 : runs[first].Start - start, runs[first].Bytes, runs[first].FirstTensor, runs[first].TensorCount);
            }
        }
        return buffers;
    }
}
