using System.Buffers;
using System.Buffers.Binary;
using CheckpointEngine.Fuzz.Support;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>Frames of the handshake port and the small bodies in them: one block of memory, many segments and a part of the bytes are read alike.</summary>
internal sealed class HandshakeFrameTarget : FuzzTarget
{
    internal override string Name => "handshake-frame";

    internal override string Folder => "handshake";

    internal override string SeedPattern => "frame-*";

    internal override IReadOnlyList<byte[]> Tokens { get; } = Support.Tokens.Json(
        "\"name\":", "\"notify_msg\":", "\"status\":\"success\"", "\"protocol\":\"tcp\"", "\"protocol\":\"rdma\"", "\"\\u0070rotocol\"", "\u0001\0\0\0\0\0\0\0", "\0", "\u0001", "\u0002", "\u0003", "\u0004");

    internal override byte[] Mutate(Mutator mutator, byte[] input)
    {
        byte[] mutated = mutator.Mutate(input);
        if (mutated.Length > HandshakeFrame.HeaderBytes && !mutator.Chance(4))
        {
            BinaryPrimitives.WriteInt64LittleEndian(mutated, mutated.Length - sizeof(long));
        }
        return mutated;
    }

    internal override string Run(byte[] input)
    {
        string whole = ReadAll(new ReadOnlySequence<byte>(input), input);
        string segmented = ReadAll(Segment.Split(input), input);
        Check(whole == segmented, $"in one block: {whole}; in segments: {segmented}");
        return whole;
    }

    private static string ReadAll(ReadOnlySequence<byte> buffer, ReadOnlySpan<byte> input)
    {
        var outcome = new List<string>();
        try
        {
            while (outcome.Count < 100)
            {
                long start = input.Length - buffer.Length;
                if (!HandshakeFrame.TryRead(ref buffer, HandshakeFrame.DefaultMaxLength, out MessageType type, out bool oldForm, out ReadOnlySequence<byte> body))
                {
                    outcome.Add("more");
                    break;
                }
                int end = (int)(input.Length - buffer.Length);
                CheckPart(input[(int)start..(end - 1)]);
                CheckWritten(input[(int)start..end], type, oldForm, body);
                outcome.Add($"{type} {oldForm} {ReadBody(type, body)}");
            }
        }
        catch (CheckpointEngineException refused)
        {
            outcome.Add(refused.Error.ToString());
        }
        return string.Join("; ", outcome.Take(4));
    }

    private static void CheckPart(ReadOnlySpan<byte> frame)
    {
        var part = new ReadOnlySequence<byte>(frame.ToArray());
        Check(!HandshakeFrame.TryRead(ref part, HandshakeFrame.DefaultMaxLength, out _, out _, out _), "a frame without its last byte is read");
    }

    private static void CheckWritten(ReadOnlySpan<byte> frame, MessageType type, bool oldForm, ReadOnlySequence<byte> body)
    {
        byte[] written = new byte[HandshakeFrame.GetHeaderBytes(oldForm) + body.Length];
        HandshakeFrame.WriteHeader(written, type, oldForm, (int)body.Length);
        body.CopyTo(written.AsSpan(HandshakeFrame.GetHeaderBytes(oldForm)));
        CheckSame(frame, written, "a frame as read and as written");
    }

    private static string ReadBody(MessageType type, ReadOnlySequence<byte> body)
    {
        try
        {
            switch (type)
            {
                case MessageType.Metadata:
                    return HandshakeBodies.ReadAskerProtocol(body) ?? "none";
                case MessageType.Notify:
                    (string name, string message) = HandshakeBodies.ReadNotify(body);
                    var written = new ArrayBufferWriter<byte>();
                    HandshakeBodies.WriteNotify(written, name, message);
                    Check(HandshakeBodies.ReadNotify(new ReadOnlySequence<byte>(written.WrittenMemory)) == (name, message), "a notification is another once written");
                    return "notification";
                case MessageType.Probe:
                    return HandshakeBodies.ReadProbeStatus(body).Length != 0 ? "status" : "none";
                default:
                    HandshakeBodies.CheckObject(body);
                    return "object";
            }
        }
        catch (CheckpointEngineException refused)
        {
            return refused.Error.ToString();
        }
    }

    private sealed class Segment : ReadOnlySequenceSegment<byte>
    {
        // Lengths 1, 2, 3, 5, 9, ...: every field of a header is split somewhere.
        internal static ReadOnlySequence<byte> Split(byte[] bytes)
        {
            Segment? first = null, last = null;
            int at = 0, length = 1;
            do
            {
                int taken = Math.Min(length, bytes.Length - at);
                var next = new Segment { Memory = bytes.AsMemory(at, taken), RunningIndex = at };
                if (last is not null)
                {
                    last.Next = next;
                }
                first ??= next;
                last = next;
                at += taken;
                length += Math.Max(1, length / 2);
            }
            while (at < bytes.Length);
            return new ReadOnlySequence<byte>(first, 0, last, last.Memory.Length);
        }
    }
}
