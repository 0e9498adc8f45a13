using System.Runtime.InteropServices;
using CheckpointEngine.Internal;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Checkpoints;

/// <summary>An open safetensors file, its header read and checked.</summary>
/// <remarks>Immutable; any number of threads may read. Dispose closes the file.</remarks>
public sealed unsafe class SafetensorsFile : IDisposable
{
    private bool _detached;

    private SafetensorsFile(string path, SafeFileHandle handle, long lengthBytes, long dataStart, SafetensorsHeader header)
    {
        Path = path;
        Handle = handle;
        LengthBytes = lengthBytes;
        DataStart = dataStart;
        Header = header;
    }

    /// <summary>The path it was opened by.</summary>
    public string Path { get; }

    /// <summary>The file, open for reading; owned by this object.</summary>
    public SafeFileHandle Handle { get; }

    /// <summary>Its size in bytes when it was opened.</summary>
    public long LengthBytes { get; }

    /// <summary>Bytes from the file's start to the data section; often no multiple of anything.</summary>
    public long DataStart { get; }

    /// <summary>Its header.</summary>
    public SafetensorsHeader Header { get; }

    /// <summary>Its tensors, by rising offset in the data section.</summary>
    public TensorTable Tensors => Header.Tensors;

    /// <summary>Opens a file and reads its header; the data is not touched.</summary>
    /// <exception cref="CheckpointEngineException">NotFound, Io, or InvalidData.</exception>
    public static SafetensorsFile Open(string path)
    {
        SafeFileHandle handle = RegularFile.Open(path, out long lengthBytes);
        byte* json = null;
        try
        {
            Span<byte> prefix = stackalloc byte[SafetensorsHeader.PrefixBytes];
            int prefixBytes = (int)Math.Min(prefix.Length, lengthBytes);
            RegularFile.ReadExactly(handle, prefix[..prefixBytes], 0, path);
            int jsonBytes = SafetensorsHeader.ReadJsonLength(prefix[..prefixBytes], lengthBytes, path);
            json = (byte*)NativeMemory.Alloc((nuint)jsonBytes);   // up to 100 MB that are needed once
            var text = new Span<byte>(json, jsonBytes);
            RegularFile.ReadExactly(handle, text, SafetensorsHeader.PrefixBytes, path);
            long dataStart = SafetensorsHeader.PrefixBytes + jsonBytes;
            SafetensorsHeader header = SafetensorsHeader.Parse(text, lengthBytes - dataStart, path);
            return new SafetensorsFile(path, handle, lengthBytes, dataStart, header);
        }
        catch
        {
            handle.Dispose();
            throw;
        }
        finally
        {
            NativeMemory.Free(json);
        }
    }

    /// <summary>Reads a part of a tensor's data.</summary>
    /// <param name="tensor">Index in <see cref="Tensors"/>.</param>
    /// <param name="offset">Bytes from the tensor's start.</param>
    /// <param name="destination">Filled.</param>
    /// <exception cref="CheckpointEngineException">Io: the read failed, or the file was truncated.</exception>
    public void Read(int tensor, long offset, Span<byte> destination)
    {
        if (offset < 0 || offset > Tensors.GetByteLength(tensor) - destination.Length)
        {
            throw new ArgumentOutOfRangeException(nameof(offset));
        }
        RegularFile.ReadExactly(Handle, destination, DataStart + Tensors.GetOffset(tensor) + offset, Path);
    }

    /// <summary>Gives the file away, to a buffer that owns it now: Dispose leaves it open.</summary>
    internal void DetachHandle() => _detached = true;

    /// <inheritdoc/>
    public void Dispose()
    {
        if (!_detached)
        {
            Handle.Dispose();
        }
    }
}
