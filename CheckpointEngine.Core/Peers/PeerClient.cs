using System.Buffers;
using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;
using System.Net.Sockets;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Metas;
using CheckpointEngine.Transfer.Handshake;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Peers;

/// <summary>The client's side of a peer conversation.</summary>
/// <remarks>One request at a time; later ones wait their turn. Dispose ends it.</remarks>
internal sealed partial class PeerClient : IDisposable
{
    // Of the reason that a peer gives for an error; ours are shorter.
    private const int MaxReasonChars = 1024;

    private const int MostConnectTries = 100;
    private static readonly TimeSpan s_connectPause = TimeSpan.FromMilliseconds(20);

    // An owner may have to read and hash what is asked for: 2 GiB in each timeout.
    private const int ChunksPerTimeout = 512;

    private readonly Socket _socket;
    private readonly Stream _stream;
    private readonly byte[] _binding;
    private readonly string _peer;
    private readonly TimeSpan _timeout;
    private readonly SemaphoreSlim _turn = new(1, 1);
    private Lazy<byte[]> _key = new([]);     // of this conversation; the server has it too. Made for the first who wants queue pairs: it needs OpenSSL

    private PeerClient(Socket socket, string peer, TimeSpan timeout, SecuredConnection? secured = null)
    {
        _socket = socket;
        _stream = secured?.Stream ?? new NetworkStream(socket, ownsSocket: true);
        _binding = secured?.Binding ?? [];
        _peer = peer;
        _timeout = timeout;
    }

    /// <summary>What the server said of itself.</summary>
    internal PeerHello Server { get; private set; } = new();

    /// <summary>The digest that the server makes.</summary>
    internal DigestAlgorithm Digest => DigestNames.FromWord(Server.Digest);

    /// <summary>Connects, says hello and proves the token if that is demanded.</summary>
    /// <param name="target">Where it listens.</param>
    /// <param name="token">The token, if one is demanded.</param>
    /// <param name="timeout">For each answer.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <param name="tls">How TLS is spoken with it; null: not at all.</param>
    /// <exception cref="CheckpointEngineException">Unreachable, Timeout, Refused or ProtocolViolation.</exception>
    internal static async Task<PeerClient> ConnectAsync(EndpointName target, AccessToken? token, TimeSpan timeout, CancellationToken cancellationToken, TlsClientOptions? tls = null)
    {
        Socket socket = await HandshakeConnector.ConnectAsync(target, "connecting to the peer service", HandshakeClientOptions.Default, cancellationToken).ConfigureAwait(false);
        SecuredConnection? secured = tls is null ? null : await tls.SecureAsync(socket, target.Host, $"peer service {target}", timeout, cancellationToken).ConfigureAwait(false);
        var client = new PeerClient(socket, $"peer service {target}", timeout, secured);
        try
        {
            await client.IntroduceAsync(token, cancellationToken).ConfigureAwait(false);
            return client;
        }
        catch
        {
            client.Dispose();
            throw;
        }
    }

    /// <summary>As <see cref="ConnectAsync"/>, over a Unix socket of this host.</summary>
    /// <param name="socketName">A valid <see cref="LocalSocketName"/>.</param>
    /// <param name="token">The token, if one is demanded.</param>
    /// <param name="timeout">For each answer.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="CheckpointEngineException">Unreachable, Timeout, Refused or ProtocolViolation.</exception>
    internal static async Task<PeerClient> ConnectLocallyAsync(string socketName, AccessToken? token, TimeSpan timeout, CancellationToken cancellationToken)
    {
        Socket socket = await ConnectLocallyAsync(LocalSocketName.ToEndPoint(socketName), socketName, cancellationToken).ConfigureAwait(false);
        var client = new PeerClient(socket, $"peer service {socketName}", timeout);
        try
        {
            client.Credentials = PeerCredentials.Of(socket);
            await client.IntroduceAsync(token, cancellationToken).ConfigureAwait(false);
            return client;
        }
        catch
        {
            client.Dispose();
            throw;
        }
    }

    private static async Task<Socket> ConnectLocallyAsync(UnixDomainSocketEndPoint endPoint, string socketName, CancellationToken cancellationToken)
    {
        for (int tries = 1; ; tries++)
        {
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            try
            {
                await socket.ConnectAsync(endPoint, cancellationToken).ConfigureAwait(false);
                return socket;
            }
            catch (SocketException full) when (full.SocketErrorCode == SocketError.WouldBlock && tries < MostConnectTries)
            {
                socket.Dispose();       // unlike TCP, a full queue of a Unix socket is told at once
                await Task.Delay(s_connectPause, cancellationToken).ConfigureAwait(false);
            }
            catch (SocketException failure)
            {
                socket.Dispose();
                throw new CheckpointEngineException(CheckpointError.Unreachable,
                    $"its Unix socket {socketName} cannot be reached from here ({failure.Message}); it must be of the same network namespace, or a path that both see (--local-socket)", failure.NativeErrorCode, failure);
            }
            catch
            {
                socket.Dispose();
                throw;
            }
        }
    }

    /// <summary>Whether the other end has ended the conversation. Never waits.</summary>
    internal bool HasEnded
    {
        get
        {
            try
            {
                return _socket.Poll(0, SelectMode.SelectRead);     // nothing comes unasked: what can be read is the end
            }
            catch (Exception broken) when (broken is SocketException or ObjectDisposedException)
            {
                return true;
            }
        }
    }

    /// <summary>Who listens at a Unix socket, by the kernel's word; nobody for TCP.</summary>
    internal PeerCredentials Credentials { get; private set; }

    /// <summary>Asks how an owner's memory can be reached on this host; over a Unix socket.</summary>
    /// <param name="address">Address in the owner's process.</param>
    /// <param name="lengthBytes">Bytes that must all lie in one range.</param>
    /// <param name="cancellationToken">Ends the wait; the conversation is of no more use then.</param>
    /// <returns>The range, and the descriptor where it has one, the caller's to dispose.</returns>
    /// <exception cref="CheckpointEngineException">What the owner answers; or ProtocolViolation, Timeout, Unreachable.</exception>
    internal async Task<(MemoryAnswer Answer, SafeFileHandle? File)> GetMemoryAsync(ulong address, ulong lengthBytes, CancellationToken cancellationToken)
    {
        byte[] request = new byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(request, address);
        BinaryPrimitives.WriteUInt64LittleEndian(request.AsSpan(8), lengthBytes);
        await _turn.WaitAsync(cancellationToken).ConfigureAwait(false);
        try
        {
            return await GuardAsync("ask for memory", token => AskForMemoryAsync(request, address, lengthBytes, token), cancellationToken).ConfigureAwait(false);
        }
        finally
        {
            _turn.Release();
        }
    }

    private async Task<(MemoryAnswer, SafeFileHandle?)> AskForMemoryAsync(byte[] request, ulong address, ulong lengthBytes, CancellationToken cancellationToken)
    {
        await SendAsync(PeerMessage.Memory, request, cancellationToken).ConfigureAwait(false);
        byte[] header = new byte[PeerFrame.HeaderBytes];
        int received;
        SafeFileHandle? file;
        do
        {
            await _socket.ReceiveAsync(Memory<byte>.Empty, cancellationToken).ConfigureAwait(false);      // returns when there is something: a plain read would drop the descriptor
            received = DescriptorPassing.Receive(_socket, header, out file);
        }
        while (received < 0);
        try
        {
            await _stream.ReadExactlyAsync(header.AsMemory(received), cancellationToken).ConfigureAwait(false);      // to the end of the stream, if nothing came
            PeerFrame frame = await InterpretHeaderAsync(header, PeerMessage.Memory, MemoryAnswer.Size, cancellationToken).ConfigureAwait(false);
            byte[] payload = await ReceivePayloadAsync(frame, cancellationToken).ConfigureAwait(false);
            if (!MemoryAnswer.TryDecode(payload, out MemoryAnswer answer) || answer.HasDescriptor != file is not null
                || address < answer.Address || lengthBytes > answer.LengthBytes || address - answer.Address > answer.LengthBytes - lengthBytes)
            {
                Violated("its memory is not what was asked for");
            }
            return (answer, file);
        }
        catch
        {
            file?.Dispose();
            throw;
        }
    }

    /// <summary>Asks for the chunk digests of tensors.</summary>
    /// <param name="tensors">Address and length of each; at most <see cref="PeerSession.MaxTensorsPerRequest"/>, of at most <see cref="PeerSession.MaxChunksPerRequest"/> chunks unless it is one.</param>
    /// <param name="cancellationToken">Ends the wait; the conversation is of no more use then.</param>
    /// <returns>The owner's generation of the checkpoint, and for each tensor its digests, one after the other, or null when the owner has none.</returns>
    internal async Task<(long Generation, byte[]?[] Digests)> GetDigestsAsync(ReadOnlyMemory<(ulong Address, long LengthBytes)> tensors, CancellationToken cancellationToken)
    {
        if (Digest == DigestAlgorithm.None)
        {
            return (0, new byte[]?[tensors.Length]);
        }
        byte[] request = new byte[4 + tensors.Length * 16];
        BinaryPrimitives.WriteInt32LittleEndian(request, tensors.Length);
        long maxBytes = 8;
        for (int i = 0; i < tensors.Length; i++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(request.AsSpan(4 + i * 16), tensors.Span[i].Address);
            BinaryPrimitives.WriteInt64LittleEndian(request.AsSpan(12 + i * 16), tensors.Span[i].LengthBytes);
            maxBytes += 4 + (long)TensorDigest.ChunkCount(tensors.Span[i].LengthBytes) * TensorDigest.MaxDigestBytes;
        }
        byte[] answer = await AskAsync(PeerMessage.Digests, request, (int)Math.Min(maxBytes, int.MaxValue), "ask for digests", cancellationToken, 1 + (int)(maxBytes / TensorDigest.MaxDigestBytes / ChunksPerTimeout)).ConfigureAwait(false);

        var digests = new byte[]?[tensors.Length];
        if (answer.Length < 8)
        {
            Violated("its digests do not match what was asked");
        }
        long generation = BinaryPrimitives.ReadInt64LittleEndian(answer);
        int at = 8;
        for (int i = 0; i < digests.Length; i++)
        {
            uint chunks = at + 4 <= answer.Length ? BinaryPrimitives.ReadUInt32LittleEndian(answer.AsSpan(at)) : 0;
            at += 4;
            if (chunks == uint.MaxValue)
            {
                continue;
            }
            long bytes = (long)chunks * Digest.DigestBytes();
            if (chunks != TensorDigest.ChunkCount(tensors.Span[i].LengthBytes) || at + bytes > answer.Length)
            {
                Violated("its digests do not match what was asked");
            }
            digests[i] = answer.AsSpan(at, (int)bytes).ToArray();
            at += (int)bytes;
        }
        if (at != answer.Length)
        {
            Violated("its digests do not match what was asked");
        }
        return (generation, digests);
    }

    /// <summary>Asks for the side files of the checkpoint that <paramref name="address"/> belongs to.</summary>
    internal async Task<IReadOnlyList<SideFile>> GetSideFilesAsync(ulong address, CancellationToken cancellationToken)
    {
        byte[] request = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(request, address);
        byte[] answer = await AskAsync(PeerMessage.SideFiles, request, (int)CheckpointFiles.MaxSideFileBytes + (1 << 20), "ask for side files", cancellationToken).ConfigureAwait(false);
        var files = new List<SideFile>();
        var reader = new SequenceReader<byte>(new ReadOnlySequence<byte>(answer));
        if (!reader.TryReadLittleEndian(out int count) || count is < 0 or > 65536)
        {
            Violated("its side files are malformed");
        }
        var names = new HashSet<string>(StringComparer.Ordinal);
        while (files.Count < count)
        {
            files.Add(TryReadSideFile(ref reader, out SideFile? file) && names.Add(file.Name) ? file : Violated<SideFile>("its side files are malformed"));
        }
        if (!reader.End)
        {
            Violated("its side files are malformed");
        }
        return files;
    }

    public void Dispose() => _stream.Dispose();

    private static bool TryReadSideFile(ref SequenceReader<byte> reader, [NotNullWhen(true)] out SideFile? file)
    {
        file = null;
        if (!reader.TryReadLittleEndian(out short nameBytes) || !reader.TryReadExact((ushort)nameBytes, out ReadOnlySequence<byte> nameUtf8)
            || !reader.TryReadLittleEndian(out int bytes) || bytes < 0 || !reader.TryReadExact(bytes, out ReadOnlySequence<byte> content))
        {
            return false;
        }
        // The name becomes a file's: a plain one, of a kind that belongs to a checkpoint, and no weights.
        string name = Encoding.UTF8.GetString(nameUtf8);
        if (name.Length is 0 or > 255 || name[0] == '.' || name.Any(char.IsControl) || name.AsSpan().ContainsAny('/', '\\') || !CheckpointFiles.IsSideFile(name))
        {
            return false;
        }
        file = new SideFile(name, content.ToArray());
        return true;
    }

    private async Task IntroduceAsync(AccessToken? token, CancellationToken cancellationToken)
    {
        byte[] clientNonce = KernelRandom.GetBytes(TokenChallenge.NonceBytes);
        var hello = new PeerHello { Protocol = PeerHello.CurrentProtocol, Version = EngineVersion.Text, HostId = HostIdentity.BootId, Nonce = Convert.ToHexStringLower(clientNonce) };
        byte[] answer = await AskAsync(PeerMessage.Hello, hello.ToJson(), PeerFrame.MaxSmallBytes, "say hello", cancellationToken).ConfigureAwait(false);
        byte[] serverNonce = new byte[TokenChallenge.NonceBytes];
        Server = PeerHello.TryParse(answer, out PeerHello? told) ? told : Violated<PeerHello>("its hello is malformed");
        if (Server.Protocol < PeerHello.CurrentProtocol)
        {
            ThrowHelper.Throw(CheckpointError.NotSupported, $"{_peer} speaks version {Server.Protocol} of the conversation, which is too old; install the same release on both sides");
        }
        if (Convert.FromHexString(Server.Nonce, serverNonce, out _, out int nonceBytes) != OperationStatus.Done || nonceBytes != serverNonce.Length)
        {
            Violated("its hello is malformed");
        }
        if (!Server.TokenRequired)
        {
            _key = new(() => TokenChallenge.MakeKey([], clientNonce, serverNonce, _binding));
            return;
        }
        if (token is null)
        {
            ThrowHelper.Throw(CheckpointError.Refused, $"{_peer} demands a token; give it by --token-file or CHECKPOINT_ENGINE_TOKEN");
        }
        byte[] proof = new byte[TokenChallenge.ProofBytes];
        TokenChallenge.Prove(token.Secrets[0], TokenChallenge.Purpose.PeerService, asServer: false, clientNonce, serverNonce, _binding, proof);
        byte[] serverProof = await AskAsync(PeerMessage.Proof, proof, TokenChallenge.ProofBytes, "prove the token", cancellationToken).ConfigureAwait(false);
        if (serverProof.Length != TokenChallenge.ProofBytes
            || TokenChallenge.Check(token, TokenChallenge.Purpose.PeerService, ofServer: true, clientNonce, serverNonce, _binding, serverProof) is not byte[] secret)
        {
            ThrowHelper.Throw(CheckpointError.Refused, $"{_peer} has not proved the token: it is not the holder it should be");
            return;
        }
        _key = new(() => TokenChallenge.MakeKey(secret, clientNonce, serverNonce, _binding));
    }

    private async Task<byte[]> AskAsync(PeerMessage type, byte[] request, int maxBytes, string what, CancellationToken cancellationToken, int timeouts = 1)
    {
        await _turn.WaitAsync(cancellationToken).ConfigureAwait(false);
        try
        {
            return await GuardAsync(what, async token =>
            {
                await SendAsync(type, request, token).ConfigureAwait(false);
                PeerFrame frame = await ReceiveHeaderAsync(type, maxBytes, token).ConfigureAwait(false);
                return await ReceivePayloadAsync(frame, token).ConfigureAwait(false);
            }, cancellationToken, timeouts).ConfigureAwait(false);
        }
        finally
        {
            _turn.Release();
        }
    }

    // Turns time and breakage into the engine's errors. After either the conversation is out of step: the socket is closed.
    private async Task<T> GuardAsync<T>(string what, Func<CancellationToken, Task<T>> ask, CancellationToken cancellationToken, int timeouts = 1)
    {
        using var deadline = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        deadline.CancelAfter(_timeout * timeouts);
        try
        {
            return await ask(deadline.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            _socket.Dispose();
            throw new CheckpointEngineException(CheckpointError.Timeout, $"{what}: {_peer} did not answer within {_timeout.TotalSeconds:0.#} s");
        }
        catch (OperationCanceledException)
        {
            _socket.Dispose();
            throw;
        }
        catch (Exception failure) when (failure is IOException or SocketException or ObjectDisposedException)
        {
            _socket.Dispose();
            throw new CheckpointEngineException(CheckpointError.Unreachable, $"{what}: the connection to {_peer} broke: {failure.Message.ReplaceLineEndings(" ")}", 0, failure);
        }
    }

    private async Task SendAsync(PeerMessage type, byte[] payload, CancellationToken cancellationToken)
    {
        byte[] frame = new byte[PeerFrame.HeaderBytes + payload.Length];
        new PeerFrame(type, payload.Length).Encode(frame);
        payload.CopyTo(frame.AsSpan(PeerFrame.HeaderBytes));
        await _stream.WriteAsync(frame, cancellationToken).ConfigureAwait(false);
    }

    private async Task<PeerFrame> ReceiveHeaderAsync(PeerMessage expected, int maxBytes, CancellationToken cancellationToken)
    {
        byte[] header = new byte[PeerFrame.HeaderBytes];
        await _stream.ReadExactlyAsync(header, cancellationToken).ConfigureAwait(false);
        return await InterpretHeaderAsync(header, expected, maxBytes, cancellationToken).ConfigureAwait(false);
    }

    private async Task<PeerFrame> InterpretHeaderAsync(byte[] header, PeerMessage expected, int maxBytes, CancellationToken cancellationToken)
    {
        if (!PeerFrame.TryDecode(header, Math.Max(maxBytes, PeerFrame.MaxSmallBytes), out PeerFrame frame))
        {
            Violated($"it answers with a frame that is malformed or above {maxBytes:N0} bytes");
        }
        if (frame.Type == PeerMessage.Error)
        {
            if (frame.LengthBytes > PeerFrame.MaxSmallBytes)
            {
                Violated($"it answers with an error of {frame.LengthBytes:N0} bytes");
            }
            byte[] payload = await ReceivePayloadAsync(frame, cancellationToken).ConfigureAwait(false);
            CheckpointError error = payload.Length >= 2 && Enum.IsDefined((CheckpointError)BinaryPrimitives.ReadUInt16LittleEndian(payload))
                ? (CheckpointError)BinaryPrimitives.ReadUInt16LittleEndian(payload)
                : CheckpointError.ProtocolViolation;
            string text = payload.Length > 2 ? MessageText.Clean(Encoding.UTF8.GetString(payload.AsSpan(2)), MaxReasonChars) : "no reason";
            throw new CheckpointEngineException(error, $"{_peer} answers: {text}");
        }
        if (frame.Type != expected || frame.LengthBytes > maxBytes)
        {
            Violated($"it answers {expected} with message {(ushort)frame.Type} of {frame.LengthBytes:N0} bytes");
        }
        return frame;
    }

    private async Task<byte[]> ReceivePayloadAsync(PeerFrame frame, CancellationToken cancellationToken)
    {
        // A length is a claim: memory grows with what has come.
        byte[] payload = GC.AllocateUninitializedArray<byte>(Math.Min(frame.LengthBytes, PeerFrame.MaxSmallBytes));
        await _stream.ReadExactlyAsync(payload, cancellationToken).ConfigureAwait(false);
        while (payload.Length < frame.LengthBytes)
        {
            int had = payload.Length;
            Array.Resize(ref payload, (int)Math.Min(frame.LengthBytes, had * 2L));
            await _stream.ReadExactlyAsync(payload.AsMemory(had), cancellationToken).ConfigureAwait(false);
        }
        return payload;
    }

    [DoesNotReturn]
    private T Violated<T>(string reason)
    {
        Violated(reason);
        return default;
    }

    [DoesNotReturn]
    private void Violated(string reason)
    {
        _socket.Dispose();
        ThrowHelper.Throw(CheckpointError.ProtocolViolation, $"{_peer} breaks the protocol: {reason}");
    }
}
