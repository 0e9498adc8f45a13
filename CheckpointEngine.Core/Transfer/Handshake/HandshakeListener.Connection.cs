using System.Buffers;
using System.IO.Pipelines;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using CheckpointEngine.Access;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Transfer.Handshake;

// One connection: read a frame, reply, wait for the client's close.
internal sealed partial class HandshakeListener
{
    // Real clients send nothing after their frame. What some other sends is read, so that closing does not reset the connection under our
    // reply, but not without end.
    private const int MaxTrailingBytes = 64 * 1024;

    private async Task ServeAsync(Socket socket, ConnectionSlot slot)
    {
        await Task.CompletedTask.ConfigureAwait(ConfigureAwaitOptions.ForceYielding);
        try
        {
            using (slot)
            using (socket)
            using (var deadline = new CancellationTokenSource(_options.ReadTimeout, _options.TimeProvider))
            using (_stop.Token.UnsafeRegister(static state => ((CancellationTokenSource)state!).Cancel(), deadline))
            {
                socket.NoDelay = true;
                var remote = (IPEndPoint)socket.RemoteEndPoint!;
                if (remote.Address.IsIPv4MappedToIPv6)
                {
                    remote = new IPEndPoint(remote.Address.MapToIPv4(), remote.Port);
                }
                await ServeAsync(socket, remote, deadline).ConfigureAwait(false);
            }
        }
        catch (OperationCanceledException)
        {
            LogTooSlow(_options.Logger);
        }
        catch (Exception e) when (e is CheckpointEngineException or IOException or SocketException or ObjectDisposedException)
        {
            LogEndedEarly(_options.Logger, e);
        }
        catch (Exception e)
        {
            LogFailed(_options.Logger, e);
        }
        finally
        {
            Release();
        }
    }

    private async Task ServeAsync(Socket socket, IPEndPoint remote, CancellationTokenSource deadline)
    {
        using var stream = new NetworkStream(socket, ownsSocket: false);
        ReadOnlyMemory<byte>? reply = await ReadAndAnswerAsync(stream, remote, deadline.Token).ConfigureAwait(false);
        if (reply is not { } bytes)
        {
            return;
        }
        deadline.CancelAfter(_options.WriteTimeout);
        await stream.WriteAsync(bytes, deadline.Token).ConfigureAwait(false);

        deadline.CancelAfter(_options.CloseTimeout);
        socket.Shutdown(SocketShutdown.Send);
        byte[] trailing = ArrayPool<byte>.Shared.Rent(4096);
        try
        {
            int left = MaxTrailingBytes;
            int read;
            do
            {
                read = await stream.ReadAsync(trailing, deadline.Token).ConfigureAwait(false);
                left -= read;
            }
            while (read != 0 && left > 0);
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(trailing);
        }
    }

    // Null when the client left without a request.
    private async ValueTask<ReadOnlyMemory<byte>?> ReadAndAnswerAsync(NetworkStream stream, IPEndPoint remote, CancellationToken deadline)
    {
        PipeReader reader = PipeReader.Create(stream, new StreamPipeReaderOptions(leaveOpen: true));
        try
        {
            while (true)
            {
                ReadResult result = await reader.ReadAsync(deadline).ConfigureAwait(false);
                ReadOnlySequence<byte> buffer = result.Buffer;
                if (HandshakeFrame.TryRead(ref buffer, _options.MaxFrameBytes, out MessageType type, out bool oldForm, out ReadOnlySequence<byte> body))
                {
                    return Answer(type, oldForm, body, remote);
                }
                if (result.IsCompleted)
                {
                    return null;
                }
                reader.AdvanceTo(buffer.Start, buffer.End);
            }
        }
        finally
        {
            // Also gives back what was read: the request is not looked at any more.
            await reader.CompleteAsync().ConfigureAwait(false);
        }
    }

    private ReadOnlyMemory<byte> Answer(MessageType type, bool oldForm, in ReadOnlySequence<byte> body, IPEndPoint remote)
    {
        var output = new ArrayBufferWriter<byte>();
        int headerBytes = HandshakeFrame.GetHeaderBytes(oldForm);
        output.GetSpan(headerBytes);
        output.Advance(headerBytes);
        switch (type)
        {
            case MessageType.Metadata:
                _responder.WriteDescriptor(output, new PeerRequest(remote, HandshakeBodies.ReadAskerProtocol(body)));
                break;
            case MessageType.Notify:
                (string name, string message) = HandshakeBodies.ReadNotify(body);
                _responder.OnNotify(name, message);
                output.Write(HandshakeBodies.NotifyReply);
                break;
            case MessageType.Probe:
                HandshakeBodies.ReadAskerProtocol(body);   // any JSON, but JSON
                output.Write(HandshakeBodies.ProbeReply);
                break;
            default:
                HandshakeBodies.CheckObject(body);
                _responder.WriteConnectionReply(output, body, new PeerRequest(remote, SegmentDescriptor.RdmaProtocol));
                break;
        }
        HandshakeFrame.WriteHeader(MemoryMarshal.AsMemory(output.WrittenMemory).Span, type, oldForm, output.WrittenCount - headerBytes);
        return output.WrittenMemory;
    }

    [LoggerMessage(EventId = 2203, Level = LogLevel.Debug, Message = "handshake: a client was too slow, or the listener stops")]
    private static partial void LogTooSlow(ILogger logger);

    [LoggerMessage(EventId = 2204, Level = LogLevel.Debug, Message = "handshake: the exchange with a client ended early")]
    private static partial void LogEndedEarly(ILogger logger, Exception failure);

    [LoggerMessage(EventId = 2205, Level = LogLevel.Warning, Message = "handshake: answering a client failed")]
    private static partial void LogFailed(ILogger logger, Exception failure);
}
