using System.Buffers;
using System.Buffers.Binary;
using CheckpointEngine.Transfer.Handshake;
using CsCheck;

namespace CheckpointEngine.Tests;

public class HandshakeFrameTests
{
    [Fact]
    public void TryRead_TwoFramesInOneByteSegments_GivesBothInOrder()
    {
        var output = new ArrayBufferWriter<byte>();
        HandshakeFrame.Write(output, MessageType.Metadata, "{\"a\":1}"u8);
        HandshakeFrame.Write(output, MessageType.Probe, "{}\n"u8);
        ReadOnlySequence<byte> buffer = OneByteSegments(output.WrittenSpan);

        Assert.True(HandshakeFrame.TryRead(ref buffer, 100, out MessageType type, out bool oldForm, out ReadOnlySequence<byte> body));
        Assert.Equal((MessageType.Metadata, false), (type, oldForm));
        Assert.Equal("{\"a\":1}"u8, body.ToArray());
        Assert.True(HandshakeFrame.TryRead(ref buffer, 100, out type, out oldForm, out body));
        Assert.Equal((MessageType.Probe, false), (type, oldForm));
        Assert.Equal("{}\n"u8, body.ToArray());
        Assert.True(buffer.IsEmpty);
    }

    [Fact]
    public void TryRead_EveryPrefix_NeedsMoreAndLeavesTheBuffer()
    {
        byte[] frame = Captures.Read("01-metadata-fetch.rx");
        for (int length = 0; length < frame.Length; length++)
        {
            var buffer = new ReadOnlySequence<byte>(frame, 0, length);
            Assert.False(HandshakeFrame.TryRead(ref buffer, HandshakeFrame.DefaultMaxLength, out _, out _, out _));
            Assert.Equal(length, buffer.Length);
        }
    }

    [Fact]
    public void TryRead_OldForm_IsConnectionWithTheFirstByteInTheBody()
    {
        var buffer = new ReadOnlySequence<byte>(Captures.Read("04-oldproto-connection-to-tcp-only.tx"));
        Assert.True(HandshakeFrame.TryRead(ref buffer, 100, out MessageType type, out bool oldForm, out ReadOnlySequence<byte> body));
        Assert.Equal((MessageType.Connection, true), (type, oldForm));
        Assert.Equal("{}\n"u8, body.ToArray());
    }

    [Fact]
    public void TryRead_LengthAtTheLimit_IsRead()
    {
        byte[] frame = new byte[8 + 100];
        BinaryPrimitives.WriteUInt64LittleEndian(frame, 100);
        var buffer = new ReadOnlySequence<byte>(frame);
        Assert.True(HandshakeFrame.TryRead(ref buffer, 100, out _, out _, out ReadOnlySequence<byte> body));
        Assert.Equal(99, body.Length);
    }

    [Theory]
    [InlineData(0UL, 1)]
    [InlineData(101UL, 1)]
    [InlineData(1UL << 63, 1)]
    [InlineData(ulong.MaxValue, 1)]
    [InlineData(50UL, 0x80)]
    [InlineData(50UL, 0xff)]
    public void TryRead_BadLengthOrType_IsAViolationBeforeTheBodyIsThere(ulong length, byte type)
    {
        byte[] frame = new byte[9];
        BinaryPrimitives.WriteUInt64LittleEndian(frame, length);
        frame[8] = type;
        var e = Assert.Throws<CheckpointEngineException>(() =>
        {
            var buffer = new ReadOnlySequence<byte>(frame);
            HandshakeFrame.TryRead(ref buffer, 100, out _, out _, out _);
        });
        Assert.Equal(CheckpointError.ProtocolViolation, e.Error);
    }

    [Fact]
    public void TryRead_AnyBytes_GiveAFrameOrNothingOrAViolation()
        => Gen.Select(Gen.OneOf(Gen.Const(0UL), Gen.ULong[0, 70], Gen.ULong), Gen.Byte.Array[0, 64]).Sample((length, rest) =>
        {
            byte[] bytes = new byte[8 + rest.Length];
            BinaryPrimitives.WriteUInt64LittleEndian(bytes, length);
            rest.CopyTo(bytes, 8);
            ReadOnlySequence<byte> buffer = OneByteSegments(bytes);
            try
            {
                if (HandshakeFrame.TryRead(ref buffer, 64, out _, out bool oldForm, out ReadOnlySequence<byte> body))
                {
                    Assert.Equal(length, (ulong)body.Length + (oldForm ? 0u : 1u));
                    Assert.Equal(bytes.Length - 8 - (long)length, buffer.Length);
                }
            }
            catch (CheckpointEngineException e)
            {
                Assert.Equal(CheckpointError.ProtocolViolation, e.Error);
            }
        });

    private static ReadOnlySequence<byte> OneByteSegments(ReadOnlySpan<byte> bytes)
    {
        var first = new Segment(default, null);
        Segment last = first;
        foreach (byte b in bytes)
        {
            last = new Segment(new[] { b }, last);
        }
        return new ReadOnlySequence<byte>(first, 0, last, last.Memory.Length);
    }

    private sealed class Segment : ReadOnlySequenceSegment<byte>
    {
        internal Segment(ReadOnlyMemory<byte> memory, Segment? previous)
        {
            Memory = memory;
            RunningIndex = previous is null ? 0 : previous.RunningIndex + previous.Memory.Length;
            previous?.Next = this;
        }
    }
}
