using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Fuzz.Support;
using CheckpointEngine.Transfer.Tcp;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>Reads of the data port; the first byte of an input has no meaning here, and addresses of <see cref="TcpDataTarget"/> are turned into the holder's.</summary>
internal sealed class DataProcessTarget : HolderProcessTarget
{
    private const ulong Base = 0x2000_0000_0000;

    internal override string Name => "process-data";

    internal override string Folder => "tcp-data";

    internal override int MaxInputBytes => 1 << 13;

    private protected override IPEndPoint PortOf(HolderProcess holder) => holder.Data;

    private protected override string Converse(Socket client, HolderProcess holder, byte[] input)
    {
        byte[] bytes = input[Math.Min(1, input.Length)..];
        for (int at = sizeof(ulong); at + sizeof(ulong) < bytes.Length; at += DataHeader.Size)
        {
            Span<byte> field = bytes.AsSpan(at, sizeof(ulong));
            ulong address = BinaryPrimitives.ReadUInt64LittleEndian(field);
            if (address - Base < HolderProcess.Bytes)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(field, address - Base + holder.Address);
            }
        }
        return Classify(Exchange(client, bytes));
    }
}
