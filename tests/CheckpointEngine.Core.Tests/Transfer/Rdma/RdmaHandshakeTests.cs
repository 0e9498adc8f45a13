using System.Buffers;
using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Rdma;
using CsCheck;

namespace CheckpointEngine.Tests;

/// <summary>The handshake object against what real Mooncake engines sent and took, and against what nobody should send.</summary>
public partial class RdmaHandshakeTests
{
    private const string RealGid = "00:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32:07";
    private const string PythonGid1 = "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:01";
    private const string PythonGid2 = "00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:02";

    // No surrogates: half a pair is no text that JSON could carry.
    private static readonly Gen<string> s_text = Gen.Char.Where(character => !char.IsSurrogate(character)).Array[0, 40].Select(characters => new string(characters));

    private static readonly RdmaProof s_proof = new(1, 2, new byte[32]);

    private static readonly Gen<RdmaProof?> s_proofs = Gen.Select(Gen.Bool, Gen.ULong, Gen.ULong, Gen.Byte.Array[32]).Select((there, number, sequence, sum) => there ? new RdmaProof(new UInt128(number, sequence), sequence, sum) : null);

    public static TheoryData<string, string, string, uint, uint, string, bool?> Captured => new()
    {
        { "52-rdma-real-connection.tx", "127.0.0.1:15510@fakehca0", "127.0.0.1:43983@fakehca0", 6967297, 6967298, RealGid, false },
        { "52-rdma-real-connection.rx", "127.0.0.1:43983@fakehca0", "127.0.0.1:15510@fakehca0", 6964993, 6964994, RealGid, false },
        { "53-rdma-real-ready-ack.tx", "127.0.0.1:15510@fakehca0", "127.0.0.1:43983@fakehca0", 6967297, 6967298, RealGid, true },
        { "56-rdma-py-active-connection.tx", "127.0.0.1:45999@pyhca0", "127.0.0.1:15046@fakehca0", 1001, 1002, PythonGid1, false },
        { "56-rdma-py-active-connection.rx", "127.0.0.1:15046@fakehca0", "127.0.0.1:45999@pyhca0", 6964995, 6964996, RealGid, false },
        { "57-rdma-py-ready-ack.tx", "127.0.0.1:45999@pyhca0", "127.0.0.1:15046@fakehca0", 1001, 1002, PythonGid1, true },
        { "58-rdma-py-active-connection-no-gid.tx", "127.0.0.1:37307@pyhca0", "127.0.0.1:15373@fakehca0", 501, 502, "", null },
        { "58-rdma-py-active-connection-no-gid.rx", "127.0.0.1:15373@fakehca0", "127.0.0.1:37307@pyhca0", 7322113, 7322114, "", null },
        { "61-rdma-py-target-connection.rx", "127.0.0.1:15510@fakehca0", "127.0.0.1:33751@pyhca0", 6967299, 6967300, RealGid, false },
        { "61-rdma-py-target-connection.tx", "127.0.0.1:33751@pyhca0", "127.0.0.1:15510@fakehca0", 6964737, 6964738, PythonGid2, false },
        { "62-rdma-py-target-ready-ack.rx", "127.0.0.1:15510@fakehca0", "127.0.0.1:33751@pyhca0", 6967299, 6967300, RealGid, true },
    };

    /// <summary>Every message of the step in either direction, and the answers without a connection: as 05 of a process without RDMA.</summary>
    public static TheoryData<string> Messages =>
    [
        "05-connection-to-tcp-only.rx", "52-rdma-real-connection.tx", "52-rdma-real-connection.rx", "53-rdma-real-ready-ack.tx", "53-rdma-real-ready-ack.rx",
        "56-rdma-py-active-connection.tx", "56-rdma-py-active-connection.rx", "57-rdma-py-ready-ack.tx", "57-rdma-py-ready-ack.rx",
        "58-rdma-py-active-connection-no-gid.tx", "58-rdma-py-active-connection-no-gid.rx", "61-rdma-py-target-connection.rx",
        "61-rdma-py-target-connection.tx", "62-rdma-py-target-ready-ack.rx", "62-rdma-py-target-ready-ack.tx",
    ];

    [Theory]
    [MemberData(nameof(Captured))]
    public void Read_CapturedMessage_GivesEveryField(string capture, string local, string peer, uint first, uint second, string gid, bool? readyAck)
        => AssertIs(new RdmaHandshake { LocalNicPath = local, PeerNicPath = peer, QueuePairs = [first, second], LocalGid = gid, ReadyAck = readyAck },
            RdmaHandshake.Read(Captures.ReadBody(capture)));

    [Theory]
    [InlineData("05-connection-to-tcp-only.rx")]
    [InlineData("53-rdma-real-ready-ack.rx")]
    [InlineData("57-rdma-py-ready-ack.rx")]
    [InlineData("62-rdma-py-target-ready-ack.tx")]
    public void Read_CapturedEmptyAnswer_IsEmpty(string capture) => AssertIs(new RdmaHandshake(), RdmaHandshake.Read(Captures.ReadBody(capture)));

    [Theory]
    [MemberData(nameof(Messages))]
    public void Write_CapturedMessage_IsTheCapturedBytes(string capture)
    {
        byte[] body = Captures.ReadBody(capture);
        string written = Encoding.UTF8.GetString(Write(RdmaHandshake.Read(body)));
        if (capture.StartsWith("58-", StringComparison.Ordinal))
        {
            // v0.3.6 has fewer members: those that it has are the same, the others are empty.
            using JsonDocument ours = JsonDocument.Parse(written);
            using JsonDocument theirs = JsonDocument.Parse(body);
            Assert.Equal(["local_gid", "local_lid", "local_nic_path", "payload", "peer_nic_path", "qp_num", "reply_msg"], Keys(ours));
            Assert.Equal(["local_nic_path", "peer_nic_path", "qp_num", "reply_msg"], Keys(theirs));
            Assert.All(theirs.RootElement.EnumerateObject(), member => Assert.True(JsonElement.DeepEquals(member.Value, ours.RootElement.GetProperty(member.Name)), member.Name));
            Assert.Equal(("", 0, ""), (ours.RootElement.GetProperty("local_gid").GetString(), ours.RootElement.GetProperty("local_lid").GetInt32(), ours.RootElement.GetProperty("payload").GetString()));
            return;
        }
        Assert.Equal(Encoding.UTF8.GetString(body), written);
    }

    [Theory]
    [InlineData("52-rdma-real-connection", "53-rdma-real-ready-ack")]
    [InlineData("56-rdma-py-active-connection", "57-rdma-py-ready-ack")]
    public void Write_AcknowledgementOfACapturedConnection_IsTheCapturedBytes(string connection, string acknowledgement)
        => Assert.Equal(Captures.ReadBody(acknowledgement + ".tx"), Write(RdmaHandshake.Read(Captures.ReadBody(connection + ".tx")) with { ReadyAck = true }));

    [Fact]
    public void Write_EveryMember_IsInTheOrderOfTheRealEngine()
    {
        using JsonDocument json = JsonDocument.Parse(Write(new RdmaHandshake { IsEnd = true, Proof = s_proof, ReadyAck = true, QueuePairs = [1] }));
        string[] keys = Keys(json);
        Assert.Equal(10, keys.Length);
        Assert.Equal(keys.Order(StringComparer.Ordinal), keys);
    }

    [Fact]
    public void Read_NotWrittenByThisImplementation_TakesWhatItKnows()
        => AssertIs(new RdmaHandshake { LocalNicPath = "b:1@d", QueuePairs = [uint.MaxValue], LocalLid = uint.MaxValue, ReplyMessage = "é" },
            Read(""" { "later":{"qp_num":[7],"x":[[]]}, "qp_num":[1,2], "local_nic_path":"a", "local_nic_path":"b:1@d", "qp\u005fnum":[4294967295], "local_lid":4294967295, "reply_msg":"\u00e9" } """ + "\r\n\t"));

    /// <summary>As the real engine: null reads as the empty value, a ready_ack that is there says that its sender knows the step.</summary>
    [Fact]
    public void Read_NullMembers_AreEmpty()
        => AssertIs(new RdmaHandshake { ReadyAck = false }, Read("""
            {"checkpoint_engine_end":null,"checkpoint_engine_proof":null,"local_gid":null,"local_lid":null,"local_nic_path":null,"payload":null,"peer_nic_path":null,"qp_num":null,"ready_ack":null,"reply_msg":null}
            """));

    [Fact]
    public void Read_NothingInIt_IsEmpty() => AssertIs(new RdmaHandshake(), Read("{}"));

    [Theory]
    [InlineData("", 0)]
    [InlineData(" ", 1)]
    [InlineData("null", 0)]
    [InlineData("[]", 0)]
    [InlineData("\"x\"", 0)]
    [InlineData("1", 0)]
    [InlineData("{} x", 3)]
    [InlineData("{}{}", 2)]
    [InlineData("{}\0", 2)]
    [InlineData("{},", 2)]
    [InlineData("""{"local_nic_path":1}""", 18)]
    [InlineData("""{"local_nic_path":{}}""", 18)]
    [InlineData("""{"peer_nic_path":["a"]}""", 17)]
    [InlineData("""{"peer_nic_path":true}""", 17)]
    [InlineData("""{"local_gid":0}""", 13)]
    [InlineData("""{"local_gid":[]}""", 13)]
    [InlineData("""{"local_lid":"0"}""", 13)]
    [InlineData("""{"local_lid":-1}""", 13)]
    [InlineData("""{"local_lid":0.5}""", 13)]
    [InlineData("""{"local_lid":1e1}""", 13)]
    [InlineData("""{"local_lid":4294967296}""", 13)]
    [InlineData("""{"qp_num":1}""", 10)]
    [InlineData("""{"qp_num":{}}""", 10)]
    [InlineData("""{"qp_num":"1"}""", 10)]
    [InlineData("""{"qp_num":["1"]}""", 11)]
    [InlineData("""{"qp_num":[[1]]}""", 11)]
    [InlineData("""{"qp_num":[1,-1]}""", 13)]
    [InlineData("""{"qp_num":[1,4294967296]}""", 13)]
    [InlineData("""{"qp_num":[1,true]}""", 13)]
    [InlineData("""{"ready_ack":0}""", 13)]
    [InlineData("""{"ready_ack":"true"}""", 13)]
    [InlineData("""{"reply_msg":{}}""", 13)]
    [InlineData("""{"reply_msg":1}""", 13)]
    [InlineData("""{"checkpoint_engine_end":1}""", 25)]
    [InlineData("""{"checkpoint_engine_proof":1}""", 27)]
    [InlineData("""{"checkpoint_engine_proof":{}}""", 27)]
    [InlineData("""{"qp_num":[1,]}""", 13)]
    [InlineData("""{"qp_num":[1}""", 12)]
    [InlineData("""{"local_lid":01}""", 13)]
    [InlineData("""{"reply_msg":"a",}""", 17)]
    [InlineData("""{"reply_msg" "a"}""", 13)]
    [InlineData("{/**/}", 1)]
    public void Read_WrongTypeOrNoJson_IsInvalidDataWithOffset(string json, int offset)
        => Assert.Contains($"(at byte {offset})", Refusal(Encoding.UTF8.GetBytes(json)).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("{\"reply_msg\":\"\\ud800\"}")]
    [InlineData("{\"local_gid\":\"\\udc00x\"}")]
    [InlineData("{\"local_nic_path\":\"\\ud800\"}")]
    [InlineData("{\"qp_\\ud800\":1}")]
    public void Read_LoneSurrogate_IsInvalidData(string json) => Refusal(Encoding.UTF8.GetBytes(json));

    [Fact]
    public void Read_NotUtf8_IsInvalidData() => Refusal([.. "{\"reply_msg\":\""u8, 0xff, .. "\"}"u8]);

    [Theory]
    [InlineData(62, true)]
    [InlineData(65, false)]
    [InlineData(100_000, false)]
    public void Read_NestedUnknown_IsSkippedToTheDepthLimit(int levels, bool ok)
    {
        string json = $"{{\"x\":{new string('[', levels)}{new string(']', levels)},\"local_lid\":3}}";
        if (ok)
        {
            Assert.Equal(3u, Read(json).LocalLid);
            return;
        }
        Refusal(Encoding.UTF8.GetBytes(json));
    }

    [Fact]
    public void Read_QueuePairs_AreBounded()
    {
        string numbers = string.Join(',', Enumerable.Range(0, RdmaHandshake.MaxQueuePairs));
        Assert.Equal(Enumerable.Range(0, RdmaHandshake.MaxQueuePairs).Select(number => (uint)number), Read($"{{\"qp_num\":[{numbers}]}}").QueuePairs);
        Assert.Contains("more than 64 qp_num", Refusal(Encoding.UTF8.GetBytes($"{{\"qp_num\":[{numbers},64]}}")).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("local_nic_path")]
    [InlineData("peer_nic_path")]
    public void Read_NicPath_IsBounded(string member)
    {
        string longest = new('a', 1024);
        RdmaHandshake read = Read($"{{\"{member}\":\"{longest}\"}}");
        Assert.Equal(longest, read.LocalNicPath + read.PeerNicPath);
        Assert.Contains(member, Refusal(Encoding.UTF8.GetBytes($"{{\"{member}\":\"{longest}a\"}}")).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0, true)]
    [InlineData(1, false)]
    [InlineData(111, false)]
    [InlineData(112, true)]
    [InlineData(113, false)]
    [InlineData(4096, false)]
    public void Read_Proof_HasItsLengthOrIsInvalidData(int digits, bool ok)
    {
        string json = $"{{\"checkpoint_engine_proof\":\"{new string('a', digits)}\"}}";
        if (ok)
        {
            Assert.Equal(digits != 0, Read(json).Proof is not null);
            return;
        }
        Assert.Contains("no proof", Refusal(Encoding.UTF8.GetBytes(json)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [MemberData(nameof(Messages))]
    public void Read_CutAnywhere_IsInvalidData(string capture)
    {
        byte[] body = Captures.ReadBody(capture);
        int end = body.AsSpan().LastIndexOf((byte)'}');
        Assert.True(end > 100);
        for (int length = 0; length <= end; length++)
        {
            Refusal(body[..length]);
        }
        RdmaHandshake.Read(body.AsSpan(0, end + 1));
    }

    [Theory]
    [MemberData(nameof(Messages))]
    public void Read_MoreBehindIt_IsInvalidData(string capture)
    {
        byte[] body = Captures.ReadBody(capture);
        for (int more = 0; more < 256; more++)
        {
            byte[] longer = [.. body, (byte)more];
            if (" \t\r\n"u8.Contains((byte)more))
            {
                RdmaHandshake.Read(longer);
                continue;
            }
            Refusal(longer);
        }
    }

    [Fact]
    public void Read_AnyBytes_GiveAHandshakeOrInvalidData() => Gen.Byte.Array[0, 200].Sample(bytes => { ReadOrRefuse(bytes); });

    [Fact]
    public void Read_MutatedCapture_GivesAHandshakeOrInvalidData()
    {
        byte[][] seeds = [.. Messages.Select(row => Captures.ReadBody(row.Data))];
        Gen<byte> interesting = Gen.OneOf(Gen.Byte, Gen.OneOf("{}[]\",:0-e\\u"u8.ToArray()));
        int taken = 0;
        int refused = 0;
        Gen.Select(Gen.OneOf(seeds), Gen.Select(Gen.Int[0, 10_000], interesting).Array[1, 8], Gen.Int[0, 10_000]).Sample((seed, edits, cut) =>
        {
            byte[] bytes = cut % 4 == 0 ? seed[..(cut % seed.Length)] : [.. seed];
            foreach ((int at, byte value) in edits)
            {
                if (bytes.Length != 0)
                {
                    bytes[at % bytes.Length] = value;
                }
            }
            Interlocked.Increment(ref ReadOrRefuse(bytes) ? ref taken : ref refused);
        }, iter: 20_000);
        Assert.True(taken > 0 && refused > 0, $"{taken} taken, {refused} refused");
    }

    [Fact]
    public void Read_EverySeed_GivesAHandshakeOrInvalidData()
    {
        string[] seeds = Directory.GetFiles(Path.Combine(AppContext.BaseDirectory, "corpora", "handshake"), "connection-*");
        Assert.Contains(seeds, seed => ReadOrRefuse(File.ReadAllBytes(seed)));
        Assert.Contains(seeds, seed => !ReadOrRefuse(File.ReadAllBytes(seed)));
    }

    [Fact]
    public void WriteThenRead_AnyHandshake_IsTheSame()
        => Gen.Select(s_text, s_text, Gen.UInt.Array[0, RdmaHandshake.MaxQueuePairs], s_text, Gen.UInt, Gen.Int[0, 2], s_text, Gen.Select(Gen.Bool, s_proofs)).Sample(
            (local, peer, numbers, gid, lid, ready, message, ours) =>
            {
                var handshake = new RdmaHandshake
                {
                    LocalNicPath = local,
                    PeerNicPath = peer,
                    QueuePairs = numbers,
                    LocalGid = gid,
                    LocalLid = lid,
                    ReadyAck = ready == 2 ? null : ready == 1,
                    ReplyMessage = message,
                    IsEnd = ours.Item1,
                    Proof = ours.Item2,
                };
                byte[] written = Write(handshake);
                Assert.Equal((byte)'\n', written[^1]);
                AssertIs(handshake, RdmaHandshake.Read(written));
            });

    [Fact]
    public void Read_RefusalOfOurs_GivesTheReason()
    {
        var output = new ArrayBufferWriter<byte>();
        ConnectionReply.WriteRefusal(output, "because of \"é\" <+>");
        AssertIs(new RdmaHandshake { ReplyMessage = "because of \"é\" <+>" }, RdmaHandshake.Read(output.WrittenSpan));
        var asHandshake = Write(new RdmaHandshake { ReplyMessage = "because of \"é\" <+>" });
        Assert.Equal(asHandshake, output.WrittenSpan.ToArray());
    }

    [Theory]
    [InlineData(RealGid, "00000000000000000000FFFFC0A83207")]
    [InlineData("fe:80:00:00:00:00:00:00:0E:42:a1:FF:fe:00:12:34", "FE800000000000000E42A1FFFE001234")]
    [InlineData("ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff:ff", "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF")]
    public void TryParseGid_WireText_GivesTheBytes(string text, string expected)
    {
        byte[] gid = new byte[16];
        Assert.True(RdmaHandshake.TryParseGid(text, gid));
        Assert.Equal(expected, Convert.ToHexString(gid));
    }

    [Theory]
    [InlineData("")]
    [InlineData("::ffff:192.168.50.7")]
    [InlineData("fe80:0000:0000:0000:0e42:a1ff:fe00:1234")]
    [InlineData("00:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32")]
    [InlineData("00:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32:7")]
    [InlineData("00:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32:07:")]
    [InlineData("00:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32:07:00")]
    [InlineData("00:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32:0g")]
    [InlineData("00-00-00-00-00-00-00-00-00-00-ff-ff-c0-a8-32-07")]
    [InlineData("00:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32.07")]
    [InlineData(" 0:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32:07")]
    [InlineData("0 :00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32:07")]
    [InlineData("+1:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32:07")]
    [InlineData("-1:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32:07")]
    [InlineData("0x:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32:07")]
    [InlineData("٠٠:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32:07")]
    [InlineData("0\0:00:00:00:00:00:00:00:00:00:ff:ff:c0:a8:32:07")]
    public void TryParseGid_OtherText_IsRefused(string text) => Assert.False(RdmaHandshake.TryParseGid(text, new byte[16]));

    [Fact]
    public void TryParseGid_AnySixteenBytes_AreReadBack()
        => Gen.Select(Gen.Byte.Array[16], Gen.Bool).Sample((bytes, upper) =>
        {
            string text = string.Join(':', bytes.Select(value => value.ToString(upper ? "X2" : "x2", CultureInfo.InvariantCulture)));
            byte[] gid = new byte[16];
            Assert.True(RdmaHandshake.TryParseGid(text, gid));
            Assert.Equal(bytes, gid);
        });

    [Fact]
    public void TryParseGid_OneCharacterReplaced_IsTakenOnlyWhereItMayStand()
        => Gen.Select(Gen.Int[0, RealGid.Length - 1], Gen.OneOf(Gen.Char, Gen.Char[' ', '~'])).Sample((at, character) =>
        {
            string text = $"{RealGid[..at]}{character}{RealGid[(at + 1)..]}";
            Assert.Equal(GidForm().IsMatch(text), RdmaHandshake.TryParseGid(text, new byte[16]));
        }, iter: 20_000);

    [GeneratedRegex(@"\A[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){15}\z")]
    private static partial Regex GidForm();

    private static bool ReadOrRefuse(byte[] bytes)
    {
        try
        {
            RdmaHandshake read = RdmaHandshake.Read(bytes);
            AssertIs(read, RdmaHandshake.Read(Write(read)));
            return true;
        }
        catch (CheckpointEngineException e)
        {
            Assert.Equal(CheckpointError.InvalidData, e.Error);
            return false;
        }
    }

    private static void AssertIs(RdmaHandshake expected, RdmaHandshake actual)
    {
        Assert.Equal(expected.QueuePairs, actual.QueuePairs);
        Assert.Equal(expected, actual with { QueuePairs = expected.QueuePairs });
    }

    private static CheckpointEngineException Refusal(byte[] json)
    {
        var e = Assert.Throws<CheckpointEngineException>(() => RdmaHandshake.Read(json));
        Assert.Equal(CheckpointError.InvalidData, e.Error);
        return e;
    }

    private static string[] Keys(JsonDocument json) => [.. json.RootElement.EnumerateObject().Select(member => member.Name)];

    private static byte[] Write(RdmaHandshake handshake)
    {
        var output = new ArrayBufferWriter<byte>();
        handshake.Write(output);
        return output.WrittenSpan.ToArray();
    }

    private static RdmaHandshake Read(string json) => RdmaHandshake.Read(Encoding.UTF8.GetBytes(json));
}
