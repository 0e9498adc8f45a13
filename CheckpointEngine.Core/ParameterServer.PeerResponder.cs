using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;

namespace CheckpointEngine;

public sealed partial class ParameterServer
{
    /// <summary>Answers the peer service from what the server holds.</summary>
    private sealed class PeerResponder(ParameterServer server) : IPeerResponder
    {
        public DigestAlgorithm Digest => server.Options.Digest;

        public PublishedMetas GetMetas(string name) => server.GetMetas(name);

        public HeldTensor? AcquireTensor(ulong address, ulong lengthBytes)
        {
            if (!server._registry.TryBeginRead(address, lengthBytes, out RegisteredRange? range))
            {
                return null;
            }
            if (range.Owner is HeldBufferReference reference && reference.Entry.FindTensor(reference, address, lengthBytes) is >= 0 and int tensor)
            {
                return new HeldTensor(reference.Entry.Checkpoint, reference.Entry.Digests, reference.Entry.Generation, tensor, range);
            }
            range.EndRead();
            return null;
        }

        public IReadOnlyList<SideFile>? FindSideFiles(ulong address)
            => server._registry.TryFind(address, 1, out RegisteredRange? range) && range.Owner is HeldBufferReference reference
                ? reference.Entry.Checkpoint.SideFiles
                : null;

        public long FindGeneration(ulong address)
            => server._registry.TryFind(address, 1, out RegisteredRange? range) && range.Owner is HeldBufferReference reference ? reference.Entry.Generation : 0;
    }
}
