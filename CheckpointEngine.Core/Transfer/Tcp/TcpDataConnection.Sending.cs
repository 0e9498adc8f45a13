using System.Buffers.Binary;
using System.Net.Sockets;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Tcp;

// What goes out: answers in batches, and statuses.
internal sealed partial class TcpDataConnection
{
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    private async ValueTask SendBatchAsync()
    {
        _turnLeft -= TurnBytesOfARequest * _batch.Count;
        while (_batch.BytesLeft != 0 || RecordBytesLeft != 0)
        {
            bool turnIsOver = _turnLeft <= 0 && _readiness.OthersWait;
            if (_turnLeft <= 0 && !turnIsOver)
            {
                _turnLeft = TurnBytes;      // nobody wanted the turn: the next one begins
            }
            int sent = turnIsOver ? 0 : SendPiece();
            if (sent == 0)
            {
                if (!turnIsOver && HasRoomSoon())
                {
                    TakeCompletions();
                    continue;
                }
                await WaitAsync(Libc.EPOLLOUT).ConfigureAwait(false);
                continue;
            }
            _turnLeft -= sent;
            StartBusy();
        }
    }

    // Waits in this thread while nobody else needs it: a connection that moves from thread to thread, and so from core to core, loses a sixth of its rate.
    private unsafe bool HasRoomSoon()
    {
        if (_readiness.OthersWait)
        {
            return false;
        }
        var descriptor = new Libc.PollFd { fd = _fd, events = Libc.POLLOUT };
        return Libc.poll(&descriptor, 1, PollMilliseconds) > 0 && !_cut;
    }

    // Bytes taken, 0 when there is no room.
    private int SendPiece()
    {
        if (_secured is null)
        {
            int sent = SendPlainPiece();
            _batch.Advance(sent);
            Volatile.Write(ref _sentBytes, _sentBytes + sent);
            return sent;
        }
        if (RecordBytesLeft == 0)
        {
            SealPiece();
        }
        return SendRecords(_batch.BytesLeft != 0 || HasHeader ? Libc.MSG_MORE : 0);
    }

    private unsafe int SendPlainPiece()
    {
        Libc.IoVec* parts = stackalloc Libc.IoVec[AnswerBatch.MostParts];
        if (IsZeroCopy && (_batch.IsAtStatus || _batch.NextPartBytes >= LeastForZeroCopy))
        {
            if (_batch.IsAtStatus)
            {
                return Send(parts, _batch.Next(parts, _batch.NextPartBytes), Libc.MSG_MORE);     // in one packet with what follows
            }
            if (!_zeroCopy!.HasRoom)
            {
                TakeCompletions();
            }
            if (_zeroCopy.HasRoom)
            {
                int sent = Send(parts, _batch.Next(parts, SendBytes), Libc.MSG_ZEROCOPY);
                if (sent >= 0)
                {
                    if (sent > 0)
                    {
                        _zeroCopy.Sent();
                    }
                    return sent;
                }
            }
        }
        // Another answer follows at once: the kernel puts the end of this one and the start of that into one packet.
        return Send(parts, _batch.Next(parts, SendBytes), HasHeader ? Libc.MSG_MORE : 0);
    }

    // Bytes taken, 0 when there is no room, -1 when the kernel may not pin more memory for sends without a copy.
    private unsafe int Send(Libc.IoVec* parts, int count, int flags)
    {
        var message = new Libc.MsgHdr { msg_iov = parts, msg_iovlen = (nuint)count };
        while (true)
        {
            nint sent = Libc.sendmsg(_fd, &message, Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT | flags);
            if (sent >= 0)
            {
                return (int)sent;
            }
            switch (Marshal.GetLastPInvokeError())
            {
                case Libc.EINTR:
                    continue;
                case Libc.EAGAIN:
                    return 0;
                case Libc.ENOBUFS when flags == Libc.MSG_ZEROCOPY:
                    return -1;
                case int errno:
                    throw new SocketException(errno);
            }
        }
    }

    // The first bytes of _answer.
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    private async ValueTask SendAnswerAsync(int lengthBytes)
    {
        if (_secured is not null)
        {
            _secured.Write(_answer, 0, lengthBytes);
            await FlushAsync().ConfigureAwait(false);
            return;
        }
        int done = 0;
        while (true)
        {
            done += SendAnswer(done, lengthBytes - done);
            if (done == lengthBytes)
            {
                return;
            }
            await WaitAsync(Libc.EPOLLOUT).ConfigureAwait(false);
        }
    }

    private unsafe int SendAnswer(int start, int lengthBytes)
    {
        fixed (byte* answer = _answer)
        {
            var part = new Libc.IoVec { iov_base = answer + start, iov_len = (nuint)lengthBytes };
            return Send(&part, 1, 0);
        }
    }

    private async ValueTask<bool> RefuseAsync(DataHeader header)
    {
        if (header.IsAcknowledged)
        {
            await SendStatusAsync(DataHeader.StatusRejected, header.AnswerStatusSize).ConfigureAwait(false);
        }
        return false;
    }

    private ValueTask SendStatusAsync(ulong status, int sizeBytes)
    {
        PutStatus(status, sizeBytes);
        return SendAnswerAsync(sizeBytes);
    }

    private void PutStatus(ulong status, int sizeBytes)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(_answer, status);
        if (sizeBytes > DataHeader.StatusSize)
        {
            _answer.AsSpan(DataHeader.StatusSize, sizeBytes - DataHeader.StatusSize).Clear();
        }
    }
}
