using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>Copies tensors from their files into buffers, on several threads, and makes their digests on the way when it is to.</summary>
/// <remarks>
/// With pread and not out of a mapping: a file that is truncated meanwhile is then an error instead of SIGBUS, and a pread faults the
/// destination only. Threads of its own, since blocking reads would starve the pool. Padding stays as fresh memory is: zero.
/// </remarks>
internal sealed class CheckpointCopy : IDisposable
{
    // What a thread takes at a time: large enough that one read past the page cache fills a drive's queue by itself (the kernel cuts it into
    // requests of about a megabyte), small enough that threads end together and that cancellation and progress are prompt.
    internal const int UnitBytes = 8 << 20;

    // Reading from the page cache fills memory bandwidth with fewer.
    private const int MaxThreads = 8;

    // What keeps an NVMe drive busy: each has a read of several megabytes under way, and waits, whatever the number of cores. 8 MiB of memory each.
    private const int ThreadsForDisk = 8;

    private const int ProgressMilliseconds = 50;

    private readonly IReadOnlyList<SafetensorsFile> _files;
    private readonly CopyPiece[] _pieces;
    private readonly int[] _units;                  // the first piece of each, and the end
    private readonly Lazy<DirectFile?>[] _direct;   // per file
    private readonly CheckpointDigests? _digests;
    private readonly long _totalBytes;
    private int _next = -1;
    private long _copiedBytes;
    private long _directBytes;
    private volatile bool _waitsForDisk;
    private Exception? _failure;

    /// <param name="files">Open files.</param>
    /// <param name="packing">Where their tensors go.</param>
    /// <param name="buffers">The memory, as it was planned.</param>
    /// <param name="digests">Takes the digest of every chunk; null to make none.</param>
    /// <param name="openDirect">Stands for <see cref="DirectFile.TryOpen"/>.</param>
    internal CheckpointCopy(IReadOnlyList<SafetensorsFile> files, CheckpointPacking packing, IReadOnlyList<HeldBuffer> buffers,
        CheckpointDigests? digests = null, Func<SafetensorsFile, DirectFile?>? openDirect = null)
    {
        _files = files;
        _digests = digests;
        openDirect ??= file => DirectFile.TryOpen(file.Handle, file.Path);
        _direct = [.. files.Select(file => new Lazy<DirectFile?>(() => openDirect(file)))];
        var pieces = new List<CopyPiece>();
        foreach (HeldBuffer buffer in buffers)
        {
            for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
            {
                PackedSource source = packing.Sources[tensor];
                SafetensorsFile file = files[source.File];
                long fileOffset = file.DataStart + file.Tensors.GetOffset(source.Tensor);
                nint address = buffer.Address + (nint)packing.Tensors.GetOffset(tensor);
                long bytes = packing.Tensors.GetByteLength(tensor);
                for (long done = 0; done < bytes; done += TensorDigest.ChunkBytes)
                {
                    int pieceBytes = (int)Math.Min(TensorDigest.ChunkBytes, bytes - done);
                    pieces.Add(new CopyPiece(source.File, fileOffset + done, address + (nint)done, pieceBytes, tensor, (int)(done / TensorDigest.ChunkBytes)));
                }
                _totalBytes += bytes;
            }
        }
        // In the files' own order: neighbours are read in one go.
        pieces.Sort((a, b) => a.File != b.File ? a.File.CompareTo(b.File) : a.FileOffset.CompareTo(b.FileOffset));
        _pieces = [.. pieces];
        _units = CutIntoUnits(_pieces);
    }

    /// <summary>Number of units, each of which one thread copies.</summary>
    internal int UnitCount => _units.Length - 1;

    /// <summary>Bytes that were read past the page cache.</summary>
    internal long DirectBytes => Volatile.Read(ref _directBytes);

    internal CheckpointDigests? Digests => _digests;

    internal ReadOnlySpan<CopyPiece> PiecesOf(int unit) => _pieces.AsSpan(_units[unit].._units[unit + 1]);

    internal SafetensorsFile FileOf(in CopyPiece piece) => _files[piece.File];

    /// <summary>The file's descriptor that reads past the page cache; null when there can be none.</summary>
    internal DirectFile? DirectOf(in CopyPiece piece) => _direct[piece.File].Value;

    /// <summary>Says that reads wait for a disk: more of them should be under way.</summary>
    internal void WaitForDisk() => _waitsForDisk = true;

    /// <summary>Counts what was copied.</summary>
    internal void Add(int bytes, bool isDirect)
    {
        Interlocked.Add(ref _copiedBytes, bytes);
        if (isDirect)
        {
            Interlocked.Add(ref _directBytes, bytes);
        }
    }

    /// <summary>Copies everything; returns when no thread runs any more, whatever happened.</summary>
    /// <exception cref="CheckpointEngineException">Io: a file could not be read.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    internal void Run(IProgress<LoadProgress>? progress, CancellationToken cancellationToken)
    {
        var threads = new List<Thread>();
        try
        {
            StartThreads(threads, Math.Min(Environment.ProcessorCount, MaxThreads), cancellationToken);
            for (int ended = 0; ended < threads.Count; ended++)
            {
                while (!threads[ended].Join(ProgressMilliseconds))
                {
                    progress?.Report(new LoadProgress(Volatile.Read(ref _copiedBytes), _totalBytes));
                    if (_waitsForDisk)
                    {
                        StartThreads(threads, ThreadsForDisk, cancellationToken);
                    }
                }
            }
        }
        catch (Exception e)   // the caller's progress threw, or no thread was to be had: those that run let go of the memory first
        {
            Interlocked.CompareExchange(ref _failure, e, null);
            threads.ForEach(thread => thread.Join());
            throw;
        }
        cancellationToken.ThrowIfCancellationRequested();
        if (_failure is CheckpointEngineException known)
        {
            throw new CheckpointEngineException(known.Error, known.Message, known.NativeCode, known);
        }
        if (_failure is not null)
        {
            ThrowHelper.Throw(CheckpointError.Io, $"copy checkpoint: {_failure.Message}", _failure);
        }
    }

    /// <summary>Closes the descriptors that it opened; no thread runs any more.</summary>
    public void Dispose()
    {
        foreach (Lazy<DirectFile?> direct in _direct)
        {
            if (direct.IsValueCreated)
            {
                direct.Value?.Dispose();
            }
        }
    }

    private static int[] CutIntoUnits(CopyPiece[] pieces)
    {
        var units = new List<int> { 0 };
        for (int piece = 1; piece < pieces.Length; piece++)
        {
            ref readonly CopyPiece first = ref pieces[units[^1]];
            ref readonly CopyPiece next = ref pieces[piece];
            if (next.File != first.File || next.FileOffset + next.Bytes - first.FileOffset > UnitBytes)
            {
                units.Add(piece);
            }
        }
        if (pieces.Length != 0)
        {
            units.Add(pieces.Length);
        }
        return [.. units];
    }

    private void StartThreads(List<Thread> threads, int count, CancellationToken cancellationToken)
    {
        while (threads.Count < Math.Min(count, UnitCount))
        {
            var thread = new Thread(() => Work(cancellationToken)) { IsBackground = true, Name = "checkpoint copy" };
            try
            {
                thread.Start();
            }
            catch (Exception none) when (none is OutOfMemoryException or ThreadStartException && threads.Count != 0)
            {
                _waitsForDisk = false;      // the host gives no more: those that run copy everything
                return;
            }
            threads.Add(thread);
        }
    }

    private void Work(CancellationToken cancellationToken)
    {
        try
        {
            using var copier = new UnitCopier(this);
            int next;
            while (!cancellationToken.IsCancellationRequested && Volatile.Read(ref _failure) is null && (next = Interlocked.Increment(ref _next)) < UnitCount)
            {
                copier.Copy(next);
            }
        }
        catch (Exception e)   // nothing may leave a thread of ours
        {
            Interlocked.CompareExchange(ref _failure, e, null);
        }
    }
}

/// <summary>A chunk of a tensor, or a whole small one: what is copied and hashed at a time.</summary>
/// <param name="File">Index of its file.</param>
/// <param name="FileOffset">Where in the file it begins.</param>
/// <param name="Address">Where in memory it goes.</param>
/// <param name="Bytes">Its length, not 0.</param>
/// <param name="Tensor">Index of its tensor in the packed table.</param>
/// <param name="Chunk">Which of the tensor's chunks it is.</param>
internal readonly record struct CopyPiece(int File, long FileOffset, nint Address, int Bytes, int Tensor, int Chunk);
