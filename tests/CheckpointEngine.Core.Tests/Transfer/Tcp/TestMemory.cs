using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Tests;

/// <summary>Registered memory with known content.</summary>
internal sealed class TestMemory : IDisposable
{
    internal TestMemory(MemoryRegistry registry, int lengthBytes, Func<int, byte> content)
    {
        Buffer = MemoryBuffer.AllocateAnonymous(lengthBytes);
        Span<byte> bytes = Buffer.GetSpan(0, lengthBytes);
        for (int i = 0; i < lengthBytes; i++)
        {
            bytes[i] = content(i);
        }
        Range = registry.Register(Buffer, Address, (ulong)lengthBytes);
    }

    internal MemoryBuffer Buffer { get; }

    internal RegisteredRange Range { get; }

    internal ulong Address => (ulong)Buffer.Address;

    /// <summary>Content of the real target's buffer in captures 10 to 22.</summary>
    internal static byte OfTarget(int i) => (byte)(i * 7 + (i >> 8) * 13);

    /// <summary>Content of the scripted target's buffer in captures 31, 35 and 42.</summary>
    internal static byte OfScript(int i) => (byte)(i * 11 + (i >> 7) * 5);

    internal byte[] Bytes(int offset, int length) => Buffer.GetReadOnlySpan(offset, length).ToArray();

    public void Dispose() => Buffer.Dispose();
}
