using System.Net.Security;
using System.Net.Sockets;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Tcp;

/// <summary>A socket as <see cref="SslStream"/> has it below a lane: recv(2) and send(2) on the caller's thread, for as long as the socket's own time limits say.</summary>
/// <remarks>One thread; who disposes of the socket ends its wait. Allocates nothing.</remarks>
internal sealed unsafe class BlockingSocketStream(Socket socket) : Stream
{
    /// <summary>How the last call that failed did; <see cref="ReadStatus.Done"/> while none has.</summary>
    internal ReadStatus Failure { get; private set; }

    /// <summary>When all that is to be read must have come (<see cref="Environment.TickCount64"/>): who sends a byte at a time does not begin anew with each. Default never.</summary>
    internal long Deadline { get; set; } = long.MaxValue;

    public override bool CanRead => true;

    public override bool CanWrite => true;

    public override bool CanSeek => false;

    public override long Length => throw new NotSupportedException();

    public override long Position
    {
        get => throw new NotSupportedException();
        set => throw new NotSupportedException();
    }

    public override int Read(Span<byte> buffer)
    {
        if (buffer.IsEmpty)
        {
            return 0;       // asked before there is a buffer, to wait without one
        }
        fixed (byte* start = buffer)
        {
            var part = new Libc.IoVec { iov_base = start, iov_len = (nuint)buffer.Length };
            int received = 0;
            ReadStatus status = Environment.TickCount64 > Deadline ? ReadStatus.Stalled : TcpReadLane.Receive(socket, &part, 1, out received);
            if (status == ReadStatus.Done)
            {
                return received;
            }
            Failure = status;
            throw new IOException(status == ReadStatus.Stalled ? "the peer sends nothing any more" : "the connection broke");
        }
    }

    public override void Write(ReadOnlySpan<byte> buffer)
    {
        while (!buffer.IsEmpty)
        {
            int sent = socket.Send(buffer, SocketFlags.None, out SocketError failure);
            if (failure != SocketError.Success)
            {
                Failure = ReadStatus.Broken;
                throw new IOException("the connection broke", new SocketException((int)failure));
            }
            buffer = buffer[sent..];
        }
    }

    public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

    public override void Flush()
    {
    }

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();
}
