using System.Net.Sockets;
using CheckpointEngine.Access;
using CheckpointEngine.Fuzz.Support;
using CheckpointEngine.Peers;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>
/// What a client may send to the peer service, as a whole conversation over a Unix socket. The first byte of an input: 1 the service demands a
/// token, 2 an honest hello (and proof) comes first, 4 the bytes come in two parts.
/// </summary>
internal sealed class PeerSessionTarget : FuzzTarget
{
    private const int DemandsToken = 1;
    private const int HonestStart = 2;
    private const int InParts = 4;

    // Who has asked for an offer may wait for more of it, which never comes.
    private static readonly TimeSpan s_offerTime = TimeSpan.FromMilliseconds(50);

    private readonly FuzzedHolder _holder = new();
    private readonly AccessToken _token = AccessToken.FromText("fuzz");
    private readonly Socket _listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly UnixDomainSocketEndPoint _endPoint = new($"\0checkpoint-engine-fuzz-{Environment.ProcessId}-{Guid.NewGuid():n}");

    internal PeerSessionTarget()
    {
        _listener.Bind(_endPoint);
        _listener.Listen(16);
    }

    internal override string Name => "peer-session";

    internal override bool UsesOtherThreads => true;

    internal override int AllocationPerInputByte => 1024;    // a request of 8 bytes is refused by an exception and an answer with buffers of their own

    internal override IReadOnlyList<byte[]> Tokens { get; } =
    [
        .. Support.Tokens.Json(PeerBytes.Words), PeerBytes.Frame(PeerMessage.Metas, "fuzz"u8), PeerBytes.Frame(PeerMessage.SideFiles, [0, 16, 0, 0, 0, 0, 0, 0]), PeerBytes.Frame(PeerMessage.Lease, [0, 16, 0, 0, 0, 0, 0, 0]), PeerBytes.Frame(PeerMessage.Release, [0, 16, 0, 0, 0, 0, 0, 0]), PeerBytes.Frame(PeerMessage.Follow, [10, 0, 0, 0, 1, 0, 0x31, 0x66, 0x75, 0x7a, 0x7a]),
        PeerBytes.Frame(PeerMessage.Rdma, [0, 16, 0, 0, 0, 0, 0, 0]), PeerBytes.Frame(PeerMessage.Offer, [1, .. new byte[15]]), PeerBytes.Frame(PeerMessage.Have, [1, .. new byte[23]]), PeerBytes.Frame(PeerMessage.Have, [1, .. new byte[15], 2, 0, 0, 0, 16, 39, 0, 0]),
        [0, 32, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0], [0, 48, 0, 0, 0, 0, 0, 0, 1, 0, 64, 0, 0, 0, 0, 0],
    ];

    internal override byte[] Mutate(Mutator mutator, byte[] input) => PeerBytes.Mutate(mutator, input);

    internal override string Run(byte[] input)
    {
        int flags = input.Length == 0 ? 0 : input[0];
        ReadOnlySpan<byte> bytes = input.AsSpan(Math.Min(1, input.Length));
        using var client = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        client.Connect(_endPoint);
        using Socket accepted = _listener.Accept();
        Task<string> served = Task.Run(() => ServeAsync(accepted, (flags & DemandsToken) != 0 ? _token : null));
        if ((flags & HonestStart) != 0)
        {
            Introduce(client, (flags & DemandsToken) != 0);
        }
        if ((flags & InParts) != 0 && bytes.Length > 1)
        {
            PeerBytes.Send(client, bytes[..(bytes.Length / 2)]);
            Thread.Yield();
            bytes = bytes[(bytes.Length / 2)..];
        }
        PeerBytes.Send(client, bytes);
        EndSending(client);
        byte[] answer = PeerBytes.ReceiveToEnd(client);
        string ended = served.GetAwaiter().GetResult();
        Check(_holder.TakeBack(), "a tensor that was lent did not come back, or a reader of the offer did not leave");
        return $"{ended}; {CheckAnswers(answer)}";
    }

    public override void Dispose()
    {
        _listener.Dispose();
        _holder.Dispose();
        base.Dispose();
    }

    // As PeerListener: these exceptions end a conversation, any other is a defect.
    private async Task<string> ServeAsync(Socket socket, AccessToken? token)
    {
        try
        {
            using var stop = new CancellationTokenSource();
            using var session = new PeerSession(socket, _holder, token, new PeerListenerOptions());
            _holder.Offering = () => stop.CancelAfter(s_offerTime);
            await session.RunAsync(stop.Token).ConfigureAwait(false);
            return "ended";
        }
        catch (OperationCanceledException)
        {
            return "waited";
        }
        catch (CheckpointEngineException refused)
        {
            return refused.Message;
        }
        catch (Exception failure) when (failure is SocketException or IOException)
        {
            return "broke";
        }
        finally
        {
            socket.Dispose();
        }
    }

    private void Introduce(Socket client, bool proves)
    {
        byte[] nonce = new byte[TokenChallenge.NonceBytes];
        PeerBytes.Send(client, PeerBytes.Hello(nonce, tokenRequired: false, "none"));
        byte[] hello = PeerBytes.Receive(client) ?? throw new FindingException("an honest hello is not answered");
        if (proves)
        {
            byte[] proof = new byte[TokenChallenge.ProofBytes];
            TokenChallenge.Prove(_token.Secrets[0], TokenChallenge.Purpose.PeerService, asServer: false, nonce, PeerBytes.NonceOf(hello), [], proof);
            PeerBytes.Send(client, PeerBytes.Frame(PeerMessage.Proof, proof));
            Check(PeerBytes.Receive(client) is { Length: TokenChallenge.ProofBytes }, "an honest proof is not answered");
        }
    }

    private static void EndSending(Socket client)
    {
        try
        {
            client.Shutdown(SocketShutdown.Send);
        }
        catch (SocketException)
        {
            // The other side has closed already.
        }
    }

    // What comes back is whole frames of known types.
    private static string CheckAnswers(ReadOnlySpan<byte> answer)
    {
        uint types = 0;
        while (!answer.IsEmpty)
        {
            if (answer.Length < PeerFrame.HeaderBytes || !PeerFrame.TryDecode(answer, answer.Length - PeerFrame.HeaderBytes, out PeerFrame frame))
            {
                break;    // the session ended while it was writing
            }
            Check(Enum.IsDefined(frame.Type), $"an answer of type {(ushort)frame.Type}");
            types |= 1u << Math.Min((int)frame.Type, (int)PeerMessage.Have + 1);
            answer = answer[(PeerFrame.HeaderBytes + frame.LengthBytes)..];
        }
        return $"answers {types:x}";
    }
}
