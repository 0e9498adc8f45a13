using System.Buffers.Binary;

namespace CheckpointEngine.Peers;

/// <summary>How a process of the same host can reach an owner's memory.</summary>
internal enum MemoryAccess : uint
{
    /// <summary>A descriptor comes with the answer, and the owner offers to map it for good.</summary>
    Attach = 1,

    /// <summary>A descriptor comes with the answer, to read from: others may write to the file.</summary>
    Read = 2,

    /// <summary>No file stands behind the memory: process_vm_readv(2).</summary>
    Process = 3,
}

/// <summary>The payload of an answer to <see cref="PeerMessage.Memory"/>: the registered range that holds what was asked for.</summary>
/// <param name="Access">How to reach it.</param>
/// <param name="Address">Where the range begins in the owner's process.</param>
/// <param name="LengthBytes">Its length.</param>
/// <param name="FileOffset">Where it begins in the file; 0 without one.</param>
internal readonly record struct MemoryAnswer(MemoryAccess Access, ulong Address, ulong LengthBytes, ulong FileOffset)
{
    internal const int Size = 32;

    /// <summary>Whether a descriptor comes with it.</summary>
    internal bool HasDescriptor => Access is MemoryAccess.Attach or MemoryAccess.Read;

    internal void Encode(Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(destination, (uint)Access);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[4..], 0);
        BinaryPrimitives.WriteUInt64LittleEndian(destination[8..], Address);
        BinaryPrimitives.WriteUInt64LittleEndian(destination[16..], LengthBytes);
        BinaryPrimitives.WriteUInt64LittleEndian(destination[24..], FileOffset);
    }

    /// <summary>Reads an answer; false when it is of another length or kind, or its numbers overflow.</summary>
    internal static bool TryDecode(ReadOnlySpan<byte> source, out MemoryAnswer answer)
    {
        answer = default;
        if (source.Length != Size)
        {
            return false;
        }
        answer = new MemoryAnswer((MemoryAccess)BinaryPrimitives.ReadUInt32LittleEndian(source), BinaryPrimitives.ReadUInt64LittleEndian(source[8..]),
            BinaryPrimitives.ReadUInt64LittleEndian(source[16..]), BinaryPrimitives.ReadUInt64LittleEndian(source[24..]));
        return answer.Access is MemoryAccess.Attach or MemoryAccess.Read or MemoryAccess.Process && answer.LengthBytes is not 0
            && answer.Address <= ulong.MaxValue - answer.LengthBytes && answer.LengthBytes <= long.MaxValue && answer.FileOffset <= long.MaxValue - answer.LengthBytes;
    }
}
