namespace CheckpointEngine.Checkpoints;

/// <summary>A buffer that is yet to be allocated.</summary>
/// <param name="SizeBytes">Its length.</param>
/// <param name="FirstTensor">Its first tensor.</param>
/// <param name="TensorCount">Number of its tensors.</param>
internal readonly record struct PackedBuffer(long SizeBytes, int FirstTensor, int TensorCount);

/// <summary>Where a packed tensor comes from.</summary>
/// <param name="File">Index of its file.</param>
/// <param name="Tensor">Its index in that file's table.</param>
internal readonly record struct PackedSource(int File, int Tensor);

/// <summary>
/// How the tensors of several files are packed into buffers: by name (ordinal UTF-8), each slot rounded up, as upstream's registration packs
/// them, so that the metas of both look alike.
/// </summary>
internal sealed class CheckpointPacking
{
    /// <summary>Slots are multiples of this many bytes.</summary>
    internal const int SlotAlignment = 256;

    /// <summary>The most bytes of a buffer, unless one tensor is larger.</summary>
    internal const long BufferBytes = 4L << 30;

    private CheckpointPacking(TensorTable tensors, PackedSource[] sources, PackedBuffer[] buffers)
    {
        Tensors = tensors;
        Sources = sources;
        Buffers = buffers;
    }

    /// <summary>All tensors by name, offsets in their buffers.</summary>
    internal TensorTable Tensors { get; }

    /// <summary>For each tensor where it comes from.</summary>
    internal PackedSource[] Sources { get; }

    /// <summary>The buffers, in the order of their tensors.</summary>
    internal PackedBuffer[] Buffers { get; }

    internal static CheckpointPacking Plan(IReadOnlyList<SafetensorsFile> files, long bufferBytes)
    {
        PackedSource[] sources = SortByName(files);
        foreach (PackedSource source in sources)
        {
            bufferBytes = Math.Max(bufferBytes, SlotBytes(files, source));
        }
        using var builder = new TensorTableBuilder();
        var buffers = new List<PackedBuffer>();
        int first = 0;
        long used = 0;
        foreach (PackedSource source in sources)
        {
            long slot = SlotBytes(files, source);
            if (slot > bufferBytes - used)
            {
                buffers.Add(new PackedBuffer(used, first, builder.Count - first));
                first = builder.Count;
                used = 0;
            }
            builder.AddFrom(files[source.File].Tensors, source.Tensor, slot, used);
            used += slot;
        }
        if (builder.Count != first)
        {
            buffers.Add(new PackedBuffer(used, first, builder.Count - first));
        }
        return new CheckpointPacking(builder.Build(), sources, [.. buffers]);
    }

    private static PackedSource[] SortByName(IReadOnlyList<SafetensorsFile> files)
    {
        var sources = new List<PackedSource>(files.Sum(file => file.Tensors.Count));
        for (int file = 0; file < files.Count; file++)
        {
            for (int tensor = 0; tensor < files[file].Tensors.Count; tensor++)
            {
                sources.Add(new PackedSource(file, tensor));
            }
        }
        sources.Sort((a, b) => files[a.File].Tensors.GetNameUtf8(a.Tensor).SequenceCompareTo(files[b.File].Tensors.GetNameUtf8(b.Tensor)));
        return [.. sources];
    }

    private static long SlotBytes(IReadOnlyList<SafetensorsFile> files, PackedSource source)
        => (files[source.File].Tensors.GetByteLength(source.Tensor) + SlotAlignment - 1) & -SlotAlignment;
}
