using System.Buffers;
using System.Buffers.Binary;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Transfer.Handshake;

/// <summary>
/// The frame of the handshake port, the same for request and reply: 8 bytes length (little-endian, counting all that follows), one type byte,
/// JSON text.
/// </summary>
/// <remarks>Pure; any number of threads. Source: docs/mooncake-wire.md.</remarks>
internal static class HandshakeFrame
{
    /// <summary>Bytes before the body: length and type.</summary>
    internal const int HeaderBytes = LengthBytes + 1;

    /// <summary>The longest frame (type byte and body) that a Mooncake process with default settings reads or sends, in bytes.</summary>
    internal const int DefaultMaxLength = 1024 * 1024;

    /// <summary>The longest that Mooncake's MC_HANDSHAKE_MAX_LENGTH allows, in bytes.</summary>
    internal const int LargestMaxLength = 128 * 1024 * 1024;

    /// <summary>Of the length, which comes first.</summary>
    internal const int LengthBytes = sizeof(ulong);

    /// <summary>Takes one frame off the front of <paramref name="buffer"/>.</summary>
    /// <param name="buffer">What has arrived; moved past the frame when there is one, else left alone.</param>
    /// <param name="maxLength">Most bytes that type byte and body may have, both together.</param>
    /// <param name="type">The type; <see cref="MessageType.Connection"/> in the old form.</param>
    /// <param name="oldForm">Whether the frame has no type byte; its reply then has none either.</param>
    /// <param name="body">The JSON text, part of <paramref name="buffer"/>.</param>
    /// <returns>False when more bytes are needed.</returns>
    /// <exception cref="CheckpointEngineException">
    /// <see cref="CheckpointError.ProtocolViolation"/>: length 0 or over <paramref name="maxLength"/>, or a type that nobody sends; told as
    /// soon as those bytes are there.
    /// </exception>
    internal static bool TryRead(
        ref ReadOnlySequence<byte> buffer, long maxLength, out MessageType type, out bool oldForm, out ReadOnlySequence<byte> body)
    {
        type = default;
        oldForm = false;
        body = default;
        var reader = new SequenceReader<byte>(buffer);
        if (!reader.TryReadLittleEndian(out long signedLength))
        {
            return false;
        }
        ulong length = (ulong)signedLength;
        if (length == 0 || length > (ulong)maxLength)
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation,
                $"handshake frame: a length of {length:N0} bytes, where 1 to {maxLength:N0} are read (at byte 0)");
        }
        if (!reader.TryPeek(out byte first))
        {
            return false;
        }
        if (first > sbyte.MaxValue)
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation, $"handshake frame: type 0x{first:x2} (at byte {LengthBytes})");
        }
        if ((ulong)reader.Remaining < length)
        {
            return false;
        }
        // Above the known types, the byte is taken for the first of the JSON text: the form from before there were types.
        oldForm = first > (byte)MessageType.Probe;
        type = oldForm ? MessageType.Connection : (MessageType)first;
        int bodyOffset = oldForm ? LengthBytes : HeaderBytes;
        SequencePosition end = buffer.GetPosition((long)length, reader.Position);
        body = buffer.Slice(buffer.GetPosition(bodyOffset), end);
        buffer = buffer.Slice(end);
        return true;
    }

    /// <summary>Writes a frame of the form with a type byte.</summary>
    /// <param name="output">Gets header and body.</param>
    /// <param name="type">The type.</param>
    /// <param name="body">The JSON text, with the newline at its end if it is to have one.</param>
    internal static void Write(IBufferWriter<byte> output, MessageType type, ReadOnlySpan<byte> body)
    {
        WriteHeader(output.GetSpan(HeaderBytes), type, oldForm: false, body.Length);
        output.Advance(HeaderBytes);
        output.Write(body);
    }

    /// <summary>Writes what stands before a body.</summary>
    /// <param name="destination">At least <see cref="GetHeaderBytes"/> long.</param>
    /// <param name="type">The type; not written in the old form.</param>
    /// <param name="oldForm">Without a type byte.</param>
    /// <param name="bodyBytes">Length of the body in bytes.</param>
    internal static void WriteHeader(Span<byte> destination, MessageType type, bool oldForm, int bodyBytes)
    {
        int typeBytes = oldForm ? 0 : 1;
        BinaryPrimitives.WriteUInt64LittleEndian(destination, (ulong)bodyBytes + (ulong)typeBytes);
        if (!oldForm)
        {
            destination[LengthBytes] = (byte)type;
        }
    }

    /// <summary>Bytes before the body of a frame of that form.</summary>
    internal static int GetHeaderBytes(bool oldForm) => oldForm ? LengthBytes : HeaderBytes;
}
