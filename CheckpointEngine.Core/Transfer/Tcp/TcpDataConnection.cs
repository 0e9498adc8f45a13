using System.Net;
using System.Net.Sockets;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using CheckpointEngine.Access;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;
using CheckpointEngine.Telemetry;

namespace CheckpointEngine.Transfer.Tcp;

/// <summary>One connection to the data port: reads headers, checks them, sends straight from registered memory.</summary>
/// <remarks>
/// Its loop is one task on the <see cref="ServingThreads"/>, never waiting in a system call; <see cref="Cut"/> may come from any thread. In the steady
/// state a request allocates nothing. Memory that is gone (a file truncated under its mapping) ends here as an error (EFAULT), not as SIGBUS.
/// Source: send(2), recv(2).
/// </remarks>
internal sealed partial class TcpDataConnection : IDisposable
{
    // A send(2) of 1 MiB keeps the loop's own cost under 1 %; at 256 KiB a quarter of the rate is lost to waking up.
    private const int SendBytes = 1 << 20;

    // What a connection may send before those that wait have their turn, when there are more connections than threads. Less costs rate; with more the
    // bytes of many peers lie in the kernel at once, out of every cache, while each waits longer.
    private const int TurnBytes = 1 << 20;

    // A reader that keeps up makes room in less; and a connection that comes meanwhile need not wait longer for a thread.
    private const int PollMilliseconds = 5;

    // A request costs a turn this much beside its bytes: requests of one byte come to an end, too.
    private const int TurnBytesOfARequest = 4 << 10;

    // Below it pinning pages costs more than copying them. Source: msg_zerocopy.rst says about 10 KiB.
    private const int LeastForZeroCopy = 64 << 10;

    // Headers that have come but are not answered yet: our own lanes send up to 32 ahead.
    private const int ReceiveBytes = 1 << 10;

    private readonly Socket _socket;
    private readonly ConnectionSlot _slot;
    private readonly SafeSocketHandle _handle;
    private readonly int _fd;                 // valid until Dispose, which lets go of _handle
    private readonly MemoryRegistry _registry;
    private readonly TcpDataListenerOptions _options;
    private readonly SocketReadiness _readiness;

    // Not pinned for good: the heap of what is has a budget of a few MB, behind which every generation is collected, while thousands connect.
    private readonly byte[] _received = new byte[ReceiveBytes];
    private readonly byte[] _answer = new byte[DataHeader.StatusSize + TokenChallenge.NonceBytes + TokenChallenge.ProofBytes];
    private readonly AnswerBatch _batch = new();
    private readonly IPAddress _remoteAddress;
    private readonly ZeroCopySends? _zeroCopy;      // null: switched off from the start
    private int _receivedStart;
    private int _receivedEnd;
    private int _turnLeft = TurnBytes;
    private long _sentBytes;       // written by its loop alone, read by any thread
    private long _requests;
    private long _busySince;       // Environment.TickCount64 of the last progress while a peer owes us some; 0 while it does not
    private bool _admitted;
    private bool _isOfUse;
    private volatile bool _cut;

    /// <param name="socket">The connection; its own from here on, unless this throws.</param>
    /// <param name="slot">Its place; likewise.</param>
    /// <param name="registry">What may be read.</param>
    /// <param name="threads">Who serve it.</param>
    /// <param name="options">Who may read, and limits.</param>
    /// <param name="usualCongestionControl">What a connection from elsewhere is given; empty: it stays as it is.</param>
    internal TcpDataConnection(Socket socket, ConnectionSlot slot, MemoryRegistry registry, ServingThreads threads, TcpDataListenerOptions options, byte[] usualCongestionControl)
    {
        _socket = socket;
        _slot = slot;
        _registry = registry;
        _options = options;
        _socket.NoDelay = true;
        var remote = (IPEndPoint)socket.RemoteEndPoint!;
        _remoteAddress = remote.Address;
        RemoteAddress = remote.ToString();
        bool isOwnHost = SocketTools.IsOwnHost(_remoteAddress, ((IPEndPoint)socket.LocalEndPoint!).Address);
        if (!isOwnHost && usualCongestionControl.Length != 0)
        {
            SocketTools.SetCongestionControl(socket, usualCongestionControl);
        }
        _socket.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.KeepAlive, true);     // a peer that lost its power goes in the end
        if (options.Security is null && (options.ZeroCopy == ZeroCopyMode.Always || (options.ZeroCopy == ZeroCopyMode.Auto && !isOwnHost)))
        {
            _zeroCopy = TryAllowZeroCopy(socket) ? new ZeroCopySends() : null;
        }
        if (options.BytesInFlight != 0)
        {
            _socket.SendBufferSize = options.BytesInFlight;
        }
        _admitted = options.PlainPeers.Allows(_remoteAddress);
        if (!_admitted || options.Security is not null)
        {
            StartBusy();        // who must prove something has one stall timeout for it
        }
        bool held = false;
        _handle = socket.SafeHandle;
        _handle.DangerousAddRef(ref held);
        _fd = (int)_handle.DangerousGetHandle();
        try
        {
            _readiness = threads.Add(_fd);
        }
        catch
        {
            _handle.DangerousRelease();
            throw;
        }
    }

    /// <summary>The peer, for messages.</summary>
    internal string RemoteAddress { get; private set; }

    /// <summary>The peer's address.</summary>
    internal IPAddress Peer => _remoteAddress;

    /// <summary>What the peer is called in metrics; empty when peers are not measured.</summary>
    internal string PeerTag { get; set; } = "";

    /// <summary>What it has sent so far.</summary>
    internal ServedTotals Served => new(Volatile.Read(ref _sentBytes), Volatile.Read(ref _requests));

    /// <summary>Why the connection was refused, if it was.</summary>
    internal string? Refusal { get; private set; }

    /// <summary>The same in a word of <see cref="Telemetry.Refusal"/>.</summary>
    internal string RefusalReason { get; private set; } = "";

    /// <summary>When the peer last made progress, while it owes us some.</summary>
    internal long? BusySince => Volatile.Read(ref _busySince) is long since and not 0 ? since : null;

    /// <summary>Whether bytes of that range are being sent, or still read by the kernel.</summary>
    internal bool Reads(RegisteredRange range) => _batch.Reads(range) || _zeroCopy?.ReadsFrom(range) == true;

    /// <summary>Whether an answer is being sent.</summary>
    internal bool IsAnswering => _batch.Count != 0;

    private bool HasHeader => _receivedEnd - _receivedStart >= DataHeader.Size;

    /// <summary>Whether the next large piece is sent without a copy.</summary>
    internal bool IsZeroCopy => _zeroCopy is not null && (!_zeroCopy.WasCopied || _options.ZeroCopy == ZeroCopyMode.Always);

    /// <summary>Serves requests until the peer closes or breaks a rule.</summary>
    internal async Task ServeAsync()
    {
        await _readiness.For(Libc.EPOLLIN);       // from here on in a thread that serves
        if (_options.Security is not null && !await SecureAsync(_options.Security).ConfigureAwait(false))
        {
            return;
        }
        while (await ReceiveAsync(DataHeader.Size).ConfigureAwait(false))
        {
            var header = DataHeader.Decode(_received.AsSpan(_receivedStart));
            _receivedStart += DataHeader.Size;
            StartBusy();
            bool goOn = header.Operation == DataHeader.Challenge && _options.Token is not null
                ? await AnswerChallengeAsync(_options.Token).ConfigureAwait(false)
                : await AnswerReadsAsync(header).ConfigureAwait(false);
            if (!goOn)
            {
                return;
            }
            if (!_isOfUse)
            {
                _isOfUse = true;
                _slot.BeginUse();       // it has proved the token, or read: it gives way to nobody
            }
            StopBusy();
        }
    }

    /// <summary>Waits until the kernel reads no memory of ours for this connection any more; called last, however the serving ended.</summary>
    internal async Task LetGoAsync()
    {
        try
        {
            // What the peer still takes it gets, as with copies; a peer that takes nothing is cut for it.
            while (_zeroCopy is { UnderWay: > 0 } && !_cut && (await _readiness.For(0) & Libc.EPOLLHUP) == 0)
            {
                TakeCompletions();
            }
        }
        catch (SocketException)
        {
            // It cannot be waited for: it is broken below.
        }
        if (_zeroCopy is not { UnderWay: > 0 })
        {
            return;
        }
        Disconnect();
        while (true)
        {
            TakeCompletions();
            if (_zeroCopy.UnderWay == 0)
            {
                return;
            }
            await Task.Delay(1).ConfigureAwait(false);       // what a network card has in its queue is gone in a moment
        }
    }

    /// <summary>Breaks the connection.</summary>
    internal void Cut()
    {
        _cut = true;
        try
        {
            _socket.Shutdown(SocketShutdown.Both);      // ends its wait; its own thread closes it
        }
        catch (Exception broken) when (broken is SocketException or ObjectDisposedException)
        {
            // It is broken already, which is what was wanted.
        }
    }

    public void Dispose()
    {
        _secured?.Dispose();
        DropRecords();
        _readiness.Dispose();
        _handle.DangerousRelease();
        _socket.Dispose();
        _slot.Dispose();
    }

    // The first one, and those behind it that have come already and can be answered with it.
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder<>))]
    private async ValueTask<bool> AnswerReadsAsync(DataHeader header)
    {
        Refusal = Admit(header, out RegisteredRange? range);
        if (range is null)
        {
            return await RefuseAsync(header).ConfigureAwait(false);
        }
        try
        {
            _batch.Add(range, header);
            while (!IsZeroCopy && _batch.HasRoom && HasHeader)
            {
                var next = DataHeader.Decode(_received.AsSpan(_receivedStart));
                if (next.LengthBytes > SendBytes || _batch.BytesLeft + next.LengthBytes > SendBytes || Admit(next, out RegisteredRange? nextRange) is not null)
                {
                    break;      // it comes first the next time
                }
                _receivedStart += DataHeader.Size;
                _batch.Add(nextRange!, next);
            }
            int answers = _batch.Count;
            await SendBatchAsync().ConfigureAwait(false);
            Volatile.Write(ref _requests, _requests + answers);
            return true;
        }
        finally
        {
            _batch.End(_zeroCopy);
        }
    }

    // Null, and the range on which a read has begun; or why it is refused.
    private string? Admit(in DataHeader header, out RegisteredRange? range)
    {
        range = null;
        if (!_admitted)
        {
            RefusalReason = Telemetry.Refusal.Token;
            return "it has not proved the token, and --plain-peers does not list it";
        }
        if (header.Operation == DataHeader.Write)
        {
            RefusalReason = Telemetry.Refusal.Write;
            return "it asked to write, which this holder never allows";
        }
        if ((header.Operation != DataHeader.Challenge || _options.Token is null) && _registry.TryBeginRead(header.Address, header.LengthBytes, out range))
        {
            return null;
        }
        RefusalReason = Telemetry.Refusal.Range;
        return $"it asked for {header.LengthBytes:N0} bytes at 0x{header.Address:x}, which are not registered";
    }

    // Waits until that many bytes have come, at the start of what was received. False when the peer has closed before.
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder<>))]
    private async ValueTask<bool> ReceiveAsync(int count)
    {
        while (_receivedEnd - _receivedStart < count)
        {
            if (_receivedStart != 0)
            {
                _received.AsSpan(_receivedStart, _receivedEnd - _receivedStart).CopyTo(_received);
                _receivedEnd -= _receivedStart;
                _receivedStart = 0;
            }
            int received = _secured is null
                ? Receive(_received.AsSpan(_receivedEnd))
                : await _secured.ReadAsync(_received.AsMemory(_receivedEnd), CancellationToken.None).ConfigureAwait(false);
            if (received == 0)
            {
                return false;
            }
            if (received > 0)
            {
                _receivedEnd += received;
                continue;
            }
            if (_receivedEnd != 0 && BusySince is null)
            {
                StartBusy();      // a header has begun: all of it has one stall timeout, or a byte a minute would last for ever
            }
            await WaitAsync(Libc.EPOLLIN).ConfigureAwait(false);
        }
        return true;
    }

    // Bytes received, 0 at the end, -1 when there is nothing yet.
    private unsafe int Receive(Span<byte> destination)
    {
        fixed (byte* start = destination)
        {
            while (true)
            {
                nint received = Libc.recv(_fd, start, (nuint)destination.Length, Libc.MSG_DONTWAIT);
                if (received >= 0)
                {
                    return (int)received;
                }
                switch (Marshal.GetLastPInvokeError())
                {
                    case Libc.EINTR:
                        continue;
                    case Libc.EAGAIN:
                        return -1;
                    case int errno:
                        throw new SocketException(errno);
                }
            }
        }
    }

    // Lets the others have their turn until there is something to do; may come back without.
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    private async ValueTask WaitAsync(uint events)
    {
        await _readiness.For(events);
        _turnLeft = TurnBytes;
        TakeCompletions();
    }

    private void TakeCompletions()
    {
        if (_zeroCopy is { UnderWay: > 0 } && _zeroCopy.TakeCompletions(_fd) && BusySince is not null)
        {
            StartBusy();
            if (_zeroCopy.UnderWay == 0 && !IsAnswering && _receivedEnd == _receivedStart)
            {
                StopBusy();
            }
        }
    }

    private static unsafe bool TryAllowZeroCopy(Socket socket)
    {
        try
        {
            int on = 1;
            socket.SetRawSocketOption(Libc.SOL_SOCKET, Libc.SO_ZEROCOPY, new ReadOnlySpan<byte>(&on, sizeof(int)));
            return true;
        }
        catch (SocketException)
        {
            return false;       // a kernel before 4.14
        }
    }

    // Drops what waits to be sent, and with it the kernel's hold on our memory; closing would go on sending.
    private unsafe void Disconnect()
    {
        byte* nowhere = stackalloc byte[16];
        new Span<byte>(nowhere, 16).Clear();        // its family is AF_UNSPEC, which is 0
        _ = Libc.connect(_fd, nowhere, 16);
    }

    private void StartBusy() => Volatile.Write(ref _busySince, Environment.TickCount64 | 1);

    private void StopBusy()
    {
        // A peer that does not take what was sent without a copy holds our memory: it still owes us progress.
        if (_zeroCopy is not { UnderWay: > 0 })
        {
            Volatile.Write(ref _busySince, 0);
        }
    }
}
