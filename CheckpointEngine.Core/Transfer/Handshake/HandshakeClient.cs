using System.Buffers;
using System.IO.Pipelines;
using System.Net.Sockets;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Transfer.Handshake;

/// <summary>Asks the handshake port of another process: one connection, one frame each way, closed as soon as the reply is there.</summary>
/// <remarks>
/// Any number of threads. A Mooncake peer serves one connection at a time, so a call may wait for others before it. All calls throw
/// <see cref="CheckpointEngineException"/>: <see cref="CheckpointError.Unreachable"/> (no connection, or it broke before the reply was
/// complete), <see cref="CheckpointError.Timeout"/>, <see cref="CheckpointError.ProtocolViolation"/> (an answer of the wrong form), and
/// <see cref="OperationCanceledException"/> only by the caller's token. Source: docs/mooncake-wire.md.
/// </remarks>
internal static class HandshakeClient
{
    private static readonly byte[] s_emptyObject = HandshakeBodies.EmptyObject.ToArray();

    /// <summary>Fetches the target's descriptor.</summary>
    /// <param name="target">Its name.</param>
    /// <param name="ownDescriptor">This process's own, by which the target may choose the transport it answers with; empty for none.</param>
    /// <param name="options">Limits; null for the defaults.</param>
    /// <param name="cancellationToken">Ends the call.</param>
    /// <returns>Well typed but not validated; its names are the peer's claims, and nothing was or should be connected because of them.</returns>
    /// <remarks>JSON null means that the target is still starting; it is asked again, and <see cref="CheckpointError.Unreachable"/> at last.</remarks>
    internal static async ValueTask<SegmentDescriptor> FetchDescriptorAsync(
        EndpointName target, ReadOnlyMemory<byte> ownDescriptor, HandshakeClientOptions? options = null, CancellationToken cancellationToken = default)
    {
        const string Operation = "fetching the segment descriptor of";
        options ??= HandshakeClientOptions.Default;
        ReadOnlyMemory<byte> request = ownDescriptor.IsEmpty ? s_emptyObject : ownDescriptor;
        long start = options.TimeProvider.GetTimestamp();
        TimeSpan delay = options.NullRetryDelay;
        for (int retriesLeft = options.NullRetries; ; retriesLeft--)
        {
            TimeSpan left = options.ReplyTimeout - options.TimeProvider.GetElapsedTime(start);
            byte[] reply = await ExchangeAsync(target, Operation, MessageType.Metadata, request, options, left, cancellationToken).ConfigureAwait(false);
            if (!SegmentDescriptorReader.IsNull(reply))
            {
                return Parse(target, Operation, reply, static body => SegmentDescriptorReader.Read(body.FirstSpan));
            }
            if (retriesLeft == 0 || options.TimeProvider.GetElapsedTime(start) + delay >= options.ReplyTimeout)
            {
                ThrowHelper.Throw(CheckpointError.Unreachable,
                    $"{Operation} {target}: it answers but has no segment yet, asked {options.NullRetries - retriesLeft + 1} times; try again once it has started");
            }
            await Task.Delay(delay, options.TimeProvider, cancellationToken).ConfigureAwait(false);
            delay *= 2;
        }
    }

    /// <summary>Completes when the target answers; needs Mooncake v0.3.10.post2 or this engine there.</summary>
    /// <exception cref="CheckpointEngineException">Also <see cref="CheckpointError.Refused"/>: the target answers, but not that it is well.</exception>
    internal static async ValueTask ProbeAsync(
        EndpointName target, HandshakeClientOptions? options = null, CancellationToken cancellationToken = default)
    {
        const string Operation = "probing";
        byte[] reply = await ExchangeAsync(target, Operation, MessageType.Probe, s_emptyObject, options, cancellationToken).ConfigureAwait(false);
        string status = Parse(target, Operation, reply, HandshakeBodies.ReadProbeStatus);
        if (status != "success")
        {
            ThrowHelper.Throw(CheckpointError.Refused, $"{Operation} {target}: it answers '{HandshakeJson.Printable(status)}' in place of success");
        }
    }

    /// <summary>Hands a name and a text to the application at the target.</summary>
    /// <exception cref="CheckpointEngineException">Also <see cref="CheckpointError.Refused"/>: the target does not take it.</exception>
    internal static async ValueTask NotifyAsync(
        EndpointName target, string name, string message, HandshakeClientOptions? options = null, CancellationToken cancellationToken = default)
    {
        const string Operation = "notifying";
        var body = new ArrayBufferWriter<byte>();
        HandshakeBodies.WriteNotify(body, name, message);
        byte[] reply = await ExchangeAsync(target, Operation, MessageType.Notify, body.WrittenMemory, options, cancellationToken).ConfigureAwait(false);
        if (SegmentDescriptorReader.IsNull(reply) || Parse(target, Operation, reply, HandshakeBodies.ReadNotify).Message.Length == 0)
        {
            ThrowHelper.Throw(CheckpointError.Refused, $"{Operation} {target}: it takes no notifications; over tcp Mooncake does from v0.3.8 on");
        }
    }

    /// <summary>Sends one message and returns the body of its reply.</summary>
    /// <param name="target">Whom to ask.</param>
    /// <param name="operation">What for; begins the message of an error.</param>
    /// <param name="type">The message; the reply must have the same type.</param>
    /// <param name="body">JSON text.</param>
    /// <param name="options">Limits; null for the defaults.</param>
    /// <param name="cancellationToken">Ends the call.</param>
    /// <returns>JSON text as it came, unchecked.</returns>
    /// <exception cref="ArgumentException">The message is longer than <see cref="HandshakeClientOptions.MaxFrameBytes"/>: the target would not read it.</exception>
    internal static ValueTask<byte[]> ExchangeAsync(
        EndpointName target, string operation, MessageType type, ReadOnlyMemory<byte> body,
        HandshakeClientOptions? options = null, CancellationToken cancellationToken = default)
    {
        options ??= HandshakeClientOptions.Default;
        return ExchangeAsync(target, operation, type, body, options, options.ReplyTimeout, cancellationToken);
    }

    private static async ValueTask<byte[]> ExchangeAsync(EndpointName target, string operation, MessageType type, ReadOnlyMemory<byte> body,
        HandshakeClientOptions options, TimeSpan timeout, CancellationToken cancellationToken)
    {
        if (body.Length >= options.MaxFrameBytes)
        {
            throw new ArgumentException(
                $"{operation} {target}: a request of {body.Length:N0} bytes does not fit into a frame of {options.MaxFrameBytes:N0}", nameof(body));
        }
        using Socket socket = await HandshakeConnector.ConnectAsync(target, operation, options, cancellationToken).ConfigureAwait(false);
        using var deadline = new Deadline(timeout > TimeSpan.Zero ? timeout : TimeSpan.Zero, options.TimeProvider, cancellationToken);
        try
        {
            var frame = new ArrayBufferWriter<byte>(HandshakeFrame.HeaderBytes + body.Length);
            HandshakeFrame.Write(frame, type, body.Span);
            using var stream = new NetworkStream(socket, ownsSocket: false);
            await stream.WriteAsync(frame.WrittenMemory, deadline.Token).ConfigureAwait(false);
            return await ReadReplyAsync(stream, target, operation, type, options.MaxFrameBytes, deadline.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (e is IOException or SocketException)
        {
            int errno = (e as SocketException ?? e.InnerException as SocketException)?.NativeErrorCode ?? 0;
            throw new CheckpointEngineException(CheckpointError.Unreachable,
                $"{operation} {target}: the connection broke before the reply ({e.Message}); it may have ended, or refused a request of {body.Length:N0} bytes", errno, e);
        }
        catch (OperationCanceledException e)
        {
            cancellationToken.ThrowIfCancellationRequested();
            return ThrowHelper.Throw<byte[]>(CheckpointError.Timeout,
                $"{operation} {target}: connected, but no whole reply within {options.ReplyTimeout.TotalSeconds} s; is it a handshake port, and is the owner not stuck?", e);
        }
    }

    private static async ValueTask<byte[]> ReadReplyAsync(
        NetworkStream stream, EndpointName target, string operation, MessageType expected, int maxFrameBytes, CancellationToken deadline)
    {
        PipeReader reader = PipeReader.Create(stream, new StreamPipeReaderOptions(bufferSize: 16 * 1024, leaveOpen: true));
        try
        {
            while (true)
            {
                ReadResult result = await reader.ReadAsync(deadline).ConfigureAwait(false);
                if (TakeReply(result.Buffer, target, operation, expected, maxFrameBytes) is { } body)
                {
                    return body;
                }
                if (result.IsCompleted)
                {
                    ThrowHelper.Throw(CheckpointError.Unreachable, result.Buffer.IsEmpty
                        ? $"{operation} {target}: it closed without a reply; a Mooncake peer does that to a message it does not know or cannot read"
                        : $"{operation} {target}: it closed {result.Buffer.Length:N0} bytes into its reply");
                }
                reader.AdvanceTo(result.Buffer.Start, result.Buffer.End);
            }
        }
        finally
        {
            await reader.CompleteAsync().ConfigureAwait(false);
        }
    }

    private static byte[]? TakeReply(ReadOnlySequence<byte> buffer, EndpointName target, string operation, MessageType expected, int maxFrameBytes)
    {
        try
        {
            if (!HandshakeFrame.TryRead(ref buffer, maxFrameBytes, out MessageType type, out bool oldForm, out ReadOnlySequence<byte> body))
            {
                return null;
            }
            if (type != expected || oldForm)
            {
                ThrowHelper.Throw(CheckpointError.ProtocolViolation,
                    $"a reply {(oldForm ? "without a type" : $"of type {type}")} to a message of type {expected}");
            }
            return body.ToArray();
        }
        catch (CheckpointEngineException e)
        {
            return ThrowHelper.Throw<byte[]>(CheckpointError.ProtocolViolation,
                $"{operation} {target}: {e.Message}; check that this is the port of a transfer engine, and its length limits (MC_HANDSHAKE_MAX_LENGTH)", e);
        }
    }

    private static T Parse<T>(EndpointName target, string operation, byte[] reply, Func<ReadOnlySequence<byte>, T> read)
    {
        try
        {
            return read(new ReadOnlySequence<byte>(reply));
        }
        catch (CheckpointEngineException e)
        {
            return ThrowHelper.Throw<T>(CheckpointError.ProtocolViolation,
                $"{operation} {target}: a reply of {reply.Length:N0} bytes that cannot be read: {e.Message}", e);
        }
    }
}
