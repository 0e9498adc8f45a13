using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Fuzz.Support;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Relay;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Rdma;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>
/// What a hostile server may answer to a <see cref="PeerClient"/>. The first byte of an input: 1 the client has a token, 2 an honest hello (and
/// proof) comes first, 4 the hello announces SHA-256, 8 what is asked comes in the reverse order, 16 the questions
/// are those of the joiners of a swarm, 32 what is asked is how memory is read over RDMA.
/// </summary>
internal sealed class PeerClientTarget : FuzzTarget
{
    private const int HasToken = 1;
    private const int HonestStart = 2;
    private const int AnnouncesSha256 = 4;
    private const int Reverse = 8;
    private const int AsksOfSwarm = 16;
    private const int AsksForRdma = 32;

    private const int Units = 4;

    private static readonly TimeSpan s_timeout = TimeSpan.FromSeconds(30);
    private static readonly (ulong Address, long LengthBytes)[] s_tensors = [(0x1000, 8), (0x2000, 0), (0x3000, TensorDigest.ChunkBytes + 1)];

    private readonly AccessToken _token = AccessToken.FromText("fuzz");
    private readonly Socket _listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
    private readonly EndpointName _target;

    internal PeerClientTarget()
    {
        _listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        _listener.Listen(16);
        _target = EndpointName.FromEndPoint((IPEndPoint)_listener.LocalEndPoint!);
    }

    internal override string Name => "peer-client";

    internal override bool UsesOtherThreads => true;

    internal override IReadOnlyList<byte[]> Tokens { get; } =
        [.. Support.Tokens.Json(PeerBytes.Words), PeerBytes.Frame((PeerMessage)0xffff, [1, 0, (byte)'x', 10]), [1, 0, 0, 0], [0xff, 0xff, 0xff, 0xff], "\u0007\0a/b.txt"u8.ToArray(), "\u0005\0a.txt"u8.ToArray()];

    internal override byte[] Mutate(Mutator mutator, byte[] input) => PeerBytes.Mutate(mutator, input);

    internal override string Run(byte[] input)
    {
        int flags = input.Length == 0 ? 0 : input[0];
        Task server = Task.Run(() => Serve(flags, input.AsSpan(Math.Min(1, input.Length))));
        string outcome;
        try
        {
            outcome = AskAsync(flags).GetAwaiter().GetResult();
        }
        catch (CheckpointEngineException refused) when (refused.Message.Contains(" answers: ", StringComparison.Ordinal) && !refused.Message.Any(char.IsControl))
        {
            outcome = refused.Error.ToString();    // the peer's own words would make every one a new outcome
        }
        finally
        {
            server.GetAwaiter().GetResult();
        }
        return outcome;
    }

    public override void Dispose()
    {
        _listener.Dispose();
        base.Dispose();
    }

    private async Task<string> AskAsync(int flags)
    {
        using PeerClient client = await PeerClient.ConnectAsync(_target, (flags & HasToken) != 0 ? _token : null, s_timeout, CancellationToken.None).ConfigureAwait(false);
        Func<Task<string>>[] questions = (flags & AsksForRdma) != 0 ? [() => AskRdmaAsync(client)] : (flags & AsksOfSwarm) != 0
            ? [() => AskSwarmAsync(client), () => AskOfferAsync(client), () => AskHaveAsync(client)]
            : [() => AskMetasAsync(client), () => AskDigestsAsync(client), () => AskSideFilesAsync(client)];
        var outcome = new List<string>();
        foreach (Func<Task<string>> question in (flags & Reverse) != 0 ? questions.Reverse() : questions)
        {
            try
            {
                outcome.Add(await question().ConfigureAwait(false));
            }
            catch (CheckpointEngineException refused)
            {
                Check(!refused.Message.Any(char.IsControl), $"a control character in a message: {refused.Message}");
                outcome.Add(refused.Error.ToString());
            }
        }
        return string.Join(", ", outcome);
    }

    private static async Task<string> AskMetasAsync(PeerClient client)
    {
        CheckpointMetas metas = await client.GetMetasAsync("fuzz", 1 << 20, CancellationToken.None).ConfigureAwait(false);
        return MetasChecks.Describe(metas);
    }

    private static async Task<string> AskDigestsAsync(PeerClient client)
    {
        (_, byte[]?[] digests) = await client.GetDigestsAsync(s_tensors, CancellationToken.None).ConfigureAwait(false);
        for (int tensor = 0; tensor < digests.Length; tensor++)
        {
            Check(digests[tensor] is not { } chunks || chunks.Length == TensorDigest.ChunkCount(s_tensors[tensor].LengthBytes) * client.Digest.DigestBytes(), $"tensor {tensor} has digests of another length");
        }
        return $"digests of {digests.Count(chunks => chunks is not null)}";
    }

    private static async Task<string> AskSideFilesAsync(PeerClient client)
    {
        IReadOnlyList<SideFile> files = await client.GetSideFilesAsync(0x1000, CancellationToken.None).ConfigureAwait(false);
        foreach (SideFile file in files)
        {
            Check(Path.GetFileName(file.Name) == file.Name && file.Name is not ("." or "..") && !file.Name.Any(char.IsControl), "a side file whose name is no plain file's");
        }
        Check(files.DistinctBy(file => file.Name).Count() == files.Count, "two side files of one name");
        return $"{Math.Min(files.Count, 3)} files";
    }

    private static async Task<string> AskSwarmAsync(PeerClient client)
    {
        SwarmAnswer answer = await client.AskSwarmAsync(new SwarmRequest(0x1000, 1, Units, 0, 0, 4, 4, 0, 0, []), CancellationToken.None).ConfigureAwait(false);
        Check(Array.TrueForAll(answer.Given ?? [], static unit => unit is >= 0 and < Units), "it is given a unit that is none");
        return $"{Math.Min(answer.Given?.Length ?? 0, 2)} given, {Math.Min(answer.Members?.Length ?? 0, 2)} members, key {answer.Key is not null}";
    }

    private static async Task<string> AskOfferAsync(PeerClient client)
    {
        ulong[] addresses = await client.GetOfferAsync(1, Units, CancellationToken.None).ConfigureAwait(false);
        Check(addresses.Length == Units, $"{addresses.Length} addresses of {Units} units");
        return $"{addresses.Count(static address => address != 0)} offered";
    }

    private static async Task<string> AskRdmaAsync(PeerClient client)
    {
        (RdmaKey key, SegmentDescriptor descriptor) = await client.GetRdmaAsync(0x1000, 1 << 20, CancellationToken.None).ConfigureAwait(false);
        Check(key.Secret.Length == 32, $"a key of {key.Secret.Length} bytes");
        return $"rdma: {descriptor.Protocol.Length != 0}, {Math.Min(descriptor.Buffers.Length, 2)} buffers, {Math.Min(descriptor.Devices.Length, 2)} devices";
    }

    private static async Task<string> AskHaveAsync(PeerClient client)
    {
        int[] units = await client.GetHaveAsync(1, 0, TimeSpan.Zero, CancellationToken.None).ConfigureAwait(false);
        Check(units.Length <= PeerSession.MaxUnitsPerAnswer, $"{units.Length:N0} units in one answer");
        // What is told is no more than a number here: whoever takes it leaves out what is no unit.
        var board = new UnitBoard([1, 1, 1, 1], 1, new Random(0));
        int relay = board.AddRelay();
        board.RelayHas(relay, units);
        int taken = 0;
        while (board.TryTakeFrom(relay, null, out int unit))
        {
            Check(unit is >= 0 and < Units && ++taken <= Units, "a unit that is none is read, or one twice");
        }
        return $"has {taken}";
    }

    private void Serve(int flags, ReadOnlySpan<byte> bytes)
    {
        using Socket socket = _listener.Accept();
        socket.LingerState = new LingerOption(true, 0);    // a reset at the end: thousands of connections a second leave none behind
        if ((flags & HonestStart) != 0 && PeerBytes.Receive(socket) is { } hello)
        {
            byte[] nonce = new byte[TokenChallenge.NonceBytes];
            PeerBytes.Send(socket, PeerBytes.Hello(nonce, (flags & HasToken) != 0, (flags & AnnouncesSha256) != 0 ? "sha256" : "xxh3"));
            if ((flags & HasToken) != 0 && PeerBytes.Receive(socket) is not null)
            {
                byte[] proof = new byte[TokenChallenge.ProofBytes];
                TokenChallenge.Prove(_token.Secrets[0], TokenChallenge.Purpose.PeerService, asServer: true, PeerBytes.NonceOf(hello), nonce, [], proof);
                PeerBytes.Send(socket, PeerBytes.Frame(PeerMessage.Proof, proof));
            }
        }
        PeerBytes.Send(socket, bytes);
        try
        {
            socket.Shutdown(SocketShutdown.Send);
        }
        catch (SocketException)
        {
            // The client has gone already.
        }
        _ = PeerBytes.ReceiveToEnd(socket);
    }
}
