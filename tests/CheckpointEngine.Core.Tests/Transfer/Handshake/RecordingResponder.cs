using System.Buffers;
using System.Collections.Concurrent;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Tests;

/// <summary>Answers with one descriptor, refuses RDMA, and keeps what it was asked.</summary>
internal sealed class RecordingResponder(SegmentDescriptor? descriptor = null) : IHandshakeResponder
{
    internal ConcurrentQueue<PeerRequest> Requests { get; } = [];

    internal ConcurrentQueue<(string Name, string Message)> Notifications { get; } = [];

    internal Exception? Failure { get; set; }

    public void WriteDescriptor(IBufferWriter<byte> output, in PeerRequest request)
    {
        Requests.Enqueue(request);
        if (Failure is not null)
        {
            throw Failure;
        }
        if (descriptor is null)
        {
            output.Write("null\n"u8);
            return;
        }
        SegmentDescriptorWriter.Write(output, descriptor);
    }

    public void OnNotify(string name, string message) => Notifications.Enqueue((name, message));

    public void WriteConnectionReply(IBufferWriter<byte> output, ReadOnlySequence<byte> request, in PeerRequest peer)
    {
        Requests.Enqueue(peer);
        ConnectionReply.WriteRefusal(output, ConnectionReply.NoRdma);
    }
}
