using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Native;

/// <summary>What a ce_checkpoint stands for. Holds references of its own on the memory: the server may let it go, the pages stay until this is destroyed.</summary>
internal sealed unsafe class NativeCheckpoint
{
    private readonly HeldCheckpoint _held;
    private readonly MemoryRegionHandle[] _regions;
    private readonly nint[] _addresses;              // of the buffers
    private readonly System.Buffers.MemoryHandle[] _sideFiles;
    private int _destroyed;

    /// <exception cref="ObjectDisposedException">It was unregistered in the meantime.</exception>
    internal NativeCheckpoint(HeldCheckpoint held)
    {
        _held = held;
        _regions = new MemoryRegionHandle[held.Buffers.Length];
        _addresses = new nint[held.Buffers.Length];
        int referenced = 0;
        try
        {
            for (; referenced < _regions.Length; referenced++)
            {
                HeldBuffer buffer = held.Buffers[referenced];
                bool added = false;
                buffer.Memory.Region.DangerousAddRef(ref added);
                _regions[referenced] = buffer.Memory.Region;
                _addresses[referenced] = buffer.Memory.Region.DangerousGetHandle() + (nint)buffer.StartBytes;
            }
        }
        catch
        {
            while (referenced > 0)
            {
                _regions[--referenced].DangerousRelease();
            }
            throw;
        }
        _sideFiles = [.. held.SideFiles.Select(file => file.Bytes.Pin())];
    }

    internal TensorTable Tensors => _held.Tensors;

    internal long DataBytes => _held.DataBytes;

    internal IReadOnlyList<SideFile> SideFiles => _held.SideFiles;

    internal void* SideFileAddress(int index) => _sideFiles[index].Pointer;

    internal nint AddressOf(int tensor) => _addresses[_held.BufferOf(tensor)] + (nint)_held.Tensors.GetOffset(tensor);

    internal void Destroy()
    {
        if (Interlocked.Exchange(ref _destroyed, 1) != 0)
        {
            return;
        }
        foreach (MemoryRegionHandle region in _regions)
        {
            region.DangerousRelease();
        }
        foreach (System.Buffers.MemoryHandle file in _sideFiles)
        {
            file.Dispose();
        }
    }
}
