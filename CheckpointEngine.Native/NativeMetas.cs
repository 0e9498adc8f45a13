using System.Buffers;
using System.Runtime.InteropServices;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Native;

/// <summary>What a ce_metas stands for: metas, and the documents that were made of them.</summary>
internal sealed unsafe class NativeMetas(CheckpointMetas metas, string? entityTag = null) : IDisposable
{
    private readonly Lock _lock = new();
    private readonly nint[] _documents = new nint[2];     // by format; outside the managed heap, since the caller keeps addresses
    private readonly int[] _documentBytes = new int[2];
    private int[]? _rankOfTensor;
    private bool _destroyed;

    ~NativeMetas() => Free();

    internal CheckpointMetas Metas => metas;

    /// <summary>By which who told them knows whether there are others; null when nobody was asked.</summary>
    internal string? EntityTag => entityTag;

    internal int RankOf(int tensor) => (_rankOfTensor ??= MakeRanks())[tensor];

    internal (nint Address, int Bytes) Write(MetasFormat format)
    {
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_destroyed, this);
            int slot = format == MetasFormat.Json ? 0 : 1;
            if (_documents[slot] == 0)
            {
                var output = new ArrayBufferWriter<byte>(64 << 10);
                MetasDocument.Write(metas, format, output);
                void* document = NativeMemory.Alloc((nuint)Math.Max(1, output.WrittenCount));
                output.WrittenSpan.CopyTo(new Span<byte>(document, output.WrittenCount));
                _documents[slot] = (nint)document;
                _documentBytes[slot] = output.WrittenCount;
            }
            return (_documents[slot], _documentBytes[slot]);
        }
    }

    public void Dispose()
    {
        lock (_lock)
        {
            _destroyed = true;
            Free();
        }
        GC.SuppressFinalize(this);
    }

    private void Free()
    {
        for (int slot = 0; slot < _documents.Length; slot++)
        {
            NativeMemory.Free((void*)_documents[slot]);
            _documents[slot] = 0;
        }
    }

    private int[] MakeRanks()
    {
        var ranks = new int[metas.Tensors.Count];
        foreach (MetasOwner owner in metas.Owners)
        {
            foreach (MetasBuffer buffer in owner.Buffers)
            {
                ranks.AsSpan(buffer.FirstTensor, buffer.TensorCount).Fill(owner.Rank);
            }
        }
        return ranks;
    }
}
