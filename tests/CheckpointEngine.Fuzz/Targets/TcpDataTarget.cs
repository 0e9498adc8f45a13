using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Fuzz.Support;
using CheckpointEngine.Interop;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Tcp;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>
/// Bytes on the data port, as a whole connection over loopback: what comes back is, byte for byte, what a model of the protocol says. The first
/// byte of an input: 1 the port demands a token, 2 it is proved honestly first, 4 the bytes come in two parts, 8 the client resets at once.
/// </summary>
internal sealed unsafe class TcpDataTarget : FuzzTarget
{
    private const int DemandsToken = 1;
    private const int Proves = 2;
    private const int InParts = 4;
    private const int Resets = 8;

    // Memory at a place that inputs can name: two ranges that touch, a gap, a short one.
    private const ulong Base = 0x2000_0000_0000;
    private const int MappedBytes = 16 << 10;
    private const int MapFixedNoReplace = 0x100000;    // Linux 4.17, <asm-generic/mman-common.h>
    private static readonly (ulong Address, ulong LengthBytes)[] s_ranges = [(Base, 4096), (Base + 4096, 512), (Base + 8192, 100)];

    private readonly AccessToken _token = AccessToken.FromText("fuzz");
    private readonly FailureLog _log = new();
    private readonly MemoryRegistry _registry = new();
    private readonly List<RegisteredRange> _registered = [];
    private readonly MemoryBuffer _memory;
    private readonly TcpDataListener _open;
    private readonly TcpDataListener _guarded;

    internal TcpDataTarget()
    {
        void* mapped = Libc.mmap((void*)Base, MappedBytes, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS | MapFixedNoReplace, -1, 0);
        if (mapped != (void*)Base)
        {
            throw new InvalidOperationException($"no memory at 0x{Base:x}");
        }
        new Random(1).NextBytes(new Span<byte>(mapped, MappedBytes));
        _memory = MemoryBuffer.Borrow(unchecked((nint)Base), MappedBytes);
        foreach ((ulong address, ulong lengthBytes) in s_ranges)
        {
            _registered.Add(_registry.Register(_memory, address, lengthBytes));
        }
        _open = new TcpDataListener(new IPEndPoint(IPAddress.Loopback, 0), _registry, new TcpDataListenerOptions(), _log);
        _guarded = new TcpDataListener(new IPEndPoint(IPAddress.Loopback, 0), _registry, new TcpDataListenerOptions { Token = _token, PlainPeers = PlainPeers.None }, _log);
    }

    internal override string Name => "tcp-data";

    internal override bool UsesOtherThreads => true;

    internal override int AllocationPerInputByte => 1024;    // what is read is kept here to be compared

    internal override int MaxInputBytes => 1 << 13;

    internal override IReadOnlyList<byte[]> Tokens { get; } =
    [
        Header(1, Base, 0), Header(4096, Base, 0x80), Header(4096, Base + 1, 0x80), Header(512, Base + 4096, 0x85), Header(100, Base + 8192, 0x80), Header(8, Base, 0x81), Header(32, 0, 0xC3),
        Header(ulong.MaxValue, Base, 0x80), Header(2, ulong.MaxValue, 0x80), Header(0, Base, 0x80), Header(4608, Base, 0x80), [0x80], [0, 0, 0, 0, 0, 0x20], new byte[32],
    ];

    internal override string Run(byte[] input)
    {
        int flags = input.Length == 0 ? 0 : input[0];
        byte[] bytes = input[Math.Min(1, input.Length)..];
        using var client = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        client.Connect(((flags & DemandsToken) != 0 ? _guarded : _open).LocalEndPoint);
        bool proved = (flags & (DemandsToken | Proves)) == (DemandsToken | Proves);
        if (proved)
        {
            Prove(client);
        }
        if ((flags & InParts) != 0 && bytes.Length > 1)
        {
            PeerBytes.Send(client, bytes.AsSpan(0, bytes.Length / 2));
            Thread.Yield();
            PeerBytes.Send(client, bytes.AsSpan(bytes.Length / 2));
        }
        else
        {
            PeerBytes.Send(client, bytes);
        }
        if ((flags & Resets) != 0)
        {
            client.LingerState = new LingerOption(true, 0);
            client.Close();
            return CheckListeners("reset");
        }
        EndSending(client);
        byte[] answer = PeerBytes.ReceiveToEnd(client);
        if ((flags & DemandsToken) != 0 && !proved)
        {
            // A status; or the answer to a challenge, and the status of a proof that cannot be right.
            Check(answer.Length <= DataHeader.StatusSize + DataHeader.LineStatusSize + TokenChallenge.NonceBytes + TokenChallenge.ProofBytes, $"{answer.Length:N0} bytes without a proof");
            return CheckListeners($"unproved {answer.Length}");
        }
        (byte[] expected, string how) = Model(bytes, stopsAtChallenge: proved);
        // Where bytes of the client's were left unread, its answer may be cut short by a reset.
        Check(expected.AsSpan().StartsWith(answer) || (how == "challenge" && answer.AsSpan().StartsWith(expected)), $"{answer.Length:N0} bytes of answer differ from the {expected.Length:N0} expected");
        Check(answer.Length >= expected.Length || how == "refused", $"{answer.Length:N0} bytes of answer instead of {expected.Length:N0}");
        return CheckListeners($"{how} {Math.Min(answer.Length, 100) / 20}");
    }

    public override void Dispose()
    {
        _open.DisposeAsync().AsTask().GetAwaiter().GetResult();
        _guarded.DisposeAsync().AsTask().GetAwaiter().GetResult();
        _memory.Dispose();
        _ = Libc.munmap((void*)Base, MappedBytes);
        base.Dispose();
    }

    private static byte[] Header(ulong lengthBytes, ulong address, byte opcode)
    {
        byte[] header = new byte[DataHeader.Size];
        new DataHeader(lengthBytes, address, opcode).Encode(header);
        return header;
    }

    // Written from the description of the protocol (mooncake-wire 6), not from the listener: every opcode but WRITE is a read.
    private static (byte[] Answer, string How) Model(ReadOnlySpan<byte> bytes, bool stopsAtChallenge)
    {
        var answer = new MemoryStream();
        Span<byte> status = stackalloc byte[64];
        for (; bytes.Length >= DataHeader.Size; bytes = bytes[DataHeader.Size..])
        {
            ulong lengthBytes = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
            ulong address = BinaryPrimitives.ReadUInt64LittleEndian(bytes[8..]);
            int operation = bytes[16] & 0x7f;
            bool withStatus = bytes[16] >= 0x80;
            if (stopsAtChallenge && operation == DataHeader.Challenge)
            {
                return (answer.ToArray(), "challenge");
            }
            bool readable = operation != 1 && lengthBytes != 0
                && Array.Exists(s_ranges, range => (UInt128)address >= range.Address && (UInt128)address + lengthBytes <= (UInt128)range.Address + range.LengthBytes);
            if (withStatus)
            {
                status.Clear();
                BinaryPrimitives.WriteUInt64LittleEndian(status, 0x4D43_5456_0000_0000 | (readable ? 0UL : 1));
                answer.Write(status[..(operation == 0x52 ? 64 : 8)]);      // between our own: a cache line
            }
            if (!readable)
            {
                return (answer.ToArray(), "refused");
            }
            answer.Write(new ReadOnlySpan<byte>((void*)address, (int)lengthBytes));
        }
        return (answer.ToArray(), "served");
    }

    private void Prove(Socket client)
    {
        byte[] nonce = new byte[TokenChallenge.NonceBytes];
        PeerBytes.Send(client, [.. Header(TokenChallenge.NonceBytes, 0, DataHeader.Challenge | DataHeader.Acknowledged), .. nonce]);
        byte[] answer = ReceiveExactly(client, DataHeader.StatusSize + TokenChallenge.NonceBytes + TokenChallenge.ProofBytes);
        byte[] proof = new byte[TokenChallenge.ProofBytes];
        TokenChallenge.Prove(_token.Secrets[0], TokenChallenge.Purpose.TcpLane, asServer: false, nonce, answer.AsSpan(DataHeader.StatusSize, TokenChallenge.NonceBytes), [], proof);
        PeerBytes.Send(client, proof);
        Check(BinaryPrimitives.ReadUInt64LittleEndian(ReceiveExactly(client, DataHeader.StatusSize)) == DataHeader.StatusOk, "an honest proof is refused");
    }

    private static byte[] ReceiveExactly(Socket client, int count)
    {
        byte[] bytes = new byte[count];
        for (int at = 0; at < count;)
        {
            int received = client.Receive(bytes, at, count - at, SocketFlags.None, out _);
            Check(received != 0, "an honest challenge is not answered");
            at += received;
        }
        return bytes;
    }

    private static void EndSending(Socket client)
    {
        try
        {
            client.Shutdown(SocketShutdown.Send);
        }
        catch (SocketException)
        {
            // The listener has closed already.
        }
    }

    private string CheckListeners(string outcome)
    {
        if (_log.Take() is { } failure)
        {
            throw new FindingException($"a connection failed: {failure}");
        }
        return outcome;
    }
}
