using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using CheckpointEngine.Access;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;
using CheckpointEngine.Peers;

namespace CheckpointEngine.Transfer.Tcp;

/// <summary>Where and how a <see cref="TcpReadLane"/> connects.</summary>
/// <param name="EndPoints">Addresses of the data port, tried in order.</param>
/// <param name="PeerName">The peer, for messages.</param>
/// <param name="ProtocolVersion">2 or more: answers begin with a status; else payload alone.</param>
/// <param name="IsOurs">The peer is one of our own: it takes pipelined requests and keeps connections.</param>
/// <param name="Token">The token to prove first; null when the peer demands none.</param>
/// <param name="ConnectTimeout">For one address.</param>
/// <param name="StallTimeout">The longest wait for a byte.</param>
internal sealed record TcpLaneTarget(
    IPEndPoint[] EndPoints, string PeerName, int ProtocolVersion, bool IsOurs, AccessToken? Token, TimeSpan ConnectTimeout, TimeSpan StallTimeout)
{
    /// <summary>How TLS is spoken with it; null: not at all.</summary>
    internal TlsClientOptions? Tls { get; init; }

    /// <summary>What its certificate must be for: the address or name that the metas tell.</summary>
    internal string TlsHost { get; init; } = "";
}

/// <summary>A connection to a data port, reading straight into the destination.</summary>
/// <remarks>
/// Blocking calls on the caller's thread: what a lane does is wait for bytes, and a thread that waits in recv(2) is woken without the detour
/// over an event loop. Requests are sent ahead (<see cref="QueueDepth"/>); answers come in order. A Mooncake before v0.3.10 closes after each
/// answer: a plain peer is first asked one by one, and connected anew, until it has shown that it keeps the connection.
/// </remarks>
internal sealed unsafe partial class TcpReadLane : IReadLane
{
    // Two 4 MiB requests cover the turn-around of a lane on any network that one connection can fill; more only delays a failure. Small ones are bound by
    // their number, not to be asked for one by one.
    private const int PipelinedBytes = 16 << 20;
    private const int PipelinedDepth = 32;

    // Requests are sent together while this much or more is on its way: one call for many small ones.
    private const int HeldBackBytes = 512 << 10;

    // Of one recv(2). What is looked at as it comes must still be in a core's own cache (1 to 2 MiB, of which two joiners may have a half each) then:
    // of 64 joiners on two threads of one core each takes 7 % more with 256 KiB than with 512. Nobody looks: 1 MiB, beyond which calls cost nothing
    // that can be measured.
    private const int ProgressBytes = 256 << 10;
    private const int ReceiveBytes = 1 << 20;

    // Answers that one call receives.
    private const int MostTogether = 16;

    private readonly TcpLaneTarget _target;
    private readonly ReadRequest[] _inFlight = new ReadRequest[PipelinedDepth];       // a ring
    private readonly byte[] _headers = new byte[PipelinedDepth * DataHeader.Size];
    private readonly byte[] _statuses = GC.AllocateUninitializedArray<byte>(PipelinedDepth * DataHeader.LineStatusSize, pinned: true);     // by place in the ring
    private readonly int _statusSize;
    private readonly byte _opcode;
    private Socket? _socket;
    private int _headersHeld;             // not sent yet
    private long _bytesHeld;              // that they ask for
    private long _bytesAsked;             // and those that were sent; not answered yet
    private int _oldest;                  // its place in the ring
    private int _count;                   // that are in it
    private long _ahead;                  // bytes that came beyond the answers that were given out
    private int _answersOnThisConnection;
    private bool _keepsConnection;
    private volatile bool _aborted;

    internal TcpReadLane(TcpLaneTarget target)
    {
        _target = target;
        _keepsConnection = target.IsOurs;
        _opcode = target.ProtocolVersion < 2 ? DataHeader.Read : (byte)((target.IsOurs ? DataHeader.LineRead : DataHeader.Read) | DataHeader.Acknowledged);
        _statusSize = new DataHeader(0, 0, _opcode).AnswerStatusSize;
    }

    public string TransportName => Handshake.SegmentDescriptor.TcpProtocol;

    public int QueueDepth => _keepsConnection ? PipelinedDepth : 1;

    public int QueueBytes => PipelinedBytes;

    public bool WritesInTurn => true;

    public void Submit(in ReadRequest request)
    {
        _inFlight[(_oldest + _count++) % PipelinedDepth] = request;
        if (_socket is not null)
        {
            HoldHeader(request);
        }
    }

    public ReadCompletion Wait(IReadProgress? progress)
    {
        ReadRequest request = _inFlight[_oldest];
        if (_bytesHeld >= HeldBackBytes || _bytesAsked - _bytesHeld < HeldBackBytes)
        {
            SendHeaders();
        }
        ReadStatus status = ReadStatus.Broken;
        if (_socket is not null || TryReconnect())
        {
            status = Receive(request, progress, out bool closedBeforeFirstByte);
            if (closedBeforeFirstByte && !_keepsConnection && _answersOnThisConnection > 0 && !_aborted && TryReconnect())
            {
                status = Receive(request, progress, out _);     // an old peer closed after its last answer, as it does
            }
        }
        _oldest = (_oldest + 1) % PipelinedDepth;
        _count--;
        if (status == ReadStatus.Done)
        {
            _bytesAsked -= request.LengthBytes;
            _answersOnThisConnection++;
            _keepsConnection |= _answersOnThisConnection > 1;
        }
        else
        {
            DropConnection();                     // a refusal ends the connection; so does anything worse
        }
        return new ReadCompletion(request.Tag, _aborted && status != ReadStatus.Done ? ReadStatus.Aborted : status);
    }

    public void Abort()
    {
        _aborted = true;
        Interlocked.MemoryBarrier();              // pairs with the one in Connect: one of the two sees what the other wrote
        _socket?.Dispose();
    }

    public void Dispose() => DropConnection();

    // The oldest answer. What came of it with an earlier one is counted in _ahead, and so is in the end what comes with it of later ones.
    private ReadStatus Receive(in ReadRequest request, IReadProgress? progress, out bool closedBeforeFirstByte)
    {
        closedBeforeFirstByte = false;
        if (_socket is not { } socket)
        {
            return ReadStatus.Broken;
        }
        try
        {
            long answerBytes = _statusSize + (long)request.LengthBytes;
            int pieceBytes = progress is null ? ReceiveBytes : ProgressBytes;
            long told = 0;
            bool isStatusOk = _statusSize == 0;
            while (true)
            {
                if (!isStatusOk && _ahead >= _statusSize)
                {
                    ulong status = BinaryPrimitives.ReadUInt64LittleEndian(_statuses.AsSpan(_oldest * DataHeader.LineStatusSize));
                    if (status != DataHeader.StatusOk)
                    {
                        return status == DataHeader.StatusRejected ? ReadStatus.Refused : ReadStatus.Garbled;
                    }
                    isStatusOk = true;
                }
                long arrived = Math.Min(_ahead, answerBytes) - _statusSize;
                if (progress is not null && arrived > told && (arrived == request.LengthBytes || arrived - told >= pieceBytes))
                {
                    progress.Arrived(request.Tag, (int)arrived);
                    told = arrived;
                }
                if (arrived == request.LengthBytes)
                {
                    _ahead -= answerBytes;
                    return ReadStatus.Done;
                }
                long limitBytes = progress is null ? pieceBytes : pieceBytes - Math.Max(0, arrived - told);
                ReadStatus got = _secured is null ? ReceiveSome(socket, limitBytes) : ReceiveSecured(limitBytes);
                if (got != ReadStatus.Done)
                {
                    closedBeforeFirstByte = got == ReadStatus.Broken && _ahead == 0;
                    // Version 1 refuses by closing without a byte; on a fresh connection nothing else looks like that.
                    return closedBeforeFirstByte && _statusSize == 0 && _answersOnThisConnection == 0 ? ReadStatus.Refused : got;
                }
            }
        }
        catch (ObjectDisposedException)
        {
            return ReadStatus.Aborted;
        }
    }

    // One call for what comes next: the rest of the oldest answer and those behind it, each where it belongs.
    private ReadStatus ReceiveSome(Socket socket, long limitBytes)
    {
        Libc.IoVec* parts = stackalloc Libc.IoVec[2 * MostTogether];
        int count = 0;
        long skipBytes = _ahead;
        for (int i = 0; i < Math.Min(_count, MostTogether); i++)
        {
            int place = (_oldest + i) % PipelinedDepth;
            ref readonly ReadRequest request = ref _inFlight[place];
            AddPart((nint)StatusOf(place), _statusSize, _statusSize);
            if (i != 0 && (limitBytes <= 0 || !IsApart(i)))
            {
                break;
            }
            int missing = request.LengthBytes - (int)Math.Min(skipBytes, request.LengthBytes);
            AddPart(request.Destination, request.LengthBytes, limitBytes);
            limitBytes -= missing;
            if (limitBytes < 0)
            {
                break;      // it is cut
            }
        }
        ReadStatus got = Receive(socket, parts, count, out int received);
        _ahead += received;
        return got;

        void AddPart(nint start, int lengthBytes, long limit)
        {
            int skipped = (int)Math.Min(skipBytes, lengthBytes);
            skipBytes -= skipped;
            int taken = (int)Math.Min(lengthBytes - skipped, limit);
            if (taken != 0)
            {
                parts[count++] = new Libc.IoVec { iov_base = (void*)(start + skipped), iov_len = (nuint)taken };
            }
        }
    }

    // Whether a read in flight shares no memory with those before it: who reads into the same place again wants it when the one before has ended.
    private bool IsApart(int index)
    {
        ref readonly ReadRequest request = ref _inFlight[(_oldest + index) % PipelinedDepth];
        for (int i = 0; i < index; i++)
        {
            ref readonly ReadRequest before = ref _inFlight[(_oldest + i) % PipelinedDepth];
            if (request.Destination < before.Destination + before.LengthBytes && before.Destination < request.Destination + request.LengthBytes)
            {
                return false;
            }
        }
        return true;
    }

    private byte* StatusOf(int place) => (byte*)Marshal.UnsafeAddrOfPinnedArrayElement(_statuses, place * DataHeader.LineStatusSize);

    private ReadStatus ReceiveExactly(Socket socket, Span<byte> destination)
    {
        if (_secured is not null)
        {
            for (int done = 0; done < destination.Length;)
            {
                if (ReceiveSecured(destination[done..], out int received) is var got && got != ReadStatus.Done)
                {
                    return got;
                }
                done += received;
            }
            return ReadStatus.Done;
        }
        fixed (byte* start = destination)
        {
            for (int done = 0; done < destination.Length;)
            {
                var part = new Libc.IoVec { iov_base = start + done, iov_len = (nuint)(destination.Length - done) };
                if (Receive(socket, &part, 1, out int received) is var got && got != ReadStatus.Done)
                {
                    return got;
                }
                done += received;
            }
        }
        return ReadStatus.Done;
    }

    /// <summary>One recvmsg(2).</summary>
    internal static ReadStatus Receive(Socket socket, Libc.IoVec* parts, int count, out int received)
    {
        var message = new Libc.MsgHdr { msg_iov = parts, msg_iovlen = (nuint)count };
        while (true)
        {
            nint bytes = Libc.recvmsg(socket.SafeHandle, &message, 0);
            if (bytes < 0 && Marshal.GetLastPInvokeError() == Libc.EINTR)
            {
                continue;
            }
            received = Math.Max(0, (int)bytes);
            return bytes > 0 ? ReadStatus.Done : bytes < 0 && Marshal.GetLastPInvokeError() == Libc.EAGAIN ? ReadStatus.Stalled : ReadStatus.Broken;
        }
    }

    private bool TryReconnect()
    {
        if (_aborted)
        {
            return false;
        }
        DropConnection();
        try
        {
            Connect();
        }
        catch (CheckpointEngineException)
        {
            return false;
        }
        for (int i = 0; i < _count; i++)
        {
            HoldHeader(_inFlight[(_oldest + i) % PipelinedDepth]);
        }
        SendHeaders();
        return true;
    }

    private void HoldHeader(in ReadRequest request)
    {
        if (_headersHeld == PipelinedDepth)
        {
            SendHeaders();
        }
        new DataHeader((ulong)request.LengthBytes, request.RemoteAddress, _opcode).Encode(_headers.AsSpan(_headersHeld++ * DataHeader.Size));
        _bytesHeld += request.LengthBytes;
        _bytesAsked += request.LengthBytes;
    }

    private void SendHeaders()
    {
        if (_headersHeld != 0 && _socket is { } socket)
        {
            try
            {
                // A kilobyte or two into a buffer that is all but empty: they go whole, or the connection is broken, which Wait will find.
                Span<byte> headers = _headers.AsSpan(0, _headersHeld * DataHeader.Size);
                if (_secured is null)
                {
                    _ = socket.Send(headers, SocketFlags.None, out _);
                }
                else
                {
                    _secured.Write(headers);
                }
            }
            catch (Exception broken) when (broken is IOException or ObjectDisposedException)
            {
            }
        }
        _headersHeld = 0;
        _bytesHeld = 0;
    }

    public void Connect()
    {
        SocketException? last = null;
        foreach (IPEndPoint endPoint in _target.EndPoints)
        {
            Socket? socket = null;
            try
            {
                socket = new Socket(endPoint.AddressFamily, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
                _socket = socket;                 // before it connects: Abort ends that too
                Interlocked.MemoryBarrier();
                if (_aborted)
                {
                    break;
                }
                socket.SendTimeout = (int)_target.ConnectTimeout.TotalMilliseconds;      // connect(2) waits as long as SO_SNDTIMEO says
                SocketTools.BoundReceiveBufferOnLoopback(socket, endPoint.Address);
                socket.ReceiveTimeout = (int)_target.StallTimeout.TotalMilliseconds;
                socket.Connect(endPoint);
                _answersOnThisConnection = 0;
                if (_target.Tls is not null)
                {
                    Secure(socket, _target.Tls);
                }
                if (_target.Token is not null)
                {
                    ProveToken(socket, _target.Token);
                }
                return;
            }
            catch (SocketException failure)
            {
                DropConnection();
                last = failure;
            }
            catch (ObjectDisposedException) when (_aborted)
            {
                break;
            }
        }
        DropConnection();
        string addresses = string.Join(", ", _target.EndPoints.AsEnumerable());
        throw new CheckpointEngineException(
            last?.SocketErrorCode is SocketError.TimedOut or SocketError.WouldBlock or SocketError.InProgress ? CheckpointError.Timeout : CheckpointError.Unreachable,
            $"connect a TCP lane to {_target.PeerName} at {addresses}: {(_aborted ? "aborted" : last?.Message ?? "no address")}; its data port must be reachable from here", last?.NativeErrorCode ?? 0, last);
    }

    private void ProveToken(Socket socket, AccessToken token)
    {
        Span<byte> hello = stackalloc byte[DataHeader.Size + TokenChallenge.NonceBytes];
        Span<byte> clientNonce = hello[DataHeader.Size..];
        KernelRandom.Fill(clientNonce);
        byte[] secret = token.Secrets[0];
        new DataHeader(TokenChallenge.NonceBytes, 0, DataHeader.Challenge | DataHeader.Acknowledged).Encode(hello);
        DataHeader.EncodeHint(hello, TokenChallenge.Hint(secret, clientNonce));
        Send(socket, hello);
        Span<byte> answer = stackalloc byte[DataHeader.StatusSize + TokenChallenge.NonceBytes + TokenChallenge.ProofBytes];
        ReadStatus answered = ReceiveExactly(socket, answer[..DataHeader.StatusSize]);
        if (answered == ReadStatus.Done && BinaryPrimitives.ReadUInt64LittleEndian(answer) == DataHeader.StatusOk)
        {
            answered = ReceiveExactly(socket, answer[DataHeader.StatusSize..]);
        }
        ThrowIfStalled(answered);
        if (answered != ReadStatus.Done || BinaryPrimitives.ReadUInt64LittleEndian(answer) != DataHeader.StatusOk)
        {
            Refuse("it did not answer the token challenge");
        }
        Span<byte> serverNonce = answer.Slice(DataHeader.StatusSize, TokenChallenge.NonceBytes);
        ReadOnlySpan<byte> binding = _secured is null ? [] : TokenChallenge.BindingOf(_secured.RemoteCertificate!);
        if (TokenChallenge.Check(token, TokenChallenge.Purpose.TcpLane, ofServer: true, clientNonce, serverNonce, binding, answer[(DataHeader.StatusSize + TokenChallenge.NonceBytes)..]) is null)
        {
            Refuse("its token is not ours");
        }
        Span<byte> proof = stackalloc byte[TokenChallenge.ProofBytes];
        TokenChallenge.Prove(secret, TokenChallenge.Purpose.TcpLane, asServer: false, clientNonce, serverNonce, binding, proof);
        Send(socket, proof);
        Span<byte> status = stackalloc byte[DataHeader.StatusSize];
        answered = ReceiveExactly(socket, status);
        ThrowIfStalled(answered);
        if (answered != ReadStatus.Done || BinaryPrimitives.ReadUInt64LittleEndian(status) != DataHeader.StatusOk)
        {
            Refuse("it did not take our token");
        }

        void ThrowIfStalled(ReadStatus status)
        {
            if (status == ReadStatus.Stalled)
            {
                DropConnection();
                ThrowHelper.Throw(CheckpointError.Timeout,
                    $"connect a TCP lane to {_target.PeerName}: it did not answer the token challenge within {_target.StallTimeout.TotalSeconds:0.#} s");
            }
        }

        void Refuse(string reason)
        {
            DropConnection();
            ThrowHelper.Throw(CheckpointError.Refused, $"connect a TCP lane to {_target.PeerName}: {reason}; check --token-file on both sides");
        }
    }

    private void DropConnection()
    {
        _secured?.Dispose();
        _secured = null;
        _socket?.Dispose();
        _socket = null;
        _ahead = 0;
        _headersHeld = 0;
        _bytesHeld = 0;
        _bytesAsked = 0;
    }
}
