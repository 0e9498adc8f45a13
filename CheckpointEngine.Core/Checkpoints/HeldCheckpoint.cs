using System.Diagnostics;
using System.Runtime.InteropServices;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>A checkpoint in memory: its tensors, the buffers they lie in, and the small files that belong to it.</summary>
/// <remarks>
/// Immutable; any number of threads may read. It owns the memory of its buffers: Dispose ends the life of every span and address it gave.
/// </remarks>
public sealed unsafe class HeldCheckpoint : IDisposable
{
    private readonly HeldBuffer[] _buffers;
    private volatile bool _disposed;

    /// <summary>Puts a checkpoint together; from here on it owns the memory of <paramref name="buffers"/>.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="tensors">All tensors, buffer by buffer, each with its offset in its buffer.</param>
    /// <param name="buffers">The buffers, in the order of their tensors.</param>
    /// <param name="sideFiles">Small files.</param>
    /// <param name="warnings">What the user should know.</param>
    internal HeldCheckpoint(string name, TensorTable tensors, HeldBuffer[] buffers, IReadOnlyList<SideFile> sideFiles, IReadOnlyList<string> warnings)
    {
        Name = name;
        Tensors = tensors;
        SideFiles = sideFiles;
        Warnings = warnings;
        _buffers = buffers;
        Debug.Assert(buffers.Sum(buffer => buffer.TensorCount) == tensors.Count, "every tensor lies in a buffer");
        for (int tensor = 0; tensor < tensors.Count; tensor++)
        {
            DataBytes += tensors.GetByteLength(tensor);
        }
    }

    /// <summary>Its name.</summary>
    public string Name { get; }

    /// <summary>The tensors, ordered by buffer and then by offset; offsets count from their buffer's start.</summary>
    public TensorTable Tensors { get; }

    /// <summary>The buffers, in the order of their tensors.</summary>
    public ReadOnlySpan<HeldBuffer> Buffers => _buffers;

    /// <summary>Configuration, tokenizer and the like; empty when single files were loaded.</summary>
    public IReadOnlyList<SideFile> SideFiles { get; }

    /// <summary>What went otherwise than one would wish and does not stop anything, one line each; for the caller to print.</summary>
    public IReadOnlyList<string> Warnings { get; }

    /// <summary>Bytes of tensor data, padding not counted.</summary>
    public long DataBytes { get; }

    /// <summary>Whether its tensors are the caller's, held in place: they may change between the begin and the commit of an update.</summary>
    public bool IsOfCaller { get; internal init; }

    /// <summary>Index in <see cref="Buffers"/> of the buffer that a tensor lies in.</summary>
    public int BufferOf(int tensor)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)tensor, (uint)Tensors.Count, nameof(tensor));
        int low = 0, high = _buffers.Length - 1;
        while (low < high)
        {
            int middle = (int)((uint)(low + high) >> 1);
            if (_buffers[middle].FirstTensor + _buffers[middle].TensorCount > tensor)
            {
                high = middle;
            }
            else
            {
                low = middle + 1;
            }
        }
        return low;
    }

    /// <summary>Address of a tensor's first byte in this process.</summary>
    public nint GetAddress(int tensor) => _buffers[BufferOf(tensor)].Address + (nint)Tensors.GetOffset(tensor);

    /// <summary>The bytes of a tensor of at most 2 GiB - 1.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>: it is larger than a span can be.</exception>
    public ReadOnlySpan<byte> GetTensorBytes(int tensor)
    {
        nint address = GetAddress(tensor);
        long bytes = Tensors.GetByteLength(tensor);
        if (bytes > int.MaxValue)
        {
            ThrowHelper.Throw(CheckpointError.NotSupported,
                $"tensor {TensorNames.Quote(Tensors, tensor)} of {bytes:N0} bytes is longer than a span; take it in parts with {nameof(GetTensorBytes)}(tensor, offset, length)");
        }
        return new ReadOnlySpan<byte>((void*)address, (int)bytes);
    }

    /// <summary>As <see cref="GetTensorBytes(int)"/>, by name.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotFound"/>; as above.</exception>
    public ReadOnlySpan<byte> GetTensorBytes(string name) => GetTensorBytes(Find(name));

    /// <summary>A part of a tensor's bytes.</summary>
    /// <param name="tensor">The tensor.</param>
    /// <param name="offset">Bytes from its start.</param>
    /// <param name="length">Bytes.</param>
    public ReadOnlySpan<byte> GetTensorBytes(int tensor, long offset, int length)
    {
        nint address = GetAddress(tensor);
        long bytes = Tensors.GetByteLength(tensor);
        if (offset < 0 || length < 0 || offset > bytes - length)
        {
            throw new ArgumentOutOfRangeException(nameof(offset), $"{length:N0} bytes at {offset:N0} of a tensor of {bytes:N0}");
        }
        return new ReadOnlySpan<byte>((byte*)address + offset, length);
    }

    /// <summary>A tensor's elements.</summary>
    /// <typeparam name="T">A type as wide as an element, or <see cref="byte"/> for any tensor.</typeparam>
    /// <exception cref="ArgumentException"><typeparamref name="T"/> has another width than the tensor's elements.</exception>
    /// <exception cref="CheckpointEngineException">NotFound; NotSupported: longer than a span, or not aligned for <typeparamref name="T"/> in its file.</exception>
    public ReadOnlySpan<T> GetTensor<T>(string name)
        where T : unmanaged
    {
        int tensor = Find(name);
        ReadOnlySpan<byte> bytes = GetTensorBytes(tensor);
        if (sizeof(T) != 1 && sizeof(T) * 8 != Tensors.GetDtype(tensor).BitsPerElement())
        {
            throw new ArgumentException($"tensor '{name}' is {Tensors.GetDtypeName(tensor)}, whose elements are not {sizeof(T)} bytes wide as {typeof(T).Name} is");
        }
        if ((ulong)GetAddress(tensor) % AlignmentOf<T>() != 0)
        {
            ThrowHelper.Throw(CheckpointError.NotSupported,
                $"tensor '{name}' starts {Tensors.GetOffset(tensor):N0} bytes into its file's data, which is not aligned for {typeof(T).Name}; take its bytes, or copy the checkpoint (--hold anon)");
        }
        return MemoryMarshal.Cast<byte, T>(bytes);
    }

    /// <summary>Checks every mapped file behind the checkpoint (<see cref="MemoryBuffer.CheckBackingSize"/>).</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Io"/>: one was truncated.</exception>
    public void CheckBackingSizes()
    {
        foreach (ref readonly HeldBuffer buffer in Buffers)
        {
            buffer.Memory.CheckBackingSize();
        }
    }

    /// <summary>Releases the memory of all buffers. Calling it again does nothing.</summary>
    public void Dispose()
    {
        if (_disposed)
        {
            return;
        }
        _disposed = true;
        foreach (ref readonly HeldBuffer buffer in Buffers)
        {
            buffer.Memory.Dispose();
        }
    }

    /// <summary>Takes the memory out of it, whose it was; it is as disposed.</summary>
    internal IReadOnlyList<MemoryBuffer> TakeMemory()
    {
        if (_disposed)
        {
            return [];
        }
        _disposed = true;
        return [.. _buffers.Select(static buffer => buffer.Memory)];
    }

    private int Find(string name)
    {
        int tensor = Tensors.IndexOf(name);
        return tensor >= 0 ? tensor : ThrowHelper.Throw<int>(CheckpointError.NotFound, $"checkpoint '{Name}' has no tensor '{name}'");
    }

    // What every type of that width is content with: its largest power of two, at most a machine word (Complex is two of them).
    private static ulong AlignmentOf<T>()
        where T : unmanaged => Math.Min((ulong)sizeof(T) & (ulong)-sizeof(T), 8);
}
