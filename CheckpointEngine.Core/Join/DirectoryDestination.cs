using System.Buffers;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Planning;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Join;

/// <summary>Safetensors shards in a directory, one for each buffer that is read, written at their places as ranges arrive.</summary>
internal sealed class DirectoryDestination : IJoinDestination
{
    private readonly TransferPlan _plan;
    private readonly PublishedDirectory _directory;
    private readonly SafetensorsLayout[] _layouts;
    private readonly string[] _names;
    private readonly SafeFileHandle?[] _files;
    private readonly long[] _fileOffsets;            // per tensor of the plan

    /// <summary>Makes the partial directory and the shards in it, with their room set aside.</summary>
    /// <exception cref="CheckpointEngineException">Not writable, not enough room, or a tensor that the format cannot hold.</exception>
    internal DirectoryDestination(TransferPlan plan, string path, bool keepPartial)
    {
        _plan = plan;
        _layouts = new SafetensorsLayout[plan.Buffers.Length];
        _names = new string[plan.Buffers.Length];
        _files = new SafeFileHandle?[plan.Buffers.Length];
        _fileOffsets = new long[plan.Tensors.Count];
        for (int b = 0; b < _layouts.Length; b++)
        {
            PlannedBuffer buffer = plan.Buffers[b];
            int[] tensors = [.. Enumerable.Range(buffer.FirstTensor, buffer.TensorCount)];
            _layouts[b] = SafetensorsWriter.Plan(plan.Tensors, tensors);
            _layouts[b].FileOffsets.CopyTo(_fileOffsets.AsSpan(buffer.FirstTensor));
            _names[b] = SafetensorsIndex.GetShardName(b, _layouts.Length);
        }
        _directory = new PublishedDirectory(path, keepPartial);
        try
        {
            for (int b = 0; b < _files.Length; b++)
            {
                int shard = b;
                Guard(_names[b], () =>
                {
                    _files[shard] = File.OpenHandle(Path.Combine(_directory.PartialPath, _names[shard]), FileMode.Create, FileAccess.Write, FileShare.Read,
                        FileOptions.None, preallocationSize: _layouts[shard].FileBytes);
                    RandomAccess.Write(_files[shard]!, _layouts[shard].Header.Span, 0);
                });
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public nint AddressOf(in ReadUnit unit) => 0;

    public void Write(in ReadUnit unit, ReadOnlySpan<byte> bytes)
    {
        ref readonly ReadRange range = ref _plan.Ranges[unit.Range];
        TensorTable tensors = _plan.Tensors;
        long unitStart = range.DestinationOffset + unit.OffsetInRange;
        int tensor = unit.FirstTensor;
        long offset = unit.FirstTensorOffset;
        int runStart = (int)(tensors.GetOffset(tensor) + offset - unitStart);
        int runEnd = runStart;
        long runFile = _fileOffsets[tensor] + offset;
        for (; tensor < range.FirstTensor + range.TensorCount; tensor++, offset = 0)
        {
            long startInUnit = tensors.GetOffset(tensor) + offset - unitStart;      // of the next tensor: far beyond the unit, when this one is large
            if (startInUnit >= bytes.Length)
            {
                break;
            }
            int start = (int)startInUnit;
            // Neighbours in the buffer are neighbours in the file too, but for the padding of slots.
            if (start != runEnd || _fileOffsets[tensor] + offset != runFile + (runEnd - runStart))
            {
                WriteRun(range.Buffer, bytes[runStart..runEnd], runFile);
                runStart = start;
                runFile = _fileOffsets[tensor] + offset;
            }
            runEnd = (int)Math.Min(bytes.Length, start + tensors.GetByteLength(tensor) - offset);
        }
        WriteRun(range.Buffer, bytes[runStart..runEnd], runFile);
    }

    /// <summary>Adds index and side files, makes all of it durable, and puts it in its place.</summary>
    /// <returns>A remark for the user, or null.</returns>
    internal string? Complete(IReadOnlyList<SideFile> sideFiles)
    {
        for (int b = 0; b < _files.Length; b++)
        {
            int shard = b;
            Guard(_names[b], () =>
            {
                RandomAccess.FlushToDisk(_files[shard]!);
                _files[shard]!.Dispose();
            });
        }
        foreach (SideFile file in sideFiles)
        {
            WriteSmall(file.Name, file.Bytes.Span);
        }
        if (_names.Length > 1)
        {
            int[] fileOf = new int[_plan.Tensors.Count];
            for (int b = 0; b < _names.Length; b++)
            {
                fileOf.AsSpan(_plan.Buffers[b].FirstTensor, _plan.Buffers[b].TensorCount).Fill(b);
            }
            var index = new ArrayBufferWriter<byte>();
            SafetensorsIndex.Write(index, _plan.Tensors, fileOf, _names);
            WriteSmall(SafetensorsIndex.FileName, index.WrittenSpan);
        }
        string? remark = null;
        Guard("the directory", () => remark = _directory.Publish());
        return remark;
    }

    public void Dispose()
    {
        foreach (SafeFileHandle? file in _files)
        {
            file?.Dispose();
        }
        _directory.Dispose();
    }

    private void WriteRun(int shard, ReadOnlySpan<byte> bytes, long fileOffset)
    {
        try
        {
            RandomAccess.Write(_files[shard]!, bytes, fileOffset);
        }
        catch (IOException failure)
        {
            throw Failed(_names[shard], failure);
        }
    }

    private void WriteSmall(string name, ReadOnlySpan<byte> bytes)
    {
        byte[] content = bytes.ToArray();
        Guard(name, () =>
        {
            using SafeFileHandle file = File.OpenHandle(Path.Combine(_directory.PartialPath, name), FileMode.CreateNew, FileAccess.Write);
            RandomAccess.Write(file, content, 0);
            RandomAccess.FlushToDisk(file);
        });
    }

    private void Guard(string name, Action write)
    {
        try
        {
            write();
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            throw Failed(name, failure);
        }
    }

    private CheckpointEngineException Failed(string name, Exception failure)
        => new(CheckpointError.Io, $"write {name} in {_directory.PartialPath}: {failure.Message}; {_plan.DataBytes:N0} bytes are needed in all", failure.HResult & 0xffff, failure);
}
