using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;

namespace CheckpointEngine;

/// <summary>What a server knows under one checkpoint name: what it holds itself, what others are known to hold, and the metas made of both.</summary>
/// <remarks>Under the server's lock.</remarks>
internal sealed class CheckpointRecord
{
    // Sets entity tags of one process apart from those of another that had the same port and name.
    private static readonly string s_epoch = Guid.NewGuid().ToString("N")[..12];
    private static long s_generation;

    private CheckpointMetas? _remote;
    private PublishedMetas? _world;
    private PublishedMetas? _local;

    internal HeldEntry? Held { get; private set; }

    /// <summary>A registration or join under this name is on its way.</summary>
    internal bool IsReserved { get; set; }

    /// <summary>Whether there is anything to tell.</summary>
    internal bool IsVisible => Held is not null || _remote is not null;

    internal void SetHeld(HeldEntry? entry)
    {
        Held = entry;
        _world = _local = null;
    }

    internal void SetRemote(CheckpointMetas? metas)
    {
        _remote = metas;
        _world = null;
    }

    internal PublishedMetas GetMetas(MetasScope scope, ParameterServer server)
    {
        _local ??= Publish(Held is null ? CheckpointMetas.Empty : MakeLocal(Held, server));
        if (scope == MetasScope.Local)
        {
            return _local;
        }
        // A merge copies every tensor: 11 MB for 139,600 of them. Who holds nothing has nothing to merge.
        return _world ??= _remote is null ? _local : Publish(Held is null ? _remote : CheckpointMetas.Merge(_remote, _local.Metas));
    }

    private static PublishedMetas Publish(CheckpointMetas metas) => new(metas, $"\"{s_epoch}-{Interlocked.Increment(ref s_generation)}\"");

    private static CheckpointMetas MakeLocal(HeldEntry entry, ParameterServer server)
    {
        using var builder = new CheckpointMetasBuilder();
        TensorTable tensors = entry.Checkpoint.Tensors;
        Span<byte> root = stackalloc byte[TensorDigest.MaxDigestBytes];
        foreach (HeldBuffer buffer in entry.Checkpoint.Buffers)
        {
            for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
            {
                builder.AddTensorFrom(tensors, tensor, tensors.GetSlotBytes(tensor));
                if (entry.HasDigestsAtPublication && entry.Digests!.TryGetRoot(tensor, root))
                {
                    builder.SetDigest(entry.Digests.Algorithm, root[..entry.Digests.Algorithm.DigestBytes()]);
                }
            }
            builder.EndBuffer((ulong)buffer.Address, buffer.SizeBytes);
        }
        builder.EndOwner(server.Rank, server.P2pStoreAddress, "", server.Epoch, entry.Generation);
        return builder.Build();
    }
}
