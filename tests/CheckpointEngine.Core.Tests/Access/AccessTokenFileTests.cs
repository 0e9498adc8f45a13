using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Transfer.Tcp;

namespace CheckpointEngine.Tests;

/// <summary>Tokens that change while processes run.</summary>
public sealed class AccessTokenFileTests : IDisposable
{
    private readonly TempDirectory _temp = new();

    private string Path => System.IO.Path.Join(_temp.Path, "token");

    public void Dispose() => _temp.Dispose();

    [Fact]
    public void Token_OfSeveralLines_ShowsTheFirstAndAcceptsEach()
    {
        AccessToken token = AccessToken.FromText("\n new \r\n\nold\n");
        Assert.Equal("Bearer new", token.ToBearerHeader());
        Assert.True(token.Matches("new"u8));
        Assert.True(token.Matches("old"u8));
        Assert.False(token.Matches("new\nold"u8));
        Assert.False(token.Matches(""u8));
    }

    [Theory]
    [InlineData("")]
    [InlineData(" \r\n\n")]
    public void Token_OfNothing_IsRefused(string text) => Assert.Throws<ArgumentException>(() => AccessToken.FromText(text));

    [Fact]
    public void Token_TooManyOrTooLong_IsRefused()
    {
        AccessToken.FromText(string.Join('\n', Enumerable.Range(0, 16)));
        Assert.Throws<ArgumentException>(() => AccessToken.FromText(string.Join('\n', Enumerable.Range(0, 17))));
        Assert.Throws<ArgumentException>(() => AccessToken.FromText("short\n" + new string('x', 4097)));
        File.WriteAllText(Path, new string('x', 4097));
        Assert.Contains(Path, Assert.Throws<CheckpointEngineException>(() => AccessToken.FromFile(Path)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task File_Changed_ChangesTheTokenOfThoseWhoHaveIt()
    {
        File.WriteAllText(Path, "old");
        using var file = new AccessTokenFile(Path, interval: TimeSpan.FromMilliseconds(10));
        AccessToken token = file.Token;
        File.WriteAllText(Path + ".next", "new\nold");
        File.Move(Path + ".next", Path, overwrite: true);
        await WaitAsync(() => token.ToBearerHeader() == "Bearer new");
        Assert.True(token.Matches("old"u8));
        File.WriteAllText(Path, "new");
        await WaitAsync(() => !token.Matches("old"u8));
        Assert.True(token.Matches("new"u8));
    }

    // As secrets are mounted: the file is a link into a directory that is a link, and the latter is exchanged.
    [Fact]
    public async Task File_BehindALinkThatIsExchanged_ChangesTheToken()
    {
        foreach (string version in new[] { "1", "2" })
        {
            Directory.CreateDirectory(System.IO.Path.Join(_temp.Path, version));
            File.WriteAllText(System.IO.Path.Join(_temp.Path, version, "token"), version);
        }
        string data = System.IO.Path.Join(_temp.Path, "data");
        Directory.CreateSymbolicLink(data, "1");
        File.CreateSymbolicLink(Path, "data/token");
        using var file = new AccessTokenFile(Path, interval: TimeSpan.FromMilliseconds(10));
        Assert.True(file.Token.Matches("1"u8));
        Directory.Delete(data);
        Directory.CreateSymbolicLink(data, "2");
        await WaitAsync(() => file.Token.Matches("2"u8));
    }

    [Theory]
    [InlineData("")]
    [InlineData(null)]
    public void File_ThatCannotBeUsed_LeavesTheTokenAsItIs(string? text)
    {
        File.WriteAllText(Path, "old");
        using var file = new AccessTokenFile(Path, interval: Timeout.InfiniteTimeSpan);
        File.Delete(Path);
        if (text is not null)
        {
            File.WriteAllText(Path, text);
        }
        Assert.False(file.Reload());
        Assert.True(file.Token.Matches("old"u8));
        File.WriteAllText(Path, "new");
        Assert.True(file.Reload());
        Assert.Equal("Bearer new", file.Token.ToBearerHeader());
    }

    /// <summary>Both ends of the change-over: who has only the old token, only the new one, or both, against a holder that has both.</summary>
    [Theory]
    [InlineData("new\nold", "old")]
    [InlineData("new\nold", "new")]
    [InlineData("old\nnew", "new")]
    [InlineData("old\nnew", "new\nold")]
    [InlineData("new\nold", "old\nnew")]
    public async Task Join_DuringAChangeOver_Succeeds(string holders, string joiners)
    {
        using var model = SmallCheckpoint.OfManySizes();
        await using var holder = new ParameterServer(new ParameterServerOptions { Token = AccessToken.FromText(holders) });
        await holder.StartAsync(TestContext.Current.CancellationToken);
        await holder.RegisterAsync("m", [model.Path], TestContext.Current.CancellationToken);
        await using var joiner = new ParameterServer(new ParameterServerOptions { Token = AccessToken.FromText(joiners) });
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("m").Metas, new JoinOptions { CheckpointName = "copy", Transport = CheckpointEngine.Transfer.TransportChoice.Tcp }, null, TestContext.Current.CancellationToken);
        Assert.True(report.Verified);
    }

    [Theory]
    [InlineData("new", "old")]
    [InlineData("new", "old\nnew")]
    public async Task Lane_ThatShowsATokenThatIsGone_IsRefused(string holders, string joiners)
    {
        await using var port = new DataPort(new TcpDataListenerOptions { Token = AccessToken.FromText(holders), PlainPeers = PlainPeers.None });
        var failure = Assert.Throws<CheckpointEngineException>(() => port.OpenLane(token: AccessToken.FromText(joiners)));
        Assert.Equal(CheckpointError.Refused, failure.Error);
    }

    [Fact]
    public void Hint_OfASecret_NamesIt()
    {
        AccessToken token = AccessToken.FromText("a\nb\nc");
        byte[] nonce = new byte[TokenChallenge.NonceBytes];
        foreach (string secret in new[] { "a", "b", "c" })
        {
            byte[] bytes = Encoding.UTF8.GetBytes(secret);
            Assert.Equal(bytes, TokenChallenge.Choose(token, TokenChallenge.Hint(bytes, nonce), nonce));
        }
        Assert.Equal("a"u8.ToArray(), TokenChallenge.Choose(token, 0, nonce));       // who says none, as versions before did
    }

    private static async Task WaitAsync(Func<bool> condition)
    {
        using var patience = new CancellationTokenSource(TimeSpan.FromSeconds(30));
        while (!condition())
        {
            await Task.Delay(5, patience.Token);
        }
    }
}
