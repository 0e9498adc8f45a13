using System.Buffers;
using System.Buffers.Binary;
using System.IO.Pipelines;
using System.Net;
using System.Net.Sockets;
using System.Runtime.CompilerServices;
using System.Security.Cryptography;
using CheckpointEngine.Access;
using CheckpointEngine.Internal;
using CheckpointEngine.Peers;

namespace CheckpointEngine.Transfer.Tcp;

/// <summary>One connection to the data port: reads headers, checks them, sends straight from registered memory.</summary>
/// <remarks>Its loop is one task; <see cref="Cut"/> may come from any thread. In the steady state a request allocates nothing.</remarks>
internal sealed class TcpDataConnection : IDisposable
{
    // A send(2) of 1 MiB keeps the loop's own cost under 1 %; at 256 KiB a quarter of the rate is lost to waking up.
    private const int SendBytes = 1 << 20;

    // A smaller answer fits into the socket's buffer: nothing to wait for.
    private const int LeastForSenderThread = 256 << 10;

    private readonly Socket _socket;
    private readonly MemoryRegistry _registry;
    private readonly TcpDataListenerOptions _options;
    private readonly SenderThreads _senders;
    private readonly PipeReader _reader;
    private readonly UnmanagedWindow _window = new();
    private readonly byte[] _status = new byte[DataHeader.StatusSize];
    private readonly IPAddress _remoteAddress;
    private long _busySince;       // Environment.TickCount64 of the last progress while a peer owes us some; 0 while it does not
    private bool _admitted;

    internal TcpDataConnection(Socket socket, MemoryRegistry registry, SenderThreads senders, TcpDataListenerOptions options)
    {
        _socket = socket;
        _registry = registry;
        _options = options;
        _senders = senders;
        _socket.NoDelay = true;
        _remoteAddress = ((IPEndPoint)socket.RemoteEndPoint!).Address;
        RemoteAddress = socket.RemoteEndPoint!.ToString()!;
        SocketTools.PreferPlainCongestionControlOnLoopback(socket, _remoteAddress);
        _reader = PipeReader.Create(new NetworkStream(socket, ownsSocket: false), new StreamPipeReaderOptions(leaveOpen: true));
        _socket.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.KeepAlive, true);     // a peer that lost its power goes in the end
        _admitted = options.PlainPeers.Allows(_remoteAddress);
        if (!_admitted)
        {
            StartBusy();        // who must prove something has one stall timeout for it
        }
    }

    /// <summary>The peer, for messages.</summary>
    internal string RemoteAddress { get; }

    /// <summary>The range that is being sent from.</summary>
    internal RegisteredRange? CurrentRange { get; private set; }

    /// <summary>Why the connection was refused, if it was.</summary>
    internal string? Refusal { get; private set; }

    /// <summary>When the peer last made progress, while it owes us some.</summary>
    internal long? BusySince => Volatile.Read(ref _busySince) is long since and not 0 ? since : null;

    /// <summary>Serves requests until the peer closes or breaks a rule.</summary>
    internal async Task ServeAsync()
    {
        while (true)
        {
            ReadResult result = await _reader.ReadAsync().ConfigureAwait(false);
            if (result.Buffer.Length < DataHeader.Size)
            {
                if (result.IsCompleted)
                {
                    return;
                }
                _reader.AdvanceTo(result.Buffer.Start, result.Buffer.End);
                if (BusySince is null)
                {
                    StartBusy();      // a header has begun: all of it has one stall timeout, or a byte a minute would last for ever
                }
                continue;
            }
            DataHeader header = DataHeader.Decode(result.Buffer);
            _reader.AdvanceTo(result.Buffer.GetPosition(DataHeader.Size));
            StartBusy();
            bool goOn = header.Operation == DataHeader.Challenge && _options.Token is not null
                ? await AnswerChallengeAsync(_options.Token).ConfigureAwait(false)
                : await AnswerReadAsync(header).ConfigureAwait(false);
            if (!goOn)
            {
                return;
            }
            StopBusy();
        }
    }

    /// <summary>Breaks the connection.</summary>
    internal void Cut()
    {
        try
        {
            _socket.Shutdown(SocketShutdown.Both);      // wakes a thread that waits in poll(2)
        }
        catch (Exception broken) when (broken is SocketException or ObjectDisposedException)
        {
            // It is broken already, which is what was wanted.
        }
        _socket.Dispose();
    }

    public void Dispose()
    {
        _reader.Complete();
        _socket.Dispose();
    }

    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder<>))]
    private async ValueTask<bool> AnswerReadAsync(DataHeader header)
    {
        if (!_admitted)
        {
            Refusal = "it has not proved the token, and --plain-peers does not list it";
            return await RefuseAsync(header).ConfigureAwait(false);
        }
        if (header.Operation == DataHeader.Write)
        {
            Refusal = "it asked to write, which this holder never allows";
            return await RefuseAsync(header).ConfigureAwait(false);
        }
        if (!_registry.TryBeginRead(header.Address, header.LengthBytes, out RegisteredRange? range))
        {
            Refusal = $"it asked for {header.LengthBytes:N0} bytes at 0x{header.Address:x}, which are not registered";
            return await RefuseAsync(header).ConfigureAwait(false);
        }
        CurrentRange = range;
        try
        {
            if (header.LengthBytes >= LeastForSenderThread)
            {
                await _senders.Switch();      // the rest of this request, and the next ones while they are there already, are served by that thread
            }
            if (header.IsAcknowledged)
            {
                await SendStatusAsync(DataHeader.StatusOk).ConfigureAwait(false);
            }
            ulong address = header.Address;
            ulong end = address + header.LengthBytes;
            while (address < end)
            {
                int piece = (int)Math.Min(SendBytes, end - address);
                address += (ulong)(SenderThreads.IsSender
                    ? BlockingSend.Send(_socket, address, piece)
                    : await _socket.SendAsync(_window.MoveTo(address, piece)).ConfigureAwait(false));
                StartBusy();
            }
            return true;
        }
        finally
        {
            CurrentRange = null;
            range.EndRead();
        }
    }

    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder<>))]
    private async ValueTask<bool> RefuseAsync(DataHeader header)
    {
        if (header.IsAcknowledged)
        {
            await SendStatusAsync(DataHeader.StatusRejected).ConfigureAwait(false);
        }
        return false;
    }

    // 32 bytes of the client's nonce; ours and our proof; its proof; a status.
    private async ValueTask<bool> AnswerChallengeAsync(AccessToken token)
    {
        byte[] clientNonce = new byte[TokenChallenge.NonceBytes];
        byte[] proof = new byte[TokenChallenge.ProofBytes];
        byte[] answer = new byte[DataHeader.StatusSize + TokenChallenge.NonceBytes + TokenChallenge.ProofBytes];
        if (!await ReadExactlyAsync(clientNonce).ConfigureAwait(false))
        {
            return false;
        }
        Memory<byte> serverNonce = answer.AsMemory(DataHeader.StatusSize, TokenChallenge.NonceBytes);
        RandomNumberGenerator.Fill(serverNonce.Span);
        BinaryPrimitives.WriteUInt64LittleEndian(answer, DataHeader.StatusOk);
        TokenChallenge.Prove(token, TokenChallenge.Purpose.TcpLane, asServer: true, clientNonce, serverNonce.Span,
            answer.AsSpan(DataHeader.StatusSize + TokenChallenge.NonceBytes));
        await SocketTools.SendAllAsync(_socket, answer).ConfigureAwait(false);
        if (!await ReadExactlyAsync(proof).ConfigureAwait(false))
        {
            return false;
        }
        _admitted = TokenChallenge.Check(token, TokenChallenge.Purpose.TcpLane, ofServer: false, clientNonce, serverNonce.Span, proof);
        await SendStatusAsync(_admitted ? DataHeader.StatusOk : DataHeader.StatusRejected).ConfigureAwait(false);
        if (!_admitted)
        {
            Refusal = "its token is not ours";
        }
        return _admitted;
    }

    private async ValueTask<bool> ReadExactlyAsync(byte[] destination)
    {
        ReadResult result = await _reader.ReadAtLeastAsync(destination.Length).ConfigureAwait(false);
        if (result.Buffer.Length < destination.Length)
        {
            return false;
        }
        result.Buffer.Slice(0, destination.Length).CopyTo(destination);
        _reader.AdvanceTo(result.Buffer.GetPosition(destination.Length));
        StartBusy();
        return true;
    }

    private ValueTask SendStatusAsync(ulong status)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(_status, status);
        return SocketTools.SendAllAsync(_socket, _status);
    }

    private void StartBusy() => Volatile.Write(ref _busySince, Environment.TickCount64 | 1);

    private void StopBusy() => Volatile.Write(ref _busySince, 0);
}
