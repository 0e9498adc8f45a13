using System.Buffers.Binary;
using System.Net;
using CheckpointEngine.Fuzz.Support;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>Frames to the handshake port.</summary>
internal sealed class HandshakeProcessTarget : HolderProcessTarget
{
    internal override string Name => "process-handshake";

    internal override string Folder => "handshake";

    internal override string SeedPattern => "frame-*";

    internal override IReadOnlyList<byte[]> Tokens { get; } = Support.Tokens.Json("\"name\":", "\"protocol\":\"tcp\"", "\"protocol\":\"rdma\"", "\u0001\0\0\0\0\0\0\0", "\0", "\u0001", "\u0002", "\u0003", "\u0004");

    internal override byte[] Mutate(Mutator mutator, byte[] input)
    {
        byte[] mutated = mutator.Mutate(input);
        if (mutated.Length > HandshakeFrame.HeaderBytes && !mutator.Chance(4))
        {
            BinaryPrimitives.WriteInt64LittleEndian(mutated, mutated.Length - sizeof(long));
        }
        return mutated;
    }

    private protected override IPEndPoint PortOf(HolderProcess holder) => holder.Handshake;
}
