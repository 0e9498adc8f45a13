using System.Buffers;
using System.Diagnostics;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Inference;

/// <summary>One update by files: the checkpoint as safetensors where the server reads them, usually in memory, and gone again afterwards.</summary>
internal sealed class FilesUpdate(HeldCheckpoint checkpoint, InferenceUpdateOptions options, InferenceClient client, IProgress<InferenceUpdateProgress>? progress)
{
    private const string MemoryDirectory = "/dev/shm";
    private const int StepBytes = 16 << 20;
    private const int NoSpace = 28;     // ENOSPC

    private readonly List<string> _written = [];

    /// <summary>Writes, asks, removes; files do not stay on failure either.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Io"/>: no room, or not to be written; <see cref="CheckpointError.AlreadyExists"/>; what the server says.</exception>
    internal async Task<InferenceUpdateReport> RunAsync(double healthSeconds, CancellationToken cancellationToken)
    {
        long start = Stopwatch.GetTimestamp();
        string directory = Path.GetFullPath(options.DirectoryPath ?? Path.Combine(MemoryDirectory, $"checkpoint-engine-{Environment.ProcessId}-{Path.GetRandomFileName()}"));
        bool isOurs = !Directory.Exists(directory);
        try
        {
            await Task.Run(() => Write(directory, isOurs, cancellationToken), cancellationToken).ConfigureAwait(false);
            double write = Stopwatch.GetElapsedTime(start).TotalSeconds;
            progress?.Report(new InferenceUpdateProgress(checkpoint.DataBytes, checkpoint.DataBytes, "load"));
            long asked = Stopwatch.GetTimestamp();
            await client.UpdateFromFilesAsync(directory, cancellationToken).ConfigureAwait(false);
            return new InferenceUpdateReport
            {
                Checkpoint = checkpoint.Name,
                Bytes = checkpoint.DataBytes,
                Tensors = checkpoint.Tensors.Count,
                Seconds = Stopwatch.GetElapsedTime(start).TotalSeconds,
                TotalSeconds = healthSeconds + Stopwatch.GetElapsedTime(start).TotalSeconds,
                HealthSeconds = healthSeconds,
                WriteSeconds = write,
                FinishSeconds = Stopwatch.GetElapsedTime(asked).TotalSeconds,
                Notes = options.KeepFiles ? [$"the files stay in {directory}"] : [],
            };
        }
        finally
        {
            if (!options.KeepFiles)
            {
                Remove(directory, isOurs);
            }
        }
    }

    private void Write(string directory, bool isOurs, CancellationToken cancellationToken)
    {
        List<(SafetensorsLayout Layout, HeldBuffer Buffer)> shards = Plan();
        long bytes = 0;
        foreach ((SafetensorsLayout layout, _) in shards)
        {
            bytes += layout.FileBytes;
        }
        try
        {
            if (isOurs && OperatingSystem.IsLinux())
            {
                Directory.CreateDirectory(directory, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
            }
            else if (Directory.EnumerateFileSystemEntries(directory).GetEnumerator().MoveNext())
            {
                ThrowHelper.Throw(CheckpointError.AlreadyExists, $"update: {directory} is not empty, and files of another model beside these would be read, too; name an empty or new directory");
            }
            CheckSpace(directory, bytes);
            var names = new string[shards.Count];
            int[] fileOf = new int[checkpoint.Tensors.Count];
            long done = 0;
            for (int shard = 0; shard < names.Length; shard++)
            {
                names[shard] = SafetensorsIndex.GetShardName(shard, names.Length);
                (SafetensorsLayout layout, HeldBuffer buffer) = shards[shard];
                fileOf.AsSpan(buffer.FirstTensor, buffer.TensorCount).Fill(shard);
                WriteShard(Path.Combine(directory, names[shard]), layout, ref done, cancellationToken);
            }
            if (names.Length > 1)
            {
                var index = new ArrayBufferWriter<byte>();
                SafetensorsIndex.Write(index, checkpoint.Tensors, fileOf, names);
                WriteSmall(Path.Combine(directory, SafetensorsIndex.FileName), index.WrittenSpan);
            }
            foreach (SideFile file in checkpoint.SideFiles)
            {
                WriteSmall(Path.Combine(directory, file.Name), file.Bytes.Span);
            }
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            throw new CheckpointEngineException(CheckpointError.Io, $"update: write {bytes:N0} bytes of files in {directory}: {failure.Message}", failure.HResult & 0xffff, failure);
        }
    }

    private List<(SafetensorsLayout, HeldBuffer)> Plan()
    {
        var shards = new List<(SafetensorsLayout, HeldBuffer)>();
        foreach (ref readonly HeldBuffer buffer in checkpoint.Buffers)
        {
            if (buffer.TensorCount != 0)
            {
                int[] tensors = new int[buffer.TensorCount];
                for (int i = 0; i < tensors.Length; i++)
                {
                    tensors[i] = buffer.FirstTensor + i;
                }
                shards.Add((SafetensorsWriter.Plan(checkpoint.Tensors, tensors), buffer));
            }
        }
        return shards;
    }

    private static void CheckSpace(string directory, long bytes)
    {
        long free = new DriveInfo(directory).AvailableFreeSpace;
        if (bytes > free)
        {
            throw new CheckpointEngineException(CheckpointError.Io,
                $"update: {bytes:N0} bytes of files are to be in {directory} and {free:N0} are free there; make room (a container's /dev/shm: --shm-size), or name another directory (--files-dir)", NoSpace);
        }
        if (directory.StartsWith(MemoryDirectory + "/", StringComparison.Ordinal))
        {
            HostMemory.ThrowIfBeyond(bytes, $"files in {directory}");
        }
    }

    private unsafe void WriteShard(string path, SafetensorsLayout layout, ref long done, CancellationToken cancellationToken)
    {
        using SafeFileHandle file = Create(path, layout.FileBytes);
        RandomAccess.Write(file, layout.Header.Span, 0);
        for (int i = 0; i < layout.Tensors.Length; i++)
        {
            int tensor = layout.Tensors[i];
            byte* source = (byte*)checkpoint.GetAddress(tensor);
            long bytes = checkpoint.Tensors.GetByteLength(tensor);
            for (long offset = 0; offset < bytes; offset += StepBytes)
            {
                cancellationToken.ThrowIfCancellationRequested();
                int step = (int)Math.Min(StepBytes, bytes - offset);
                RandomAccess.Write(file, new ReadOnlySpan<byte>(source + offset, step), layout.FileOffsets[i] + offset);
                done += step;
                progress?.Report(new InferenceUpdateProgress(done, checkpoint.DataBytes, "write"));
            }
        }
    }

    private void WriteSmall(string path, ReadOnlySpan<byte> bytes)
    {
        using SafeFileHandle file = Create(path, bytes.Length);
        RandomAccess.Write(file, bytes, 0);
    }

    private SafeFileHandle Create(string path, long bytes)
    {
        ProcessLimits.ThrowIfBeyondFileSize(bytes, path);
        SafeFileHandle file = File.OpenHandle(path, FileMode.CreateNew, FileAccess.Write, FileShare.Read, FileOptions.None, preallocationSize: bytes);
        _written.Add(path);
        return file;
    }

    // Only what was written here: a directory that was there before stays.
    private void Remove(string directory, bool isOurs)
    {
        try
        {
            foreach (string path in _written)
            {
                File.Delete(path);
            }
            if (isOurs && Directory.Exists(directory))
            {
                Directory.Delete(directory);
            }
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // Somebody else put something there, or took it; what was written is gone as far as that can be.
        }
    }
}
