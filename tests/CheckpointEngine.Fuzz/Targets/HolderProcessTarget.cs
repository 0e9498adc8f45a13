using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using System.Numerics;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Fuzz.Support;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>One port of a whole process: after every conversation it lives and answers after its health, and it does not grow.</summary>
internal abstract class HolderProcessTarget : FuzzTarget
{
    private const int InputsBetweenSizes = 512;

    // An answer that takes longer is one that waits for something.
    private const int AnswerMs = 50;

    private HolderProcess? _holder;
    private int _inputs;

    internal override string? WhyNot => HolderProcess.Command is null ? "there is no artifacts/bin/checkpoint-engine; ./build.sh build makes it" : null;

    internal override string Run(byte[] input)
    {
        _holder ??= new HolderProcess();
        string outcome;
        using (var client = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true, ReceiveTimeout = AnswerMs })
        {
            client.Connect(PortOf(_holder));
            outcome = Converse(client, _holder, input);
        }
        _holder.CheckLives();
        if (++_inputs % InputsBetweenSizes == 0)
        {
            _holder.CheckSize();
        }
        return outcome;
    }

    public override void Dispose()
    {
        _holder?.Dispose();
        base.Dispose();
    }

    private protected abstract IPEndPoint PortOf(HolderProcess holder);

    // What it was taken for.
    private protected virtual string Converse(Socket client, HolderProcess holder, byte[] input) => Classify(Exchange(client, input));

    private protected virtual string Classify(byte[] answer) => $"answers {BitOperations.Log2((uint)answer.Length + 1)}";

    private protected static byte[] Exchange(Socket client, ReadOnlySpan<byte> bytes)
    {
        PeerBytes.Send(client, bytes);
        try
        {
            client.Shutdown(SocketShutdown.Send);
        }
        catch (SocketException)
        {
            // The holder has closed already.
        }
        return PeerBytes.ReceiveToEnd(client);
    }
}

/// <summary>Requests to the HTTP port.</summary>
internal sealed class HttpProcessTarget : HolderProcessTarget
{
    internal override string Name => "process-http";

    internal override string Folder => "http";

    internal override IReadOnlyList<byte[]> Tokens { get; } = Support.Tokens.Json(
        "GET ", "POST ", "HEAD ", "DELETE ", "OPTIONS ", " HTTP/1.1\r\n", " HTTP/1.0\r\n", "\r\n", "\r\n\r\n", "Host: a\r\n", "Content-Length: ", "Transfer-Encoding: chunked\r\n", "Content-Encoding: gzip\r\n", "Content-Encoding: br\r\n",
        "Content-Type: application/json\r\n", "Accept: application/json\r\n", "Accept-Encoding: br, gzip\r\n", "Authorization: Bearer x\r\n", "Authorization: Basic Og==\r\n", "If-None-Match: *\r\n", "Expect: 100-continue\r\n", "Connection: close\r\n",
        "Upgrade: h2c\r\n", "Range: bytes=0-\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "/v1/metas", "/v1/checkpoints/fuzz/metas", "/v1/checkpoints/fuzz", "/load-metas", "/gather-metas", "/side-files", "/files", "/metrics", "/v1/healthz",
        "?wait=0", "?wait=60", "?scope=local", "?checkpoint=fuzz", "?force=true", "%2F", "%00", "%", "..", "//", "0\r\n\r\n", "ffffffffffffffff\r\n");

    private protected override IPEndPoint PortOf(HolderProcess holder) => holder.Http;

    private protected override string Classify(byte[] answer)
    {
        const int StatusLine = 12;      // HTTP/1.1 200
        string status = Encoding.ASCII.GetString(answer.AsSpan(0, Math.Min(answer.Length, StatusLine)));
        Check(!status.EndsWith(" 500", StringComparison.Ordinal), $"an error of the server's own: {Encoding.UTF8.GetString(answer)}");
        return $"{status} {base.Classify(answer)}";
    }
}

/// <summary>Conversations with the peer service; the first byte of an input as in <see cref="PeerSessionTarget"/>, but for the token.</summary>
internal sealed class PeersProcessTarget : HolderProcessTarget
{
    private const int HonestStart = 2;

    internal override string Name => "process-peers";

    internal override string Folder => "peer-session";

    internal override IReadOnlyList<byte[]> Tokens { get; } = [.. Support.Tokens.Json(PeerBytes.Words), PeerBytes.Frame(PeerMessage.Metas, "fuzz"u8)];

    internal override byte[] Mutate(Mutator mutator, byte[] input) => PeerBytes.Mutate(mutator, input);

    private protected override IPEndPoint PortOf(HolderProcess holder) => holder.Peers;

    private protected override string Converse(Socket client, HolderProcess holder, byte[] input)
    {
        if (input.Length != 0 && (input[0] & HonestStart) != 0)
        {
            PeerBytes.Send(client, PeerBytes.Hello(new byte[TokenChallenge.NonceBytes], tokenRequired: false, "none"));
            client.ReceiveTimeout = 0;
            Check(PeerBytes.Receive(client) is not null, "an honest hello is not answered");
        }
        return Classify(Exchange(client, input.AsSpan(Math.Min(1, input.Length))));
    }
}

/// <summary>Reads of the data port; the first byte of an input has no meaning here, and addresses of <see cref="TcpDataTarget"/> are turned into the holder's.</summary>
internal sealed class DataProcessTarget : HolderProcessTarget
{
    private const ulong Base = 0x2000_0000_0000;

    internal override string Name => "process-data";

    internal override string Folder => "tcp-data";

    internal override int MaxInputBytes => 1 << 13;

    private protected override IPEndPoint PortOf(HolderProcess holder) => holder.Data;

    private protected override string Converse(Socket client, HolderProcess holder, byte[] input)
    {
        byte[] bytes = input[Math.Min(1, input.Length)..];
        for (int at = sizeof(ulong); at + sizeof(ulong) < bytes.Length; at += Transfer.Tcp.DataHeader.Size)
        {
            Span<byte> field = bytes.AsSpan(at, sizeof(ulong));
            ulong address = BinaryPrimitives.ReadUInt64LittleEndian(field);
            if (address - Base < HolderProcess.Bytes)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(field, address - Base + holder.Address);
            }
        }
        return Classify(Exchange(client, bytes));
    }
}

/// <summary>Frames to the handshake port.</summary>
internal sealed class HandshakeProcessTarget : HolderProcessTarget
{
    internal override string Name => "process-handshake";

    internal override string Folder => "handshake";

    internal override string SeedPattern => "frame-*";

    internal override IReadOnlyList<byte[]> Tokens { get; } = Support.Tokens.Json("\"name\":", "\"protocol\":\"tcp\"", "\"protocol\":\"rdma\"", "\u0001\0\0\0\0\0\0\0", "\0", "\u0001", "\u0002", "\u0003", "\u0004");

    internal override byte[] Mutate(Mutator mutator, byte[] input)
    {
        byte[] mutated = mutator.Mutate(input);
        if (mutated.Length > HandshakeFrame.HeaderBytes && !mutator.Chance(4))
        {
            BinaryPrimitives.WriteInt64LittleEndian(mutated, mutated.Length - sizeof(long));
        }
        return mutated;
    }

    private protected override IPEndPoint PortOf(HolderProcess holder) => holder.Handshake;
}
