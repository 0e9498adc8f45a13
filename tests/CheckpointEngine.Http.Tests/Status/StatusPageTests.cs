using System.Globalization;
using System.Net;
using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;
using CheckpointEngine.Access;
using CheckpointEngine.Http.Status;
using CheckpointEngine.Http.Tests.Support;

namespace CheckpointEngine.Http.Tests.Status;

/// <summary>The page at /: what it says, and what no name can make of it.</summary>
public class StatusPageTests
{
    internal const string HostileName = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\"'&</title></style>\u0000\u202e";

    private static async Task<(HttpResponseMessage Reply, string Page)> GetAsync(TestServer server, params (string Name, string Value)[] headers)
    {
        HttpResponseMessage reply = await server.GetAsync("/", headers);
        return (reply, await reply.Content.ReadAsStringAsync(TestServer.Cancellation));
    }

    [Fact]
    public async Task Page_OfABusyHolder_SaysWhatItDoes()
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore { Status = () => BusyStatus.Make() });
        (HttpResponseMessage reply, string page) = await GetAsync(server);
        using (reply)
        {
            Assert.Equal(HttpStatusCode.OK, reply.StatusCode);
            Assert.Equal("text/html; charset=utf-8", reply.Content.Headers.ContentType?.ToString());
        }
        string text = WebUtility.HtmlDecode(Regex.Replace(page, "<[^>]+>", "|"));
        string[] said =
        [
            "actor", "qwen2.5-72b", "963", "135.43 GiB", "1207", "38.9", "complete", "10.0.0.8:12001", "4 owners", "elsewhere", "transfer", "8", "10.0.0.21", "fd00::17", "1.65 TiB",
            "3 d 4 h", EngineVersion.Text, "local", "rdma", "tcp",
        ];
        Assert.All(said, word => Assert.Contains(word, text.Replace("39\u00a0%", "38.9", StringComparison.Ordinal), StringComparison.Ordinal));
    }

    [Fact]
    public async Task Page_StrangersNames_AreTextAndNothingElse()
    {
        ServerStatus busy = BusyStatus.Make(new CheckpointStatus { Name = HostileName, State = "held", Generation = 1, Owners = [new OwnerStatus(0, HostileName, 1), new OwnerStatus(1, HostileName, 1)] });
        await using TestServer server = await TestServer.StartAsync(new FakeStore { Status = () => busy });
        (HttpResponseMessage reply, string page) = await GetAsync(server);
        reply.Dispose();
        Assert.DoesNotContain("<script", page, StringComparison.OrdinalIgnoreCase);
        Assert.DoesNotContain("<img", page, StringComparison.OrdinalIgnoreCase);
        Assert.DoesNotContain("\u202e", page, StringComparison.Ordinal);
        Assert.Equal(1, Regex.Count(page, "</style>"));
        Assert.Equal(1, Regex.Count(page, "</title>"));
        Assert.Contains("&lt;script&gt;", page, StringComparison.Ordinal);
        Assert.Equal(3, Regex.Count(page, Regex.Escape("&lt;img src=x onerror=")));
    }

    [Fact]
    public async Task Page_ItsPolicy_AllowsItsOwnStyleAndNothingElse()
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore { Status = () => BusyStatus.Make() });
        (HttpResponseMessage reply, string page) = await GetAsync(server);
        string policy = reply.Headers.GetValues("Content-Security-Policy").Single();
        string style = Regex.Match(page, "<style>(.*?)</style>", RegexOptions.Singleline).Groups[1].Value;
        Assert.Equal($"default-src 'none'; style-src 'sha256-{Convert.ToBase64String(SHA256.HashData(Encoding.UTF8.GetBytes(style)))}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", policy);
        Assert.Equal("nosniff", reply.Headers.GetValues("X-Content-Type-Options").Single());
        Assert.Equal("DENY", reply.Headers.GetValues("X-Frame-Options").Single());
        Assert.Equal("no-referrer", reply.Headers.GetValues("Referrer-Policy").Single());
        Assert.True(reply.Headers.CacheControl!.NoStore);
        Assert.DoesNotMatch("(?i)\\b(src|style|on[a-z]+)=|https?://|//[a-z]|@import|url\\(", page);
        reply.Dispose();
    }

    [Theory]
    [InlineData(null, false)]
    [InlineData("Bearer secret-token", true)]
    [InlineData("Basic anybody:secret-token", true)]
    [InlineData("Basic :secret-token", true)]
    [InlineData("Basic secret-token:wrong", false)]
    [InlineData("Basic secret-token", false)]
    [InlineData("Basic anybody:", false)]
    [InlineData("Basic anybody:secret-token-and-more", false)]
    [InlineData("Basic !!", false)]
    public async Task Page_WithATokenSet_DemandsItAsHeaderOrPassword(string? credentials, bool isLetIn)
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore { Status = () => BusyStatus.Make() }, options => options.Token = AccessToken.FromText("secret-token"));
        string? header = credentials?.StartsWith("Basic ", StringComparison.Ordinal) == true && !credentials.EndsWith('!')
            ? "Basic " + Convert.ToBase64String(Encoding.UTF8.GetBytes(credentials["Basic ".Length..]))
            : credentials;
        (HttpResponseMessage reply, string page) = await GetAsync(server, header is null ? [] : [("Authorization", header)]);
        using (reply)
        {
            Assert.Equal(isLetIn ? HttpStatusCode.OK : HttpStatusCode.Unauthorized, reply.StatusCode);
            Assert.Equal(isLetIn, page.Contains("actor", StringComparison.Ordinal));
            if (!isLetIn)
            {
                Assert.Equal(["Bearer", "Basic"], reply.Headers.WwwAuthenticate.Select(static challenge => challenge.Scheme));
            }
        }
        if (header?.StartsWith("Basic", StringComparison.Ordinal) == true)
        {
            using HttpResponseMessage elsewhere = await server.GetAsync("/v1/metas", ("Authorization", header));
            Assert.Equal(HttpStatusCode.Unauthorized, elsewhere.StatusCode);      // a browser that knows the password must not be made to change anything
        }
    }

    [Fact]
    public void Rates_OfTwoLooks_AreOfTheTimeBetween()
    {
        var time = new ManualTime();
        var rates = new TransferRates(time);
        Assert.Null(rates.Take(Counters(100))("a"));
        time.Now += TimeSpan.FromSeconds(2);
        Func<string, double?> second = rates.Take(Counters(300));
        Assert.Equal(100, second("a"));
        Assert.Null(second("b"));
        time.Now += TimeSpan.FromSeconds(0.1);
        Assert.Equal(410 / 2.1, rates.Take(Counters(510))("a")!.Value, 6);      // somebody else looks: the same look before counts
        time.Now += TimeSpan.FromMinutes(5);
        Assert.Null(rates.Take(Counters(600))("a"));

        static Dictionary<string, long> Counters(long bytes) => new() { ["a"] = bytes };
    }

    [Theory]
    [InlineData(59.4, "59 s")]
    [InlineData(61, "1 min 1 s")]
    [InlineData(3 * 3600 + 125, "3 h 2 min")]
    [InlineData(50 * 3600, "2 d 2 h")]
    [InlineData(-3, "0 s")]
    public void Time_OfSeconds_HasItsTwoLargestUnits(double seconds, string text) => Assert.Equal(text, Quantity.Time(TimeSpan.FromSeconds(seconds)));

    private sealed class ManualTime : TimeProvider
    {
        internal TimeSpan Now { get; set; }

        public override long TimestampFrequency => TimeSpan.TicksPerSecond;

        public override long GetTimestamp() => Now.Ticks;
    }
}
