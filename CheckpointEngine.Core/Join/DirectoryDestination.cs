using System.Buffers;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Planning;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Join;

/// <summary>Safetensors shards in a directory, one for each buffer that is read, written at their places as ranges arrive.</summary>
internal sealed class DirectoryDestination : IJoinDestination, IJoinSeed
{
    private readonly TransferPlan _plan;
    private readonly PublishedDirectory _directory;
    private readonly SafetensorsLayout[] _layouts;
    private readonly string[] _names;
    private readonly SafeFileHandle?[] _files;
    private readonly long[] _fileOffsets;            // per tensor of the plan
    private readonly bool[] _found;                  // shards that an interrupted join left

    /// <summary>Makes the partial directory and the shards in it, with their room set aside.</summary>
    /// <param name="plan">The plan.</param>
    /// <param name="path">Where the directory goes in the end.</param>
    /// <param name="keepPartial">Leave what is there when it does not come to that.</param>
    /// <param name="takeEarlier">Begin with the shards that are in the place, where they are laid out alike.</param>
    /// <exception cref="CheckpointEngineException">Not writable, not enough room, or a tensor that the format cannot hold.</exception>
    internal DirectoryDestination(TransferPlan plan, string path, bool keepPartial, bool takeEarlier = false)
    {
        _plan = plan;
        _layouts = new SafetensorsLayout[plan.Buffers.Length];
        _names = new string[plan.Buffers.Length];
        _files = new SafeFileHandle?[plan.Buffers.Length];
        _fileOffsets = new long[plan.Tensors.Count];
        _found = new bool[plan.Buffers.Length];
        for (int b = 0; b < _layouts.Length; b++)
        {
            PlannedBuffer buffer = plan.Buffers[b];
            int[] tensors = [.. Enumerable.Range(buffer.FirstTensor, buffer.TensorCount)];
            _layouts[b] = SafetensorsWriter.Plan(plan.Tensors, tensors);
            _layouts[b].FileOffsets.CopyTo(_fileOffsets.AsSpan(buffer.FirstTensor));
            _names[b] = SafetensorsIndex.GetShardName(b, _layouts.Length);
        }
        _directory = new PublishedDirectory(path, keepPartial, _names);
        try
        {
            for (int b = 0; b < _files.Length; b++)
            {
                int shard = b;
                Guard(_names[b], () =>
                {
                    string file = Path.Combine(_directory.PartialPath, _names[shard]);
                    ProcessLimits.ThrowIfBeyondFileSize(_layouts[shard].FileBytes, file);
                    string earlier = Path.Combine(_directory.Place, _names[shard]);
                    if (takeEarlier && !File.Exists(file) && IsLaidOutAs(earlier, _layouts[shard]))
                    {
                        File.Copy(earlier, file);       // the kernel's copy, where it can a clone
                    }
                    _found[shard] = IsLaidOutAs(file, _layouts[shard]);
                    _files[shard] = _found[shard]
                        ? File.OpenHandle(file, FileMode.Open, FileAccess.ReadWrite, FileShare.Read)
                        : File.OpenHandle(file, FileMode.Create, FileAccess.ReadWrite, FileShare.Read, FileOptions.None, preallocationSize: _layouts[shard].FileBytes);
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

    public SharedUnits Share(int owner)
    {
        var mapped = new MemoryBuffer?[_files.Length];
        try
        {
            for (int b = 0; b < _files.Length; b++)
            {
                int shard = b;
                if (_plan.Buffers[b].Owner == owner)
                {
                    Guard(_names[b], () => RandomAccess.SetLength(_files[shard]!, _layouts[shard].FileBytes));      // what is behind the end cannot be mapped
                    mapped[b] = MemoryBuffer.MapFile(Path.Combine(_directory.PartialPath, _names[b]));
                }
            }
        }
        catch
        {
            Array.ForEach(mapped, static buffer => buffer?.Dispose());
            throw;
        }
        return new SharedUnits([.. mapped.OfType<MemoryBuffer>()], IsOwn: true, unit =>
        {
            ulong place = 0;
            foreach (FileRun run in new FileRuns(_plan, _fileOffsets, unit))
            {
                place = run.Start == 0 && run.End == unit.LengthBytes ? (ulong)mapped[_plan.Ranges[unit.Range].Buffer]!.Address + (ulong)run.FileOffset : 0;
            }
            return place;
        });
    }

    /// <summary>Leaves what is there for the next attempt.</summary>
    internal void Keep() => _directory.KeepPartial();

    /// <summary>Whether an interrupted join left shards in which its bytes may be.</summary>
    internal bool HasFound => Array.Exists(_found, static found => found);

    public bool IsInPlace => true;

    public bool TryRead(in ReadUnit unit, Span<byte> bytes)
    {
        int shard = _plan.Ranges[unit.Range].Buffer;
        if (!_found[shard])
        {
            return false;
        }
        foreach (FileRun run in new FileRuns(_plan, _fileOffsets, unit))
        {
            Span<byte> piece = bytes[run.Start..run.End];
            for (long at = run.FileOffset; piece.Length != 0;)
            {
                int read;
                try
                {
                    read = RandomAccess.Read(_files[shard]!, piece, at);
                }
                catch (IOException failure)
                {
                    throw Failed(_names[shard], failure);
                }
                if (read == 0)
                {
                    return false;
                }
                at += read;
                piece = piece[read..];
            }
        }
        return true;
    }

    public void Write(in ReadUnit unit, ReadOnlySpan<byte> bytes)
    {
        int shard = _plan.Ranges[unit.Range].Buffer;
        foreach (FileRun run in new FileRuns(_plan, _fileOffsets, unit))
        {
            try
            {
                RandomAccess.Write(_files[shard]!, bytes[run.Start..run.End], run.FileOffset);
            }
            catch (IOException failure)
            {
                throw Failed(_names[shard], failure);
            }
        }
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

    // A shard of the same header, as long as what has been written of it: whether its bytes are right, the digests say.
    private static bool IsLaidOutAs(string path, in SafetensorsLayout layout)
    {
        var file = new FileInfo(path);
        if (!file.Exists || file.LinkTarget is not null || file.Length > layout.FileBytes)
        {
            return false;
        }
        byte[] header = new byte[layout.Header.Length];
        using SafeFileHandle handle = File.OpenHandle(path);
        return RandomAccess.Read(handle, header, 0) == header.Length && layout.Header.Span.SequenceEqual(header);
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
        => new(CheckpointError.Io, $"write {name} in {_directory.PartialPath}: {failure.Message}; {_plan.DataBytes:N0} bytes are needed in all{FreeSpace.Advice(_directory.PartialPath, _plan.DataBytes)}", failure.HResult & 0xffff, failure);
}
