using System.Buffers;
using System.Net.Security;
using System.Net.Sockets;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using CheckpointEngine.Access;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Tcp;

// TLS between requests and socket: what goes out is sealed into records, which are then sent as anything else is; nothing waits in a system call here either.
internal sealed partial class TcpDataConnection
{
    // What is sealed and sent at a time: eight records, in one call. It stays in a core's own cache from the copy on.
    private const int SealBytes = 128 << 10;

    private const byte HandshakeRecord = 0x16;      // RFC 8446, 5.1: what every TLS connection begins with

    [ThreadStatic]
    private static byte[]? t_plain;                 // pinned: what a thread that serves is about to seal

    private Stream? _secured;                       // null: the socket's bytes are what is meant
    private byte[] _records = [];                   // rented while records wait to be sent
    private int _recordsStart;
    private int _recordsEnd;
    private bool _hasBegun;                         // its first byte has come

    /// <summary>How long the peer may go without progress: all of the handshake has one short time, and then each wait a longer one.</summary>
    internal TimeSpan Patience => IsIntroducing ? _options.TlsTimeout : _options.StallTimeout;

    /// <summary>Whether it has to speak TLS, and is not that far yet.</summary>
    internal bool IsIntroducing => _options.Security is not null && Volatile.Read(ref _secured) is null;

    private int RecordBytesLeft => _recordsEnd - _recordsStart;

    private async Task<bool> SecureAsync(IConnectionSecurity security)
    {
        StartBusy();
        try
        {
            (Stream secured, string shown) = await security.SecureAsync(new RecordStream(this), CancellationToken.None).ConfigureAwait(false);
            if (shown.Length != 0)
            {
                RemoteAddress = $"{RemoteAddress} ({shown})";
            }
            await FlushAsync().ConfigureAwait(false);
            Volatile.Write(ref _secured, secured);
        }
        catch (CheckpointEngineException refused)
        {
            Refusal = refused.Message;
            RefusalReason = Telemetry.Refusal.Tls;
            await FlushAsync().ConfigureAwait(false);       // the alert
            return false;
        }
        if (_admitted)
        {
            StopBusy();
        }
        else
        {
            StartBusy();        // the token has a time of its own
        }
        return true;
    }

    // What comes next of the batch. The kernel copies it: memory that is gone is its error then, where a touch would be SIGBUS.
    private unsafe void SealPiece()
    {
        byte[] plain = t_plain ??= GC.AllocateUninitializedArray<byte>(SealBytes, pinned: true);
        byte* start = (byte*)Marshal.UnsafeAddrOfPinnedArrayElement(plain, 0);
        Libc.IoVec* parts = stackalloc Libc.IoVec[AnswerBatch.MostParts];
        int count = _batch.Next(parts, SealBytes);
        var local = new Libc.IoVec { iov_base = start, iov_len = SealBytes };
        nint copied = Libc.process_vm_readv(Environment.ProcessId, &local, 1, parts, (nuint)count, 0);
        if (copied < 0 && Marshal.GetLastPInvokeError() is Libc.EPERM or Libc.ENOSYS)
        {
            copied = 0;         // not allowed here, as some containers have it: then it is touched
            for (int i = 0; i < count; i++)
            {
                Buffer.MemoryCopy(parts[i].iov_base, start + copied, SealBytes - copied, (long)parts[i].iov_len);
                copied += (nint)parts[i].iov_len;
            }
        }
        if (copied <= 0)
        {
            throw new SocketException(Marshal.GetLastPInvokeError());
        }
        _secured!.Write(new ReadOnlySpan<byte>(start, (int)copied));
        _batch.Advance((int)copied);
        Volatile.Write(ref _sentBytes, _sentBytes + copied);
    }

    // Bytes of records taken, 0 when there is no room.
    private unsafe int SendRecords(int flags)
    {
        fixed (byte* start = &_records[_recordsStart])
        {
            var part = new Libc.IoVec { iov_base = start, iov_len = (nuint)RecordBytesLeft };
            int sent = Send(&part, 1, flags);
            _recordsStart += sent;
            if (RecordBytesLeft == 0)
            {
                DropRecords();
            }
            return sent;
        }
    }

    private void HoldRecords(ReadOnlySpan<byte> bytes)
    {
        if (_records.Length - _recordsEnd < bytes.Length)
        {
            byte[] larger = ArrayPool<byte>.Shared.Rent(Math.Max(SealBytes + SealBytes / 4, RecordBytesLeft + bytes.Length));
            _records.AsSpan(_recordsStart, RecordBytesLeft).CopyTo(larger);
            (int left, byte[] before) = (RecordBytesLeft, _records);
            (_records, _recordsStart, _recordsEnd) = (larger, 0, left);
            ArrayPool<byte>.Shared.Return(before);
        }
        bytes.CopyTo(_records.AsSpan(_recordsEnd));
        _recordsEnd += bytes.Length;
    }

    private void DropRecords()
    {
        ArrayPool<byte>.Shared.Return(_records);
        (_records, _recordsStart, _recordsEnd) = ([], 0, 0);
    }

    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    private async ValueTask FlushAsync()
    {
        while (RecordBytesLeft != 0)
        {
            if (SendRecords(0) == 0)
            {
                await WaitAsync(Libc.EPOLLOUT).ConfigureAwait(false);
            }
        }
    }

    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder<>))]
    private async ValueTask<int> ReceiveRecordsAsync(Memory<byte> buffer)
    {
        await FlushAsync().ConfigureAwait(false);       // whoever waits for an answer has asked
        while (true)
        {
            int received = Receive(buffer.Span);
            if (received >= 0)
            {
                if (received > 0 && !_hasBegun)
                {
                    _hasBegun = true;
                    if (buffer.Span[0] != HandshakeRecord)
                    {
                        throw new CheckpointEngineException(CheckpointError.Refused,
                            "it speaks no TLS, and this data port nothing else (--encrypt): a plain Mooncake peer, a CheckpointEngine that knows nothing of it, or one that was told so by somebody in between");
                    }
                }
                return received;
            }
            await WaitAsync(Libc.EPOLLIN).ConfigureAwait(false);
        }
    }

    /// <summary>The socket as <see cref="SslStream"/> has it: reads wait in the threads that serve, writes are kept until they are sent together.</summary>
    private sealed class RecordStream(TcpDataConnection connection) : Stream
    {
        public override bool CanRead => true;

        public override bool CanWrite => true;

        public override bool CanSeek => false;

        public override long Length => throw new NotSupportedException();

        public override long Position
        {
            get => throw new NotSupportedException();
            set => throw new NotSupportedException();
        }

        public override ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default) => connection.ReceiveRecordsAsync(buffer);

        public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
        {
            connection.HoldRecords(buffer.Span);
            return ValueTask.CompletedTask;
        }

        public override void Write(ReadOnlySpan<byte> buffer) => connection.HoldRecords(buffer);

        public override void Write(byte[] buffer, int offset, int count) => connection.HoldRecords(buffer.AsSpan(offset, count));

        public override Task FlushAsync(CancellationToken cancellationToken) => Task.CompletedTask;

        public override void Flush()
        {
        }

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();
    }
}
