namespace CheckpointEngine.Checkpoints;

/// <summary>The memory of the checkpoint that was taken away last, kept for the next one: touched, locked and in huge pages already.</summary>
/// <remarks>Any number of threads. It keeps one checkpoint's buffers, never more; who takes one owns it.</remarks>
internal sealed class MemoryPool : IDisposable
{
    private readonly Lock _lock = new();
    private List<MemoryBuffer> _free = [];
    private bool _disposed;

    /// <summary>Takes a buffer of exactly that length; null when there is none.</summary>
    internal MemoryBuffer? TryTake(long lengthBytes)
    {
        lock (_lock)
        {
            int found = _free.FindIndex(buffer => buffer.LengthBytes == lengthBytes);
            if (found < 0)
            {
                return null;
            }
            MemoryBuffer taken = _free[found];
            _free.RemoveAt(found);
            return taken;
        }
    }

    /// <summary>Frees what no new checkpoint has taken: its buffers have other lengths.</summary>
    internal void Trim() => Replace([]);

    /// <summary>Takes the buffers of a checkpoint that nobody reads any more in place of those it has; those that are not anonymous are freed.</summary>
    internal void Keep(IEnumerable<MemoryBuffer> buffers)
    {
        var kept = new List<MemoryBuffer>();
        foreach (MemoryBuffer buffer in buffers)
        {
            if (buffer.Kind == MemoryBufferKind.Anonymous)
            {
                kept.Add(buffer);
            }
            else
            {
                buffer.Dispose();
            }
        }
        Replace(kept);
    }

    public void Dispose()
    {
        lock (_lock)
        {
            _disposed = true;       // what is kept from here on is freed
        }
        Replace([]);
    }

    private void Replace(List<MemoryBuffer> buffers)
    {
        List<MemoryBuffer> old;
        lock (_lock)
        {
            (old, _free) = _disposed ? ([.. _free, .. buffers], []) : (_free, buffers);
        }
        old.ForEach(static buffer => buffer.Dispose());
    }
}
