using System.Buffers.Binary;
using System.Net;
using CheckpointEngine.Relay;
using CsCheck;

namespace CheckpointEngine.Tests.Relay;

/// <summary>What a joiner and its owner tell each other: written and read as it was, and nothing else is read.</summary>
public sealed class SwarmMessagesTests
{
    private const int Units = 5000;

    // Where they lie in the bytes.
    private const int RequestUnits = 24;
    private const int RequestWanted = 34;
    private const int RequestPending = 38;
    private const int RequestDone = 42;
    private const int RequestMissingCount = 46;
    private const int AnswerPause = 4;
    private const int AnswerGivenCount = 8;
    private const int AnswerMemberCount = 10;
    private const int AnswerKeyBytes = 11;

    private static readonly Gen<int> s_count = Gen.Int[0, int.MaxValue];

    private static readonly Gen<SwarmRequest> s_requests =
        from address in Gen.ULong
        from layout in Gen.Select(Gen.ULong, Gen.ULong, static (high, low) => new UInt128(high, low))
        from units in Gen.Int[1, SwarmRequest.MostUnits]
        from ports in Gen.Select(Gen.UShort, Gen.UShort, Gen.Int[0, 4095])
        from wanted in s_count
        from pending in s_count
        from done in Gen.Int[0, units]
        from missing in Gen.Int.Array[0, SwarmRequest.MostMissing]
        from security in Gen.Select(Gen.Enum<RelaySecurity>(), Gen.Enum<RelaySecurity>())
        select new SwarmRequest(address, layout, units, ports.Item1, ports.Item2, ports.Item3, wanted, pending, done, missing) { Speaks = security.Item1, Demands = security.Item2 };

    private static readonly Gen<IPEndPoint> s_members =
        Gen.Select(Gen.OneOf(Gen.Byte.Array[4], Gen.Byte.Array[16]), Gen.UShort, static (address, port) => new IPEndPoint(new IPAddress(address), port));

    private static readonly Gen<SwarmAnswer> s_answers =
        from given in Gen.Int[0, Units - 1].Array[0, SwarmAnswer.MostGiven]
        from members in s_members.Array[0, SwarmAnswer.MostMembers]
        from incomplete in s_count
        from pause in Gen.Int[0, 60_000]
        from key in Gen.OneOf(Gen.Const((byte[]?)null), Gen.Byte.Array[SwarmAnswer.KeyBytes].Select(static key => (byte[]?)key))
        select new SwarmAnswer(given, members, incomplete, pause, key);

    private static SwarmRequest Request => new(1, 2, 10, 7000, 1, 4, 5, 2, 3, [9, 4]);

    private static SwarmAnswer Answer => new([3, 0, 9], [new IPEndPoint(IPAddress.Loopback, 7000), new IPEndPoint(IPAddress.IPv6Loopback, 7001)], 2, 500, new byte[SwarmAnswer.KeyBytes]);

    [Fact]
    public void Request_OfAnyValues_IsReadAsItWasWritten() => s_requests.Sample(static request =>
    {
        Assert.True(SwarmRequest.TryDecode(request.ToBytes(), out SwarmRequest read));
        Assert.Equal(request.Missing, read.Missing);
        Assert.Equal(request, read with { Missing = request.Missing });
    });

    [Fact]
    public void Answer_OfAnyValues_IsReadAsItWasWritten() => s_answers.Sample(static answer =>
    {
        byte[] bytes = answer.ToBytes();
        Assert.True(bytes.Length <= SwarmAnswer.MaxSize);
        Assert.True(SwarmAnswer.TryDecode(bytes, Units, out SwarmAnswer read));
        Assert.Equal(answer.Given, read.Given);
        Assert.Equal(answer.Members!.Select(static member => new IPEndPoint(member.Address.IsIPv4MappedToIPv6 ? member.Address.MapToIPv4() : member.Address, member.Port)), read.Members);
        Assert.Equal(answer.Key, read.Key);
        Assert.Equal((answer.Incomplete, answer.AskAgainMs), (read.Incomplete, read.AskAgainMs));
    });

    [Theory]
    [InlineData(0x3000)]
    [InlineData(0xc000)]
    public void Request_GuardedInAWayThatIsNone_IsRefused(int bits)
    {
        byte[] bytes = Request.ToBytes();
        Assert.True(SwarmRequest.TryDecode(bytes, out _));
        bytes[33] |= (byte)(bits >> 8);
        Assert.False(SwarmRequest.TryDecode(bytes, out _));
    }

    [Fact]
    public void Request_CutOrLonger_IsRefused()
    {
        byte[] bytes = Request.ToBytes();
        Assert.True(SwarmRequest.TryDecode(bytes, out _));
        for (int length = 0; length < bytes.Length; length++)
        {
            Assert.False(SwarmRequest.TryDecode(bytes.AsSpan(0, length), out _), $"{length} of {bytes.Length} bytes");
        }
        Assert.False(SwarmRequest.TryDecode([.. bytes, 0], out _));
    }

    [Fact]
    public void Answer_CutOrLonger_IsRefused()
    {
        byte[] bytes = Answer.ToBytes();
        Assert.True(SwarmAnswer.TryDecode(bytes, 10, out _));
        for (int length = 0; length < bytes.Length; length++)
        {
            Assert.False(SwarmAnswer.TryDecode(bytes.AsSpan(0, length), 10, out _), $"{length} of {bytes.Length} bytes");
        }
        Assert.False(SwarmAnswer.TryDecode([.. bytes, 0], 10, out _));
    }

    [Theory]
    [InlineData(RequestUnits, 10, true)]
    [InlineData(RequestUnits, SwarmRequest.MostUnits, true)]
    [InlineData(RequestUnits, SwarmRequest.MostUnits + 1, false)]
    [InlineData(RequestUnits, 0, false)]
    [InlineData(RequestUnits, -1, false)]
    [InlineData(RequestUnits, 2, false)]          // it has 3
    [InlineData(RequestWanted, int.MaxValue, true)]
    [InlineData(RequestWanted, -1, false)]
    [InlineData(RequestPending, int.MaxValue, true)]
    [InlineData(RequestPending, -1, false)]
    [InlineData(RequestDone, 10, true)]
    [InlineData(RequestDone, 11, false)]
    [InlineData(RequestDone, -1, false)]
    [InlineData(RequestMissingCount, 2, true)]
    [InlineData(RequestMissingCount, 1, false)]
    [InlineData(RequestMissingCount, 3, false)]
    [InlineData(RequestMissingCount, -1, false)]
    [InlineData(RequestMissingCount, int.MaxValue, false)]
    public void Request_NumberInItsPlace_IsReadWithinItsLimits(int offset, int value, bool isRead)
    {
        byte[] bytes = Request.ToBytes();
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(offset), value);
        Assert.Equal(isRead, SwarmRequest.TryDecode(bytes, out _));
    }

    [Theory]
    [InlineData(SwarmRequest.MostMissing, true)]
    [InlineData(SwarmRequest.MostMissing + 1, false)]
    public void Request_UnitsThatAreMissing_HaveALimit(int count, bool isRead)
        => Assert.Equal(isRead, SwarmRequest.TryDecode((Request with { Missing = new int[count] }).ToBytes(), out _));

    [Theory]
    [InlineData(SwarmAnswer.MostGiven, 1, true)]
    [InlineData(SwarmAnswer.MostGiven + 1, 1, false)]
    [InlineData(1, SwarmAnswer.MostMembers, true)]
    [InlineData(1, SwarmAnswer.MostMembers + 1, false)]
    public void Answer_UnitsAndMembers_HaveALimit(int given, int members, bool isRead)
    {
        SwarmAnswer answer = Answer with { Given = new int[given], Members = [.. Enumerable.Repeat(new IPEndPoint(IPAddress.Loopback, 1), members)] };
        Assert.Equal(isRead, SwarmAnswer.TryDecode(answer.ToBytes(), 10, out _));
    }

    [Theory]
    [InlineData(0, true)]
    [InlineData(SwarmAnswer.KeyBytes, true)]
    [InlineData(1, false)]
    [InlineData(SwarmAnswer.KeyBytes - 1, false)]
    [InlineData(SwarmAnswer.KeyBytes + 1, false)]
    [InlineData(byte.MaxValue, false)]
    public void Answer_Key_HasOneLength(int length, bool isRead)
        => Assert.Equal(isRead, SwarmAnswer.TryDecode((Answer with { Key = new byte[length] }).ToBytes(), 10, out _));

    [Theory]
    [InlineData(AnswerGivenCount, 4)]
    [InlineData(AnswerGivenCount, 2)]
    [InlineData(AnswerMemberCount, 3)]
    [InlineData(AnswerMemberCount, 1)]
    [InlineData(AnswerKeyBytes, 0)]
    public void Answer_CountThatIsNotItsLength_IsRefused(int offset, byte value)
    {
        byte[] bytes = Answer.ToBytes();
        bytes[offset] = value;
        Assert.False(SwarmAnswer.TryDecode(bytes, 10, out _));
    }

    [Theory]
    [InlineData(9, true)]
    [InlineData(10, false)]
    [InlineData(-1, false)]
    [InlineData(int.MinValue, false)]
    public void Answer_UnitThatIsNone_IsRefused(int unit, bool isRead)
        => Assert.Equal(isRead, SwarmAnswer.TryDecode((Answer with { Given = [0, unit] }).ToBytes(), 10, out _));

    [Theory]
    [InlineData(0u, 0)]
    [InlineData(60_000u, 60_000)]
    [InlineData(60_001u, 60_000)]
    [InlineData(uint.MaxValue, 60_000)]
    public void Answer_Pause_IsAMinuteAtMost(uint told, int expected)
    {
        byte[] bytes = Answer.ToBytes();
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(AnswerPause), told);
        Assert.True(SwarmAnswer.TryDecode(bytes, 10, out SwarmAnswer read));
        Assert.Equal(expected, read.AskAgainMs);
    }

    [Theory]
    [InlineData("10.1.2.3", "10.1.2.3")]
    [InlineData("::ffff:10.1.2.3", "10.1.2.3")]       // as a socket of both families tells it
    [InlineData("fd00::5", "fd00::5")]
    [InlineData("::1", "::1")]
    public void Answer_Member_HasOneFormOfItsAddress(string told, string expected)
    {
        byte[] bytes = (Answer with { Members = [new IPEndPoint(IPAddress.Parse(told), 65_535)] }).ToBytes();
        Assert.True(SwarmAnswer.TryDecode(bytes, 10, out SwarmAnswer read));
        Assert.Equal(new IPEndPoint(IPAddress.Parse(expected), 65_535), Assert.Single(read.Members!));
    }

    [Fact]
    public void Answer_OfNothing_IsReadAsNothing()
    {
        Assert.True(SwarmAnswer.TryDecode(default(SwarmAnswer).ToBytes(), 1, out SwarmAnswer read));
        Assert.Equal((0, 0, null), (read.Given!.Length, read.Members!.Length, read.Key));
    }
}
