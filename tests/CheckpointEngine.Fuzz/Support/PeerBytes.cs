using System.Buffers.Binary;
using System.Net.Sockets;
using CheckpointEngine.Peers;

namespace CheckpointEngine.Fuzz.Support;

/// <summary>Frames of the peer conversation, as inputs consist of them and as an honest side sends them.</summary>
internal static class PeerBytes
{
    internal static readonly string[] Words =
        ["\"protocol\":2", "\"nonce\":\"", "\"nonce\":null", "\"digest\":null", "\"digest\":\"xxh3\"", "\"digest\":\"sha256\"", "\"token_required\":true", "\"version\":null", "\"host_id\":null", new string('0', 64), "fuzz", "config.json"];

    internal static byte[] Frame(PeerMessage type, ReadOnlySpan<byte> payload)
    {
        byte[] frame = new byte[PeerFrame.HeaderBytes + payload.Length];
        new PeerFrame(type, payload.Length).Encode(frame);
        payload.CopyTo(frame.AsSpan(PeerFrame.HeaderBytes));
        return frame;
    }

    internal static byte[] Hello(ReadOnlySpan<byte> nonce, bool tokenRequired, string digest)
        => Frame(PeerMessage.Hello, (new PeerHello { Protocol = PeerHello.CurrentProtocol, Version = "fuzz", HostId = "fuzz", Nonce = Convert.ToHexStringLower(nonce), TokenRequired = tokenRequired, Digest = digest }).ToJson());

    /// <summary>Receives the payload of one frame; null when the other side ends before.</summary>
    internal static byte[]? Receive(Socket socket)
    {
        byte[] header = new byte[PeerFrame.HeaderBytes];
        if (!ReceiveExactly(socket, header) || !PeerFrame.TryDecode(header, PeerFrame.MaxSmallBytes, out PeerFrame frame))
        {
            return null;
        }
        byte[] payload = new byte[frame.LengthBytes];
        return ReceiveExactly(socket, payload) ? payload : null;
    }

    /// <summary>The nonce in the payload of a hello.</summary>
    internal static byte[] NonceOf(byte[] hello) => Convert.FromHexString(PeerHello.TryParse(hello, out PeerHello? parsed) ? parsed.Nonce : throw new FindingException("its own hello is not read"));

    /// <summary>Receives until the other side ends, in order or not.</summary>
    internal static byte[] ReceiveToEnd(Socket socket)
    {
        var received = new MemoryStream();
        byte[] buffer = new byte[1 << 16];
        while (true)
        {
            int count = socket.Receive(buffer, SocketFlags.None, out SocketError error);
            if (count == 0 || error != SocketError.Success)
            {
                return received.ToArray();
            }
            received.Write(buffer, 0, count);
        }
    }

    /// <summary>Sends as much as the other side takes.</summary>
    internal static void Send(Socket socket, ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            int sent = socket.Send(bytes, SocketFlags.None, out SocketError error);
            if (error != SocketError.Success)
            {
                return;
            }
            bytes = bytes[sent..];
        }
    }

    /// <summary>Changes an input of one byte of flags and a run of frames: mostly the payload or type of one frame, with its length put right, or the order of frames.</summary>
    internal static byte[] Mutate(Mutator mutator, byte[] input)
    {
        if (input.Length == 0 || mutator.Chance(4))
        {
            return mutator.Mutate(input);
        }
        List<byte[]> frames = Split(input.AsSpan(1));
        int at = mutator.Next(frames.Count);
        switch (mutator.Next(8))
        {
            case 0:
                frames.Insert(mutator.Next(frames.Count + 1), frames[at]);
                break;
            case 1:
                frames.RemoveAt(at);
                break;
            case 2:
                frames.InsertRange(at, Split(mutator.Pick() is { Length: > 0 } other ? other.AsSpan(1) : default));
                break;
            default:
                byte[] payload = frames[at].Length > PeerFrame.HeaderBytes ? mutator.Mutate(frames[at].AsSpan(PeerFrame.HeaderBytes)) : mutator.Mutate(default);
                ushort type = mutator.Chance(6) || frames[at].Length < PeerFrame.HeaderBytes ? (ushort)mutator.Next((int)PeerMessage.Rdma + 1) : BinaryPrimitives.ReadUInt16LittleEndian(frames[at].AsSpan(4));
                frames[at] = Frame((PeerMessage)type, payload);
                break;
        }
        byte flags = mutator.Chance(4) ? (byte)mutator.Next(256) : input[0];
        byte[] mutated = [flags, .. frames.SelectMany(frame => frame)];
        return mutated.Length <= 1 << 16 ? mutated : mutated[..(1 << 16)];
    }

    // The last piece may be no whole frame.
    private static List<byte[]> Split(ReadOnlySpan<byte> bytes)
    {
        var frames = new List<byte[]>();
        while (bytes.Length >= PeerFrame.HeaderBytes && PeerFrame.TryDecode(bytes, bytes.Length - PeerFrame.HeaderBytes, out PeerFrame frame))
        {
            frames.Add(bytes[..(PeerFrame.HeaderBytes + frame.LengthBytes)].ToArray());
            bytes = bytes[(PeerFrame.HeaderBytes + frame.LengthBytes)..];
        }
        if (!bytes.IsEmpty || frames.Count == 0)
        {
            frames.Add(bytes.ToArray());
        }
        return frames;
    }

    private static bool ReceiveExactly(Socket socket, Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            int count = socket.Receive(destination, SocketFlags.None, out SocketError error);
            if (count == 0 || error != SocketError.Success)
            {
                return false;
            }
            destination = destination[count..];
        }
        return true;
    }
}
