using System.Buffers;
using System.Buffers.Binary;
using System.IO.Pipelines;
using System.Net.Sockets;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;
using CheckpointEngine.Telemetry;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Peers;

/// <summary>The server's side of a peer conversation: hello, proof if demanded, then requests, one after the other.</summary>
internal sealed partial class PeerSession : IDisposable
{
    // An answer goes out in pieces, each with the stall timeout of its own.
    private const int WritePieceBytes = 256 << 10;

    /// <summary>The most tensors of one digest request.</summary>
    internal const int MaxTensorsPerRequest = 4096;

    /// <summary>The most chunks of one digest request: 16 GiB of tensors, 512 KiB of SHA-256 digests.</summary>
    internal const int MaxChunksPerRequest = 4096;

    // As many as a joiner asks for.
    private const int MaxHeldRanges = 16_384;

    /// <summary>The longest that a request to follow is kept waiting, in milliseconds.</summary>
    internal const uint MaxFollowMs = 300_000;

    private const int FollowHeadBytes = 6;

    private readonly Socket _socket;
    private readonly Stream _stream;
    private readonly PipeReader _reader;
    private readonly PipeWriter _writer;
    private readonly IPeerResponder _responder;
    private readonly AccessToken? _token;
    private readonly PeerListenerOptions _options;
    private readonly PeerCredentials? _credentials;      // of a Unix socket's peer
    private readonly string? _refusal;
    private readonly List<HeldMemory> _held = [];       // what the peer may read out of this process until it leaves
    private readonly HashSet<long> _given = [];         // generations of which the peer has had memory, for the audit log
    private readonly Dictionary<ulong, ReadLease> _leases = [];
    private readonly byte[] _binding;
    private Lazy<byte[]> _key = new([]);                // of this conversation; the peer has it too. As in PeerClient made when it is wanted

    /// <param name="socket">The connection; the caller's to dispose.</param>
    /// <param name="responder">What is answered from.</param>
    /// <param name="token">The token that is demanded; null for none.</param>
    /// <param name="options">Limits, and who may ask over a Unix socket.</param>
    /// <param name="secured">The connection as TLS makes it; null: as it is.</param>
    internal PeerSession(Socket socket, IPeerResponder responder, AccessToken? token, PeerListenerOptions options, SecuredConnection? secured = null)
    {
        if (socket.AddressFamily == AddressFamily.Unix)
        {
            _credentials = PeerCredentials.Of(socket);
            if (token is null && !options.LocalPeers.Allows(_credentials.Value.UserId))
            {
                EngineMetrics.Refused(Refusal.Peer, Refusal.User);
                _refusal = $"user {_credentials.Value.UserId} may not have memory of this holder, which runs as user {Libc.geteuid()}: set a token on both sides, or allow the user (--local-peers)";
            }
        }
        _socket = socket;
        _responder = responder;
        _token = token;
        _options = options;
        _stream = secured?.Stream ?? new NetworkStream(socket, ownsSocket: false);
        _binding = secured?.Binding ?? [];
        _reader = PipeReader.Create(_stream, new StreamPipeReaderOptions(leaveOpen: true));
        _writer = PipeWriter.Create(_stream, new StreamPipeWriterOptions(leaveOpen: true));
    }

    /// <summary>Who the peer is, for logs.</summary>
    internal string Peer { get; init; } = "";

    /// <summary>Its place among the conversations; null: it needs none.</summary>
    internal ConnectionSlot? Slot { get; init; }

    internal async Task RunAsync(CancellationToken cancellationToken)
    {
        using (var introduction = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken))
        {
            introduction.CancelAfter(_options.IntroductionTimeout);
            if (!await IntroduceAsync(introduction.Token).ConfigureAwait(false))
            {
                return;
            }
        }
        Slot?.BeginUse();       // until it ends
        while (true)
        {
            PeerFrame frame;
            byte[] payload;
            using (var idle = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken))
            {
                idle.CancelAfter(_leases.Count == 0 && _places.Count == 0 ? _options.IdleTimeout : _options.LeaseLifetime);      // who is silent loses its leases with the conversation
                (bool there, frame, payload) = await ReadAsync(PeerFrame.MaxSmallBytes, idle.Token).ConfigureAwait(false);
                if (!there)
                {
                    return;
                }
            }
            try
            {
                if (_refusal is not null)
                {
                    ThrowHelper.Throw(CheckpointError.Refused, _refusal);
                }
                await WaitForTurnAsync(cancellationToken).ConfigureAwait(false);
                await AnswerAsync(frame.Type, payload, cancellationToken).ConfigureAwait(false);
            }
            catch (CheckpointEngineException failure)
            {
                if (failure.Error is CheckpointError.Refused or CheckpointError.Busy)
                {
                    _options.Audit?.Refused(PeerListener.Plane(_socket), Peer, failure.Message);
                }
                await WriteErrorAsync(failure.Error, failure.Message, cancellationToken).ConfigureAwait(false);
            }
        }
    }

    // Who asks for more than its share is answered later.
    private Task WaitForTurnAsync(CancellationToken cancellationToken)
    {
        if (Slot is null || Slot.TakeRequest() is not TimeSpan wait)
        {
            return Slot is null ? Task.CompletedTask : ThrowHelper.Throw<Task>(CheckpointError.Busy, "more requests came from your address than this holder allows in a second; ask less often (--max-requests there)");
        }
        return wait == TimeSpan.Zero ? Task.CompletedTask : Task.Delay(wait, cancellationToken);
    }

    public void Dispose()
    {
        foreach (ReadLease lease in _leases.Values)
        {
            lease.Dispose();
        }
        LeaveSwarms();
        lock (_held)
        {
            _held.ForEach(memory => memory.Dispose());
            _held.Clear();
        }
        _reader.Complete();
        _writer.Complete();
        _stream.Dispose();
    }

    private async ValueTask<bool> IntroduceAsync(CancellationToken cancellationToken)
    {
        (bool there, PeerFrame frame, byte[] payload) = await ReadAsync(PeerFrame.MaxIntroductionBytes, cancellationToken).ConfigureAwait(false);
        if (!there)
        {
            return false;
        }
        byte[] clientNonce = new byte[TokenChallenge.NonceBytes];
        if (frame.Type != PeerMessage.Hello || !PeerHello.TryParse(payload, out PeerHello? hello) || hello.Protocol < PeerHello.CurrentProtocol
            || Convert.FromHexString(hello.Nonce, clientNonce, out _, out int nonceBytes) != OperationStatus.Done || nonceBytes != clientNonce.Length)
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation, "its first frame is no hello");
        }
        byte[] serverNonce = KernelRandom.GetBytes(TokenChallenge.NonceBytes);
        var answer = new PeerHello
        {
            Protocol = PeerHello.CurrentProtocol,
            Version = EngineVersion.Text,
            HostId = HostIdentity.BootId,
            Instance = _responder.Instance,
            Nonce = Convert.ToHexStringLower(serverNonce),
            TokenRequired = _token is not null,
            Digest = DigestNames.ToWord(_responder.Digest),
            DataTls = _options.EncryptsData,
        };
        await WriteAsync(PeerMessage.Hello, answer.ToJson(), cancellationToken).ConfigureAwait(false);
        if (_token is null)
        {
            _key = new(() => TokenChallenge.MakeKey([], clientNonce, serverNonce, _binding));
            return true;
        }

        (there, frame, payload) = await ReadAsync(PeerFrame.MaxIntroductionBytes, cancellationToken).ConfigureAwait(false);
        if (!there)
        {
            return false;
        }
        if (frame.Type != PeerMessage.Proof || payload.Length != TokenChallenge.ProofBytes
            || TokenChallenge.Check(_token, TokenChallenge.Purpose.PeerService, ofServer: false, clientNonce, serverNonce, _binding, payload) is not byte[] secret)
        {
            await WriteErrorAsync(CheckpointError.Refused, "this holder demands a token, and yours is missing or another", cancellationToken).ConfigureAwait(false);
            return ThrowHelper.Throw<bool>(CheckpointError.Refused, "its token is missing or not ours");
        }
        byte[] proof = new byte[TokenChallenge.ProofBytes];
        TokenChallenge.Prove(secret, TokenChallenge.Purpose.PeerService, asServer: true, clientNonce, serverNonce, _binding, proof);
        _key = new(() => TokenChallenge.MakeKey(secret, clientNonce, serverNonce, _binding));
        await WriteAsync(PeerMessage.Proof, proof, cancellationToken).ConfigureAwait(false);
        return true;
    }

    private ValueTask AnswerAsync(PeerMessage type, byte[] payload, CancellationToken cancellationToken) => type switch
    {
        PeerMessage.Metas => AnswerMetasAsync(payload, cancellationToken),
        PeerMessage.Digests => AnswerDigestsAsync(payload, cancellationToken),
        PeerMessage.SideFiles => AnswerSideFilesAsync(payload, cancellationToken),
        PeerMessage.Follow => AnswerFollowAsync(payload, cancellationToken),
        PeerMessage.Lease => AnswerLeaseAsync(PeerMessage.Lease, payload, cancellationToken),
        PeerMessage.Release => AnswerLeaseAsync(PeerMessage.Release, payload, cancellationToken),
        PeerMessage.Memory => AnswerMemoryAsync(payload, cancellationToken),
        PeerMessage.Swarm => AnswerSwarmAsync(payload, cancellationToken),
        PeerMessage.Offer => AnswerOfferAsync(payload, cancellationToken),
        PeerMessage.Have => AnswerHaveAsync(payload, cancellationToken),
        PeerMessage.Rdma => AnswerRdmaAsync(payload, cancellationToken),
        _ => WriteErrorAsync(CheckpointError.NotSupported, $"message {(ushort)type} is not known to version {EngineVersion.Text}", cancellationToken),
    };

    /// <summary>Whether the peer may be reading that range out of this process.</summary>
    internal bool Holds(RegisteredRange range)
    {
        lock (_held)
        {
            return _held.Exists(memory => memory.Range == range);
        }
    }

    /// <summary>Breaks the conversation, from any thread.</summary>
    internal void Cut()
    {
        try
        {
            _socket.Shutdown(SocketShutdown.Both);
        }
        catch (Exception broken) when (broken is SocketException or ObjectDisposedException)
        {
            // It is broken already, which is what was wanted.
        }
    }

    private async ValueTask<(bool There, PeerFrame Frame, byte[] Payload)> ReadAsync(int maxBytes, CancellationToken cancellationToken)
    {
        ReadResult result = await _reader.ReadAtLeastAsync(PeerFrame.HeaderBytes, cancellationToken).ConfigureAwait(false);
        if (result.Buffer.Length < PeerFrame.HeaderBytes)
        {
            return default;
        }
        if (!PeerFrame.TryDecode(result.Buffer, maxBytes, out PeerFrame frame))
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation, "a frame that is malformed or too long");
        }
        _reader.AdvanceTo(result.Buffer.GetPosition(PeerFrame.HeaderBytes));
        if (frame.LengthBytes == 0)
        {
            return (true, frame, []);
        }
        result = await _reader.ReadAtLeastAsync(frame.LengthBytes, cancellationToken).ConfigureAwait(false);
        if (result.Buffer.Length < frame.LengthBytes)
        {
            return default;
        }
        byte[] payload = result.Buffer.Slice(0, frame.LengthBytes).ToArray();
        _reader.AdvanceTo(result.Buffer.GetPosition(frame.LengthBytes));
        return (true, frame, payload);
    }

    private async ValueTask WriteAsync(PeerMessage type, ReadOnlyMemory<byte> payload, CancellationToken cancellationToken)
    {
        new PeerFrame(type, payload.Length).Encode(_writer.GetSpan(PeerFrame.HeaderBytes));
        _writer.Advance(PeerFrame.HeaderBytes);
        do
        {
            ReadOnlyMemory<byte> piece = payload[..Math.Min(payload.Length, WritePieceBytes)];
            using var stall = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
            stall.CancelAfter(_options.StallTimeout);
            await _writer.WriteAsync(piece, stall.Token).ConfigureAwait(false);
            payload = payload[piece.Length..];
        }
        while (payload.Length != 0);
    }

    /// <summary>An error as it goes over the wire.</summary>
    internal static byte[] ErrorFrame(CheckpointError error, string message)
    {
        byte[] frame = new byte[PeerFrame.HeaderBytes + 2 + Encoding.UTF8.GetByteCount(message)];
        new PeerFrame(PeerMessage.Error, frame.Length - PeerFrame.HeaderBytes).Encode(frame);
        BinaryPrimitives.WriteUInt16LittleEndian(frame.AsSpan(PeerFrame.HeaderBytes), (ushort)error);
        Encoding.UTF8.GetBytes(message, frame.AsSpan(PeerFrame.HeaderBytes + 2));
        return frame;
    }

    private ValueTask WriteErrorAsync(CheckpointError error, string message, CancellationToken cancellationToken)
        => WriteAsync(PeerMessage.Error, ErrorFrame(error, message).AsMemory(PeerFrame.HeaderBytes), cancellationToken);
}
