using System.Buffers;
using System.Text.Json;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Transfer.Mooncake;

/// <summary>Serves registered ranges through Mooncake's library, and answers for it at our own handshake port.</summary>
/// <remarks>
/// Peers that open our port get the library's descriptor, whose name leads them on to its own ports, with our announcement in it: so the address and
/// the port are those that the user chose, and our own joiners find the peer service. The library's port answers the same without the announcement.
/// Any number of threads.
/// </remarks>
internal sealed class MooncakeServing(MooncakeEngine engine)
{
    private readonly Lock _lock = new();
    private byte[]? _descriptor;          // the library's, as it was after so many changes
    private int _describedAt;
    private int _changes;

    /// <summary>Makes a range readable.</summary>
    /// <exception cref="CheckpointEngineException">The library refuses it.</exception>
    internal void Add(RegisteredRange range)
    {
        engine.Register([((nint)range.Address, (long)range.LengthBytes)]);
        Interlocked.Increment(ref _changes);
    }

    /// <summary>Takes a range out; reads of it that are under way over TCP go on, and the library tells of none.</summary>
    internal void Remove(RegisteredRange range)
    {
        engine.Unregister([(nint)range.Address]);
        Interlocked.Increment(ref _changes);
    }

    /// <summary>Writes the library's descriptor with our announcement in it.</summary>
    /// <exception cref="CheckpointEngineException">The library does not answer, or not with a descriptor.</exception>
    internal void WriteDescriptor(IBufferWriter<byte> output, EngineAnnouncement announcement)
    {
        byte[] descriptor = Descriptor();
        int end = descriptor.AsSpan().LastIndexOf((byte)'}');
        output.Write(descriptor.AsSpan(0, end));
        output.Write(","u8);
        var member = new ArrayBufferWriter<byte>();
        using (var writer = new Utf8JsonWriter(member, HandshakeJson.WriterOptions))
        {
            writer.WriteStartObject();
            SegmentDescriptorWriter.WriteEngine(writer, announcement);
            writer.WriteEndObject();
        }
        output.Write(member.WrittenSpan[1..]);
        output.Write("\n"u8);
    }

    /// <summary>Hands a Connection message on to the library: with <c>MC_RDMA_BIND_ADDRESS</c> peers send it to the port that they opened.</summary>
    internal void WriteConnectionReply(IBufferWriter<byte> output, ReadOnlySequence<byte> request)
        => output.Write(HandshakeClient.ExchangeAsync(engine.LocalName, "handing a Connection message on to Mooncake's library at", MessageType.Connection, request.ToArray())
            .AsTask().GetAwaiter().GetResult());

    private byte[] Descriptor()
    {
        lock (_lock)
        {
            int changes = Volatile.Read(ref _changes);
            if (_descriptor is null || _describedAt != changes)
            {
                byte[] fetched = engine.FetchOwnDescriptorAsync(CancellationToken.None).GetAwaiter().GetResult();
                _ = SegmentDescriptorReader.Read(fetched);      // it is an object, and has members
                _descriptor = fetched;
                _describedAt = changes;
            }
            return _descriptor;
        }
    }
}
