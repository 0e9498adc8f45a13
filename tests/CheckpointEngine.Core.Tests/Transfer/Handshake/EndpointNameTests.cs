using CheckpointEngine.Transfer.Handshake;
using CsCheck;

namespace CheckpointEngine.Tests;

public class EndpointNameTests
{
    [Theory]
    [InlineData("10.0.0.5:15421", "10.0.0.5", 15421, "10.0.0.5:15421")]
    [InlineData("node-7.cluster_a.local:1", "node-7.cluster_a.local", 1, "node-7.cluster_a.local:1")]
    [InlineData("node", "node", 12001, "node:12001")]
    [InlineData("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535, "[fe80::1%eth0]:65535")]
    [InlineData("[::1]", "::1", 12001, "[::1]:12001")]
    [InlineData("::1", "::1", 12001, "[::1]:12001")]
    [InlineData("2001:db8::5:1542", "2001:db8::5:1542", 12001, "[2001:db8::5:1542]:12001")]   // all of it is an address
    [InlineData("2001:db8::5:15421", "2001:db8::5", 15421, "[2001:db8::5]:15421")]            // five digits are no part of one
    [InlineData("1:2:3:4:5:6:7:8:15421", "1:2:3:4:5:6:7:8", 15421, "[1:2:3:4:5:6:7:8]:15421")]
    public void Parse_Name_GivesHostAndPort(string text, string host, int port, string formatted)
    {
        EndpointName name = EndpointName.Parse(text);
        Assert.Equal(new EndpointName(host, port), name);
        Assert.Equal(formatted, name.ToString());
        Assert.Equal(name, EndpointName.Parse(formatted));
    }

    [Theory]
    [InlineData("")]
    [InlineData(":15421")]
    [InlineData("host:")]
    [InlineData("host:0")]
    [InlineData("host:65536")]
    [InlineData("host:-1")]
    [InlineData("host:+1")]
    [InlineData("host: 1")]
    [InlineData("host:99999999999999999999")]
    [InlineData("a:b:c:80")]
    [InlineData("[::1")]
    [InlineData("[]:80")]
    [InlineData("[127.0.0.1]:80")]
    [InlineData("[::1]80")]
    [InlineData("[::1]:")]
    [InlineData("[[::1]]:80")]
    [InlineData("ho st:80")]
    [InlineData("host@mlx5_0:80")]
    [InlineData("host\n:80")]
    [InlineData("http://host:80")]
    public void Parse_NotAName_IsInvalidData(string text)
    {
        Assert.False(EndpointName.TryParse(text, out _));
        var e = Assert.Throws<CheckpointEngineException>(() => EndpointName.Parse(text));
        Assert.Equal(CheckpointError.InvalidData, e.Error);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Fact]
    public void Parse_LongName_IsInvalidData()
        => Assert.Equal(CheckpointError.InvalidData,
            Assert.Throws<CheckpointEngineException>(() => EndpointName.Parse(new string('a', 100_000) + ":80")).Error);

    [Fact]
    public void TryParse_AnyText_RoundTripsOrIsRefused()
        => Gen.OneOf(Gen.String, Gen.String[Gen.OneOf('[', ']', ':', 'a', '1', '.', '%', '/'), 0, 40]).Sample(text =>
        {
            if (EndpointName.TryParse(text, out EndpointName name))
            {
                Assert.InRange(name.Port, 1, 65535);
                Assert.Equal(name, EndpointName.Parse(name.ToString()));
            }
        });
}
