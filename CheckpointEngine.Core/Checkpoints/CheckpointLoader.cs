using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>Makes files on disk a <see cref="HeldCheckpoint"/>.</summary>
/// <remarks>All or nothing: on any failure or cancellation what was opened, mapped and allocated is released.</remarks>
public static class CheckpointLoader
{
    /// <summary>Loads what <see cref="CheckpointFiles.Discover"/> finds at a path, side files included.</summary>
    /// <param name="name">The checkpoint's name.</param>
    /// <param name="path">A directory, a .safetensors file, or an index.</param>
    /// <param name="mode">How files become memory.</param>
    /// <param name="pin">Whether memory is locked.</param>
    /// <param name="progress">Told how far it is, rising, from the calling thread.</param>
    /// <param name="cancellationToken">Ends a copy after the pieces in hand.</param>
    /// <exception cref="CheckpointEngineException">NotFound, Io, InvalidData (also for a tensor name in two files), OutOfMemory, Native.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static HeldCheckpoint Load(string name, string path, HoldMode mode = HoldMode.Map, PinMode pin = PinMode.Auto,
        IProgress<LoadProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        CheckpointFiles files = CheckpointFiles.Discover(path);
        return Load(name, files.Files, files, mode, pin, DigestAlgorithm.None, progress, cancellationToken, out _);
    }

    /// <summary>Loads safetensors files, without side files.</summary>
    /// <param name="name">The checkpoint's name.</param>
    /// <param name="files">Paths.</param>
    /// <param name="mode">How files become memory.</param>
    /// <param name="pin">Whether memory is locked.</param>
    /// <param name="progress">Told how far it is, rising, from the calling thread.</param>
    /// <param name="cancellationToken">Ends a copy after the pieces in hand.</param>
    /// <exception cref="CheckpointEngineException">NotFound, Io, InvalidData (also for a tensor name in two files), OutOfMemory, Native.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static HeldCheckpoint LoadFiles(string name, IReadOnlyList<string> files, HoldMode mode = HoldMode.Map, PinMode pin = PinMode.Auto,
        IProgress<LoadProgress>? progress = null, CancellationToken cancellationToken = default)
        => Load(name, files, null, mode, pin, DigestAlgorithm.None, progress, cancellationToken, out _);

    /// <summary>As <see cref="Load(string, string, HoldMode, PinMode, IProgress{LoadProgress}?, CancellationToken)"/> of one path, or <see cref="LoadFiles"/> of several.</summary>
    /// <param name="name">The checkpoint's name.</param>
    /// <param name="paths">One path with its side files, or several .safetensors files.</param>
    /// <param name="mode">How files become memory.</param>
    /// <param name="pin">Whether memory is locked.</param>
    /// <param name="algorithm">The digests that are wanted.</param>
    /// <param name="progress">Told how far it is, rising, from the calling thread.</param>
    /// <param name="cancellationToken">Ends a copy after the pieces in hand.</param>
    /// <param name="digests">All digests, when they could be made beside the copy; else null.</param>
    /// <param name="filling">Told of buffers that are about to be filled, and of those that are freed since the load has failed.</param>
    /// <param name="pool">Where anonymous memory is taken from as far as it has some.</param>
    internal static HeldCheckpoint Load(string name, IReadOnlyList<string> paths, HoldMode mode, PinMode pin, DigestAlgorithm algorithm,
        IProgress<LoadProgress>? progress, CancellationToken cancellationToken, out CheckpointDigests? digests, IBufferFilling? filling = null, MemoryPool? pool = null)
    {
        CheckpointFiles? found = paths.Count == 1 ? CheckpointFiles.Discover(paths[0]) : null;
        return Load(name, found?.Files ?? paths, found, mode, pin, algorithm, progress, cancellationToken, out digests, filling, pool);
    }

    private static HeldCheckpoint Load(string name, IReadOnlyList<string> paths, CheckpointFiles? found, HoldMode mode, PinMode pin, DigestAlgorithm algorithm,
        IProgress<LoadProgress>? progress, CancellationToken cancellationToken, out CheckpointDigests? digests, IBufferFilling? filling = null, MemoryPool? pool = null)
    {
        digests = null;
        ArgumentException.ThrowIfNullOrEmpty(name);
        ArgumentNullException.ThrowIfNull(paths);
        var files = new List<SafetensorsFile>(paths.Count);
        var buffers = new List<HeldBuffer>();
        var warnings = new List<string>(found?.Warnings ?? []);
        try
        {
            foreach (string path in paths)
            {
                cancellationToken.ThrowIfCancellationRequested();
                files.Add(SafetensorsFile.Open(path));
            }
            CheckIndex(found, files, warnings);
            IReadOnlyList<SideFile> sideFiles = found?.ReadSideFiles() ?? [];
            TensorTable tensors = mode switch
            {
                HoldMode.Map => MapFiles(files, pin, buffers, warnings, cancellationToken),
                HoldMode.Memfd or HoldMode.Anonymous => CopyFiles(name, files, mode, pin, algorithm, buffers, warnings, filling, pool, progress, cancellationToken, out digests),
                _ => throw new ArgumentOutOfRangeException(nameof(mode)),
            };
            var held = new HeldCheckpoint(name, tensors, [.. buffers], sideFiles, warnings);
            progress?.Report(new LoadProgress(held.DataBytes, held.DataBytes));
            return held;
        }
        catch
        {
            foreach (HeldBuffer buffer in buffers)
            {
                filling?.AbandonFilling(buffer.Memory);
                buffer.Memory.Dispose();
            }
            throw;
        }
        finally
        {
            foreach (SafetensorsFile file in files)
            {
                file.Dispose();
            }
        }
    }

    private static void CheckIndex(CheckpointFiles? found, List<SafetensorsFile> files, List<string> warnings)
    {
        int unlisted = found?.Index?.Check(files, found.IndexPath!) ?? 0;
        if (unlisted != 0)
        {
            warnings.Add($"{found!.IndexPath}: the files have {unlisted:N0} tensors that the index does not name; they are held too");
        }
    }

    private static TensorTable MapFiles(List<SafetensorsFile> files, PinMode pin, List<HeldBuffer> buffers, List<string> warnings,
        CancellationToken cancellationToken)
    {
        using var builder = new TensorTableBuilder();
        foreach (SafetensorsFile file in files)
        {
            for (int tensor = 0; tensor < file.Tensors.Count; tensor++)
            {
                builder.AddFrom(file.Tensors, tensor, file.Tensors.GetSlotBytes(tensor), file.Tensors.GetOffset(tensor));
            }
        }
        TensorTable tensors = builder.Build();
        ThrowIfDuplicate(tensors, files);
        int first = 0;
        foreach (SafetensorsFile file in files)
        {
            cancellationToken.ThrowIfCancellationRequested();
            if (file.Tensors.Count == 0)
            {
                continue;
            }
            MemoryBuffer memory = MemoryBuffer.MapFile(file.Handle, file.Path, leaveOpen: false);
            file.DetachHandle();
            buffers.Add(new HeldBuffer(memory, file.DataStart, file.Header.DataBytes, first, file.Tensors.Count));
            first += file.Tensors.Count;
            if (memory.LengthBytes < file.LengthBytes)
            {
                ThrowHelper.Throw(CheckpointError.Io, $"{file.Path} had {file.LengthBytes:N0} bytes when its header was read and {memory.LengthBytes:N0} when it was mapped: somebody truncated it");
            }
        }
        MemoryPinning.Lock(buffers, pin, onFault: pin == PinMode.Auto, warnings);
        return tensors;
    }

    private static TensorTable CopyFiles(string name, List<SafetensorsFile> files, HoldMode mode, PinMode pin, DigestAlgorithm algorithm,
        List<HeldBuffer> buffers, List<string> warnings, IBufferFilling? filling, MemoryPool? pool, IProgress<LoadProgress>? progress, CancellationToken cancellationToken, out CheckpointDigests? digests)
    {
        var packing = CheckpointPacking.Plan(files, CheckpointPacking.BufferBytes);
        ThrowIfDuplicate(packing.Tensors, files);
        // What is kept is taken first, and the rest of it freed: neither is to be found on the host a second time.
        MemoryBuffer?[] kept = [.. packing.Buffers.Select(packed => mode == HoldMode.Anonymous ? pool?.TryTake(packed.SizeBytes) : null)];
        pool?.Trim();
        int used = 0;
        try
        {
            HostMemory.ThrowIfCheckpointBeyond(packing.Buffers.Where((_, index) => kept[index] is null).Sum(buffer => buffer.SizeBytes), $"checkpoint '{name}'");
            for (; used < kept.Length; used++)
            {
                PackedBuffer packed = packing.Buffers[used];
                MemoryBuffer memory = kept[used] ?? (mode == HoldMode.Memfd
                    ? MemoryBuffer.AllocateMemfd(packed.SizeBytes, $"checkpoint-engine:{name}")
                    : MemoryBuffer.AllocateAnonymous(packed.SizeBytes));
                buffers.Add(new HeldBuffer(memory, 0, packed.SizeBytes, packed.FirstTensor, packed.TensorCount));
                NumaPlacement.Spread(memory.Address, memory.LengthBytes);
            }
        }
        catch
        {
            Array.ForEach(kept[used..], static rest => rest?.Dispose());      // those before are the caller's by now
            throw;
        }
        // Before the copy, so that a limit is told before a terabyte was read; the copy touches every page, and that locks it.
        MemoryPinning.Lock(buffers, pin, onFault: true, warnings);
        if (filling is not null && mode == HoldMode.Anonymous)
        {
            buffers.ForEach(buffer => filling.BeginFilling(buffer.Memory));
        }
        // SHA-256 is several times slower than the copy: it is for the background.
        digests = algorithm == DigestAlgorithm.Xxh3 && Xxh3State.IsSupported ? new CheckpointDigests(packing.Tensors, algorithm) : null;
        using var copy = new CheckpointCopy(files, packing, buffers, digests);
        copy.Run(progress, cancellationToken);
        bool wereLocked = buffers.TrueForAll(buffer => buffer.Memory.IsLocked);
        buffers.ForEach(buffer => buffer.Memory.Freeze());
        if (mode == HoldMode.Memfd && wereLocked)
        {
            MemoryPinning.Lock(buffers, pin, onFault: false, warnings);      // the pages are there: none is touched a first time any more
        }
        return packing.Tensors;
    }

    private static void ThrowIfDuplicate(TensorTable tensors, List<SafetensorsFile> files)
    {
        int duplicate = tensors.FindDuplicateName();
        if (duplicate < 0)
        {
            return;
        }
        string[] holders = [.. files.Where(file => file.Tensors.IndexOf(tensors.GetNameUtf8(duplicate)) >= 0).Select(file => file.Path)];
        ThrowHelper.Throw(CheckpointError.InvalidData,
            $"tensor {TensorNames.Quote(tensors, duplicate)} is in two files: {string.Join(" and ", holders)}; name an index that says which to take");
    }
}
