namespace CheckpointEngine.Checkpoints;

/// <summary>A safetensors file that is yet to be filled: its head, and where each tensor's data goes.</summary>
/// <remarks>Immutable; any number of threads, so that each can write its tensors at their places.</remarks>
public sealed class SafetensorsLayout
{
    private readonly int[] _tensors;
    private readonly long[] _fileOffsets;

    internal SafetensorsLayout(byte[] header, int[] tensors, long[] fileOffsets, long fileBytes)
    {
        Header = header;
        _tensors = tensors;
        _fileOffsets = fileOffsets;
        FileBytes = fileBytes;
    }

    /// <summary>The file's first bytes, length prefix and padding included; the data section starts behind them.</summary>
    public ReadOnlyMemory<byte> Header { get; }

    /// <summary>The tensors, as indices in the table that was planned, in the order of their data.</summary>
    public ReadOnlySpan<int> Tensors => _tensors;

    /// <summary>For each entry of <see cref="Tensors"/>: bytes from the file's start to its data.</summary>
    public ReadOnlySpan<long> FileOffsets => _fileOffsets;

    /// <summary>Bytes of the whole file.</summary>
    public long FileBytes { get; }
}
