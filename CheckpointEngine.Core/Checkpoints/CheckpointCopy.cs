using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>Copies tensors from their files into buffers, on several threads.</summary>
/// <remarks>
/// With pread and not out of a mapping: a file that is truncated meanwhile is then an error instead of SIGBUS, and a pread faults the
/// destination only. Threads of its own, since blocking reads would starve the pool. Padding stays as fresh memory is: zero.
/// </remarks>
internal sealed unsafe class CheckpointCopy
{
    // What a thread reads at a time: large enough that the call costs nothing beside it (8 MiB are about a millisecond), small enough
    // that threads end together and that cancellation and progress are prompt.
    private const int PieceBytes = 8 << 20;

    // Reading from the page cache fills memory bandwidth with fewer; an NVMe drive is kept busy by this many.
    private const int MaxThreads = 8;

    private const int ProgressMilliseconds = 50;

    private readonly IReadOnlyList<SafetensorsFile> _files;
    private readonly Piece[] _pieces;
    private int _next = -1;
    private long _copiedBytes;
    private Exception? _failure;

    internal CheckpointCopy(IReadOnlyList<SafetensorsFile> files, CheckpointPacking packing, IReadOnlyList<HeldBuffer> buffers)
    {
        _files = files;
        var pieces = new List<Piece>();
        foreach (HeldBuffer buffer in buffers)
        {
            for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
            {
                PackedSource source = packing.Sources[tensor];
                SafetensorsFile file = files[source.File];
                long fileOffset = file.DataStart + file.Tensors.GetOffset(source.Tensor);
                nint address = buffer.Address + (nint)packing.Tensors.GetOffset(tensor);
                long bytes = packing.Tensors.GetByteLength(tensor);
                for (long done = 0; done < bytes; done += PieceBytes)
                {
                    pieces.Add(new Piece(source.File, fileOffset + done, address + (nint)done, (int)Math.Min(PieceBytes, bytes - done)));
                }
            }
        }
        // In the files' own order, so that the kernel's read-ahead works for what comes from a disk.
        pieces.Sort((a, b) => a.File != b.File ? a.File.CompareTo(b.File) : a.FileOffset.CompareTo(b.FileOffset));
        _pieces = [.. pieces];
    }

    /// <summary>Copies everything; returns when no thread runs any more, whatever happened.</summary>
    /// <exception cref="CheckpointEngineException">Io: a file could not be read.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    internal void Run(IProgress<long>? progress, CancellationToken cancellationToken)
    {
        int count = Math.Min(Math.Min(Environment.ProcessorCount, MaxThreads), _pieces.Length);
        var threads = new List<Thread>(count);
        try
        {
            while (threads.Count < count)
            {
                var thread = new Thread(() => Work(cancellationToken)) { IsBackground = true, Name = "checkpoint copy" };
                thread.Start();
                threads.Add(thread);
            }
            foreach (Thread thread in threads)
            {
                while (!thread.Join(ProgressMilliseconds))
                {
                    progress?.Report(Volatile.Read(ref _copiedBytes));
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

    private void Work(CancellationToken cancellationToken)
    {
        try
        {
            int next;
            while (!cancellationToken.IsCancellationRequested && Volatile.Read(ref _failure) is null
                && (next = Interlocked.Increment(ref _next)) < _pieces.Length)
            {
                ref readonly Piece piece = ref _pieces[next];
                SafetensorsFile file = _files[piece.File];
                RegularFile.ReadExactly(file.Handle, new Span<byte>((void*)piece.Address, piece.Bytes), piece.FileOffset, file.Path);
                Interlocked.Add(ref _copiedBytes, piece.Bytes);
            }
        }
        catch (Exception e)   // nothing may leave a thread of ours
        {
            Interlocked.CompareExchange(ref _failure, e, null);
        }
    }

    private readonly record struct Piece(int File, long FileOffset, nint Address, int Bytes);
}
