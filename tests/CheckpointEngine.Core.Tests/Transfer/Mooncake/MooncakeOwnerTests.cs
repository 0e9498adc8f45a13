using System.Net;
using System.Text;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Mooncake;
using Microsoft.Extensions.Logging.Abstractions;
using static CheckpointEngine.Tests.FakeLibrary;

namespace CheckpointEngine.Tests;

/// <summary>What is kept away from the library: descriptors that would end its process or lead it elsewhere. And how an engine starts. Against the stand-in.</summary>
[Collection(UsesFakeLibrary.Name)]
public sealed class MooncakeOwnerTests
{
    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    private static SegmentDescriptor Descriptor(string name = "127.0.0.1:5", string protocol = "tcp", params SegmentBuffer[] buffers) => new()
    {
        Name = name,
        Protocol = protocol,
        TcpDataPort = 5,
        TcpProtoVersion = 2,
        Buffers = buffers.Length != 0 ? buffers : [new SegmentBuffer(0x10000, 0x8000, "b")],
    };

    private static async Task<CheckpointEngineException?> OpenAsync(SegmentDescriptor descriptor, string host = "127.0.0.1", ulong address = 0x10000, ulong length = 0x8000)
    {
        await using var listener = HandshakeListener.Start([new IPEndPoint(IPAddress.Loopback, 0)], new RecordingResponder(descriptor));
        return await OpenAsync(new EndpointName(host, listener.EndPoints[0].Port), address, length);
    }

    private static async Task<CheckpointEngineException?> OpenAsync(EndpointName name, ulong address = 0x10000, ulong length = 0x8000)
    {
        using MooncakeEngine engine = await MooncakeEngine.StartAsync(s_library, IPAddress.Loopback, NullLogger.Instance, Cancel);
        var options = new HandshakeClientOptions { ReplyTimeout = TimeSpan.FromSeconds(5) };
        return await Record.ExceptionAsync(() => MooncakeOwner.OpenAsync(engine, name, [(address, length)], options, TimeSpan.FromSeconds(5), Cancel)) as CheckpointEngineException;
    }

    private static string s_library = "";

    public MooncakeOwnerTests() => s_library = Fresh();

    [Fact]
    public async Task Open_WellFormed_IsOpened()
    {
        Assert.Null(await OpenAsync(Descriptor()));
        Assert.Equal(1, Count(Counter.Opened));
        Assert.Equal(0, Count(Counter.Engines));
    }

    [Fact]
    public async Task Open_NameOfAnAddressOfTheHost_IsOpened() => Assert.Null(await OpenAsync(Descriptor(), host: "localhost"));

    [Theory]
    [InlineData("10.1.2.3:5")]
    [InlineData("elsewhere.example:5")]
    [InlineData("169.254.169.254:80")]
    public async Task Open_NameOfAnotherHost_IsRefusedUnopened(string name)
    {
        CheckpointEngineException failure = (await OpenAsync(Descriptor(name)))!;
        Assert.Equal(CheckpointError.Refused, failure.Error);
        Assert.Contains(name, failure.Message, StringComparison.Ordinal);
        Assert.Equal(0, Count(Counter.Opened));
    }

    [Theory]
    [InlineData("""{"buffers":[{"addr":"a string","length":1,"name":"x"}],"name":"127.0.0.1:5","protocol":"tcp","tcp_data_port":5}""")]
    [InlineData("""{"buffers":[{"addr":1,"length":-1,"name":"x"}],"name":"127.0.0.1:5","protocol":"tcp","tcp_data_port":5}""")]
    [InlineData("""{"buffers":{},"name":"127.0.0.1:5","protocol":"tcp","tcp_data_port":5}""")]
    [InlineData("""{"buffers":[],"name":["127.0.0.1:5"],"protocol":"tcp","tcp_data_port":5}""")]
    [InlineData("""{"name":"127.0.0.1:5","protocol":"tcp","tcp_data_port":5""")]
    [InlineData("[]")]
    public async Task Open_IllFormed_IsAnErrorUnopened(string json)
    {
        byte[] body = Encoding.UTF8.GetBytes(json);
        await using ScriptedServer server = ScriptedServer.Replying([.. BitConverter.GetBytes(body.Length + 1L), 1, .. body]);
        CheckpointEngineException failure = (await OpenAsync(server.Name))!;
        Assert.Equal(CheckpointError.ProtocolViolation, failure.Error);
        Assert.Equal(0, Count(Counter.Opened));
    }

    [Fact]
    public async Task Open_NestedBeyondReason_IsAnErrorUnopened()
    {
        byte[] body = Encoding.UTF8.GetBytes("{\"x\":" + new string('[', 2000) + new string(']', 2000) + "}");
        await using ScriptedServer server = ScriptedServer.Replying([.. BitConverter.GetBytes(body.Length + 1L), 1, .. body]);
        Assert.Equal(CheckpointError.ProtocolViolation, (await OpenAsync(server.Name))!.Error);
        Assert.Equal(0, Count(Counter.Opened));
    }

    [Fact]
    public async Task Open_AnotherTransport_NamesBoth()
    {
        CheckpointEngineException failure = (await OpenAsync(Descriptor(protocol: "efa")))!;
        Assert.Equal(CheckpointError.NotSupported, failure.Error);
        Assert.Contains("efa", failure.Message, StringComparison.Ordinal);
        Assert.Contains("tcp", failure.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0x10000, 0x8001)]
    [InlineData(0xffff, 0x10)]
    [InlineData(0xfffffffffffffff0, 0x8000)]
    public async Task Open_RangeThatIsNotPublished_IsRefusedUnopened(ulong address, ulong length)
    {
        Assert.Equal(CheckpointError.Refused, (await OpenAsync(Descriptor(), address: address, length: length))!.Error);
        Assert.Equal(0, Count(Counter.Opened));
    }

    [Theory]
    [InlineData(0, true)]
    [InlineData(1, false)]
    public async Task Open_RangeInTwoBuffersThatAdjoin_IsForTransportsThatCutRequests(int protocol, bool refused)
    {
        Set(Setting.Protocol, protocol);
        SegmentDescriptor descriptor = Descriptor("127.0.0.1:5", protocol == 0 ? "tcp" : "efa", new SegmentBuffer(0x14000, 0x4000, "b"), new SegmentBuffer(0x10000, 0x4000, "b"));
        Assert.Equal(refused, await OpenAsync(descriptor) is not null);
    }

    [Fact]
    public async Task Open_BufferWithoutLength_IsAnError()
        => Assert.Equal(CheckpointError.InvalidData, (await OpenAsync(Descriptor("127.0.0.1:5", "tcp", new SegmentBuffer(0x10000, 0, "b"))))!.Error);

    [Theory]
    [InlineData(-1, "invalid argument")]
    [InlineData(-102, "socket")]
    [InlineData(-103, "JSON")]
    public async Task Open_TheLibraryFails_IsToldInWords(int code, string words)
    {
        Set(Setting.FailOpen, code);
        CheckpointEngineException failure = (await OpenAsync(Descriptor()))!;
        Assert.Equal(CheckpointError.Unreachable, failure.Error);
        Assert.Contains(words, failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Start_PortsThatAreTaken_IsTriedAgain()
    {
        Set(Setting.FailCreate, 3);
        using MooncakeEngine engine = await MooncakeEngine.StartAsync(s_library, IPAddress.Loopback, NullLogger.Instance, Cancel);
        Assert.Equal("tcp", engine.Protocol);
        Assert.Equal("127.0.0.1", engine.Name.Host);
    }

    [Fact]
    public async Task Start_ThatFails_SaysWhatToLookAt()
    {
        Set(Setting.FailCreate, 1000);
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => MooncakeEngine.StartAsync(s_library, IPAddress.Loopback, NullLogger.Instance, Cancel));
        Assert.Equal(CheckpointError.Native, failure.Error);
        Assert.Contains("MC_LOG_LEVEL", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Start_AnotherLibrary_IsRefused()
    {
        using (await MooncakeEngine.StartAsync(s_library, IPAddress.Loopback, NullLogger.Instance, Cancel))
        {
            var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => MooncakeEngine.StartAsync("/nowhere/lib.so", IPAddress.Loopback, NullLogger.Instance, Cancel));
            Assert.Equal(CheckpointError.NotSupported, failure.Error);
            Assert.Contains(s_library, failure.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task Register_Refused_IsToldAndLeavesNothing()
    {
        using MooncakeEngine engine = await MooncakeEngine.StartAsync(s_library, IPAddress.Loopback, NullLogger.Instance, Cancel);
        Set(Setting.FailRegister, -7);
        var failure = Assert.Throws<CheckpointEngineException>(() => engine.Register([(0x10000, 0x1000), (0x20000, 0x1000)]));
        Assert.Equal(CheckpointError.NotSupported, failure.Error);
        Assert.Contains("overlaps", failure.Message, StringComparison.Ordinal);
        engine.UnregisterAll();
        Assert.Equal(0, Count(Counter.Misuses));
    }
}
