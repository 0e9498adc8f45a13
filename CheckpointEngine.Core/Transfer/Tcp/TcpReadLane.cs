using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
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
    IPEndPoint[] EndPoints, string PeerName, int ProtocolVersion, bool IsOurs, AccessToken? Token, TimeSpan ConnectTimeout, TimeSpan StallTimeout);

/// <summary>A connection to a data port, reading straight into the destination.</summary>
/// <remarks>
/// Blocking calls on the caller's thread: what a lane does is wait for bytes, and a thread that waits in recv(2) is woken without the detour
/// over an event loop. Requests are sent ahead (<see cref="QueueDepth"/>); answers come in order. A Mooncake before v0.3.10 closes after each
/// answer: a plain peer is first asked one by one, and connected anew, until it has shown that it keeps the connection.
/// </remarks>
internal sealed unsafe class TcpReadLane : IReadLane
{
    // Two 4 MiB requests cover the turn-around of a lane on any network that one connection can fill; more only delays a failure. Small ones are bound by
    // their number, not to be asked for one by one.
    private const int PipelinedBytes = 16 << 20;
    private const int PipelinedDepth = 32;

    // Requests are sent together while this much or more is on its way: one call for many small ones.
    private const int HeldBackBytes = 512 << 10;

    // Of one recv(2). What is looked at as it comes must still be in a core's own cache (1 to 2 MiB) then; hashed in pieces of 512 KiB a join costs 8 %
    // less than hashed by the chunk. Nobody looks: 1 MiB, beyond which calls cost nothing that can be measured.
    private const int ProgressBytes = 512 << 10;
    private const int ReceiveBytes = 1 << 20;

    private readonly TcpLaneTarget _target;
    private readonly Queue<ReadRequest> _inFlight = new(PipelinedDepth);
    private readonly byte[] _headers = new byte[PipelinedDepth * DataHeader.Size];
    private readonly byte[] _status = GC.AllocateUninitializedArray<byte>(DataHeader.LineStatusSize, pinned: true);
    private readonly int _statusSize;
    private readonly byte _opcode;
    private Socket? _socket;
    private int _headersHeld;             // not sent yet
    private long _bytesHeld;              // that they ask for
    private long _bytesAsked;             // and those that were sent; not answered yet
    private int _statusHave;              // bytes of the next answer's status that came with the last answer
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
        _inFlight.Enqueue(request);
        if (_socket is not null)
        {
            HoldHeader(request);
        }
    }

    public ReadCompletion Wait(IReadProgress? progress)
    {
        ReadRequest request = _inFlight.Dequeue();
        if (_bytesHeld >= HeldBackBytes || _bytesAsked - _bytesHeld < HeldBackBytes)
        {
            SendHeaders();
        }
        if (_socket is null && !TryReconnect(request))
        {
            return new ReadCompletion(request.Tag, _aborted ? ReadStatus.Aborted : ReadStatus.Broken);
        }
        ReadStatus status = Receive(request, progress, out bool closedBeforeFirstByte);
        if (closedBeforeFirstByte && !_keepsConnection && _answersOnThisConnection > 0 && !_aborted && TryReconnect(request))
        {
            status = Receive(request, progress, out _);     // an old peer closed after its last answer, as it does
        }
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

    private ReadStatus Receive(in ReadRequest request, IReadProgress? progress, out bool closedBeforeFirstByte)
    {
        closedBeforeFirstByte = false;
        Socket? socket = _socket;
        if (socket is null)
        {
            return ReadStatus.Broken;
        }
        try
        {
            bool first = true;
            if (_statusSize != 0)
            {
                first = _statusHave == 0;
                ReadStatus got = ReceiveExactly(socket, _status.AsSpan(_statusHave, _statusSize - _statusHave), ref first);
                _statusHave = 0;
                if (got != ReadStatus.Done)
                {
                    closedBeforeFirstByte = got == ReadStatus.Broken && first;
                    return got;
                }
                ulong status = BinaryPrimitives.ReadUInt64LittleEndian(_status);
                if (status != DataHeader.StatusOk)
                {
                    return status == DataHeader.StatusRejected ? ReadStatus.Refused : ReadStatus.Garbled;
                }
            }
            ReadStatus payload = ReadStatus.Done;
            int pieceBytes = progress is null ? ReceiveBytes : ProgressBytes;
            for (int done = 0; done < request.LengthBytes && payload == ReadStatus.Done; done += pieceBytes)
            {
                int piece = Math.Min(pieceBytes, request.LengthBytes - done);
                bool isLast = piece == request.LengthBytes - done;
                payload = ReceiveExactly(socket, new Span<byte>((byte*)request.Destination + done, piece), ref first, isLast && _inFlight.Count != 0 ? _statusSize : 0);
                if (payload == ReadStatus.Done)
                {
                    progress?.Arrived(request.Tag, done + piece);
                }
            }
            closedBeforeFirstByte = payload == ReadStatus.Broken && first;
            // Version 1 refuses by closing without a byte; on a fresh connection nothing else looks like that.
            return closedBeforeFirstByte && _answersOnThisConnection == 0 ? ReadStatus.Refused : payload;
        }
        catch (ObjectDisposedException)
        {
            return ReadStatus.Aborted;
        }
    }

    // Behind the destination comes the status of the next answer, or as much of it as is there: one call for both.
    private ReadStatus ReceiveExactly(Socket socket, Span<byte> destination, ref bool first, int statusBytes = 0)
    {
        SafeSocketHandle handle = socket.SafeHandle;
        Libc.IoVec* parts = stackalloc Libc.IoVec[2];
        parts[1] = new Libc.IoVec { iov_base = (void*)Marshal.UnsafeAddrOfPinnedArrayElement(_status, 0), iov_len = (nuint)statusBytes };
        var message = new Libc.MsgHdr { msg_iov = parts, msg_iovlen = statusBytes == 0 ? 1u : 2u };
        fixed (byte* start = destination)
        {
            for (int done = 0; done < destination.Length;)
            {
                parts[0] = new Libc.IoVec { iov_base = start + done, iov_len = (nuint)(destination.Length - done) };
                nint received = Libc.recvmsg(handle, &message, 0);
                if (received < 0 && Marshal.GetLastPInvokeError() == Libc.EINTR)
                {
                    continue;
                }
                if (received <= 0)
                {
                    return received < 0 && Marshal.GetLastPInvokeError() == Libc.EAGAIN ? ReadStatus.Stalled : ReadStatus.Broken;
                }
                first = false;
                int left = destination.Length - done;
                _statusHave = Math.Max(0, (int)received - left);
                done += Math.Min((int)received, left);
            }
        }
        return ReadStatus.Done;
    }

    private bool TryReconnect(in ReadRequest request)
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
        HoldHeader(request);
        foreach (ReadRequest waiting in _inFlight)
        {
            HoldHeader(waiting);
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
                _ = socket.Send(_headers.AsSpan(0, _headersHeld * DataHeader.Size), SocketFlags.None, out _);
            }
            catch (ObjectDisposedException)
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
        new DataHeader(TokenChallenge.NonceBytes, 0, DataHeader.Challenge | DataHeader.Acknowledged).Encode(hello);
        Span<byte> clientNonce = hello[DataHeader.Size..];
        RandomNumberGenerator.Fill(clientNonce);
        socket.Send(hello);
        Span<byte> answer = stackalloc byte[DataHeader.StatusSize + TokenChallenge.NonceBytes + TokenChallenge.ProofBytes];
        bool first = true;
        ReadStatus answered = ReceiveExactly(socket, answer[..DataHeader.StatusSize], ref first);
        if (answered == ReadStatus.Done && BinaryPrimitives.ReadUInt64LittleEndian(answer) == DataHeader.StatusOk)
        {
            answered = ReceiveExactly(socket, answer[DataHeader.StatusSize..], ref first);
        }
        ThrowIfStalled(answered);
        if (answered != ReadStatus.Done || BinaryPrimitives.ReadUInt64LittleEndian(answer) != DataHeader.StatusOk)
        {
            Refuse("it did not answer the token challenge");
        }
        Span<byte> serverNonce = answer.Slice(DataHeader.StatusSize, TokenChallenge.NonceBytes);
        if (!TokenChallenge.Check(token, TokenChallenge.Purpose.TcpLane, ofServer: true, clientNonce, serverNonce, answer[(DataHeader.StatusSize + TokenChallenge.NonceBytes)..]))
        {
            Refuse("its token is not ours");
        }
        Span<byte> proof = stackalloc byte[TokenChallenge.ProofBytes];
        TokenChallenge.Prove(token, TokenChallenge.Purpose.TcpLane, asServer: false, clientNonce, serverNonce, proof);
        socket.Send(proof);
        Span<byte> status = stackalloc byte[DataHeader.StatusSize];
        answered = ReceiveExactly(socket, status, ref first);
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
        _socket?.Dispose();
        _socket = null;
        _statusHave = 0;
        _headersHeld = 0;
        _bytesHeld = 0;
        _bytesAsked = 0;
    }
}
