using System.Buffers;

namespace CheckpointEngine.Transfer.Handshake;

/// <summary>What a <see cref="HandshakeListener"/> answers.</summary>
/// <remarks>
/// Called from many threads at once, and quickly to return: the time it takes is the asker's, who is closed without a reply once
/// <see cref="HandshakeListenerOptions.ReadTimeout"/> is over. Output is the JSON text alone; the listener frames it. An exception closes
/// that connection without a reply and nothing else; a <see cref="CheckpointEngineException"/> is logged as the peer's fault, any other as
/// ours.
/// </remarks>
internal interface IHandshakeResponder
{
    /// <summary>Writes this process's descriptor, or JSON <c>null</c> while there is none yet.</summary>
    void WriteDescriptor(IBufferWriter<byte> output, in PeerRequest request);

    /// <summary>Takes a notification; both texts are the peer's, of any content, up to the frame limit together.</summary>
    void OnNotify(string name, string message);

    /// <summary>Answers an RDMA Connection message; without RDMA through <see cref="ConnectionReply.WriteRefusal"/>.</summary>
    /// <param name="output">Gets a handshake object.</param>
    /// <param name="request">A JSON object; its members are unchecked. Not valid after the call.</param>
    /// <param name="peer">Who asks.</param>
    void WriteConnectionReply(IBufferWriter<byte> output, ReadOnlySequence<byte> request, in PeerRequest peer);
}
