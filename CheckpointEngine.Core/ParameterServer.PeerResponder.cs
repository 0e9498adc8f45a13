using System.Buffers;
using System.Net;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Relay;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Rdma;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine;

public sealed partial class ParameterServer
{
    /// <summary>Answers the peer service from what the server holds.</summary>
    private sealed class PeerResponder(ParameterServer server) : IPeerResponder
    {
        public string Instance => server.Epoch;

        public DigestAlgorithm Digest => server.Options.Digest;

        public PublishedMetas GetMetas(string name) => server.GetMetas(name);

        public Task<PublishedMetas> WaitForMetasAsync(string name, string entityTag, CancellationToken cancellationToken)
            => server.WaitForMetasAsync(name, entityTag, MetasScope.World, cancellationToken);

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

        public HeldMemory AcquireMemory(ulong address, ulong lengthBytes, PeerCredentials peer)
        {
            if (!server._registry.TryBeginRead(address, lengthBytes, out RegisteredRange? range))
            {
                ThrowHelper.Throw(CheckpointError.Refused, $"{lengthBytes:N0} bytes at 0x{address:x} are not held here, or are being updated; fetch the metas anew");
            }
            try
            {
                MemoryBuffer memory = range.Buffer;
                ulong offset = memory.FileDescriptor is null ? 0 : range.Address - (ulong)memory.Address;
                (string, long, long)? held = range.Owner is HeldBufferReference { Entry: HeldEntry entry } ? (entry.Checkpoint.Name, entry.Generation, entry.Checkpoint.DataBytes) : null;
                return new HeldMemory(new MemoryAnswer(Access(memory, peer), range.Address, range.LengthBytes, offset), memory.FileDescriptor, range, held);
            }
            catch
            {
                range.EndRead();
                throw;
            }
        }

        private MemoryAccess Access(MemoryBuffer memory, PeerCredentials peer)
        {
            if (memory.FileDescriptor is not SafeFileHandle file)
            {
                if (peer.ProcessId > 0)
                {
                    // Yama lets a process be read by its ancestors and by the one that it names last; without Yama this fails, and is not needed.
                    _ = Libc.prctl(Libc.PR_SET_PTRACER, (nuint)peer.ProcessId, 0, 0, 0);
                }
                return MemoryAccess.Process;
            }
            if (memory.Kind == MemoryBufferKind.Memfd || server.Options.AttachFiles)
            {
                return MemoryAccess.Attach;
            }
            RegularFile.Status status = RegularFile.GetStatus(file, "a mapped file");
            return (status.UserId == Libc.geteuid() || status.UserId == 0) && !status.IsWritableByOthers ? MemoryAccess.Attach : MemoryAccess.Read;
        }

        public IReadOnlyList<SideFile>? FindSideFiles(ulong address)
            => server._registry.TryFind(address, 1, out RegisteredRange? range) && range.Owner is HeldBufferReference reference
                ? reference.Entry.Checkpoint.SideFiles
                : null;

        public byte[]? LaneKey => server.LaneKey;

        public void OfferRdma(ReadLease lease, ReadOnlySpan<byte> conversationKey, IBufferWriter<byte> answer)
        {
            if (server._engine is not TransferEngine engine)
            {
                ThrowHelper.Throw(CheckpointError.NotSupported, "it is starting");
                return;
            }
            RdmaGrant grant = lease.Rdma ?? engine.GrantRdma(conversationKey);
            if (!lease.TryKeep(grant))
            {
                grant.End(isRevoked: false);
                ThrowHelper.Throw(CheckpointError.Refused, "the lease has ended");
            }
            engine.WriteRdmaOffer(answer, grant);
        }

        public byte[]? SwarmKey => server._swarmKey;

        public SwarmPlace? EnterSwarm(ulong address, UInt128 layout, int units, IPAddress from)
            => server._registry.TryFind(address, 1, out RegisteredRange? range) && range.Owner is HeldBufferReference { Entry.Swarms: SwarmTable swarms } && swarms.Enter(layout, units, from) is Swarm.Seat seat
                ? new SwarmPlace(swarms, layout, seat)
                : null;

        public int Leases => Volatile.Read(ref server._leases);

        public ReadLease? TryLease(ulong address, string peer)
        {
            if (!server._registry.TryFind(address, 1, out RegisteredRange? range) || range.Owner is not HeldBufferReference { Entry: HeldEntry entry })
            {
                return null;
            }
            if (Interlocked.Increment(ref server._leases) > server.Options.Limits.Leases)
            {
                Interlocked.Decrement(ref server._leases);
                ThrowHelper.Throw(CheckpointError.Busy, $"{server.Options.Limits.Leases:N0} leases are out, as many as this holder gives; try again later, or another holder (--max-leases there)");
            }
            (string name, long generation, long taken) = (entry.Checkpoint.Name, entry.Generation, System.Diagnostics.Stopwatch.GetTimestamp());
            ReadLease? lease = entry.TryLease(() => server.GenerationOf(name), how =>
            {
                Interlocked.Decrement(ref server._leases);
                server._audit.LeaseEnded(peer, name, generation, how, System.Diagnostics.Stopwatch.GetElapsedTime(taken));
            });
            if (lease is null)
            {
                Interlocked.Decrement(ref server._leases);
                return null;
            }
            server._audit.LeaseTaken(peer, name, generation, entry.Checkpoint.DataBytes);
            return lease;
        }
    }
}
