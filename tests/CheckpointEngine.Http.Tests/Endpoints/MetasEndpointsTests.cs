using System.IO.Compression;
using System.Net;
using System.Net.Sockets;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;

namespace CheckpointEngine.Http.Tests.Endpoints;

public class MetasEndpointsTests
{
    private const string Path = "/v1/checkpoints/m/metas";

    [Theory]
    [InlineData(null, false)]
    [InlineData("*/*", false)]
    [InlineData("application/json", true)]
    [InlineData("application/json, */*;q=0.8", true)]
    [InlineData("application/json;q=0.5, application/octet-stream", false)]
    [InlineData("application/octet-stream;q=0.1, application/json;q=0.2", true)]
    [InlineData("application/*;q=0.9, application/octet-stream;q=0.1", true)]
    [InlineData("application/json;q=0, */*", false)]
    [InlineData("text/html", false)]
    [InlineData("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false)]
    [InlineData(";;==,,", false)]
    public async Task Get_ChoosesTheFormatByAccept(string? accept, bool isJson)
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks));
        using HttpResponseMessage reply = accept is null ? await server.GetAsync(Path) : await server.GetAsync(Path, ("Accept", accept));
        byte[] body = await reply.ReadBytesAsync();
        Assert.Equal(isJson ? "application/json" : "application/octet-stream", reply.Content.Headers.ContentType?.ToString());
        Assert.Equal(isJson ? Samples.Json(Samples.TwoRanks) : Samples.Pickle(Samples.TwoRanks), body);
        Assert.Equal(body.Length, reply.Content.Headers.ContentLength);
        Assert.Equal(["Accept", "Accept-Encoding"], reply.Headers.Vary);
    }

    [Theory]
    [InlineData("gzip", "gzip")]
    [InlineData("br", "br")]
    [InlineData("gzip, deflate, br, zstd", "br")]
    [InlineData("gzip;q=1.0, br;q=0.5", "gzip")]
    [InlineData("gzip;q=0.5, identity", "")]
    [InlineData("gzip;q=0.1", "gzip")]
    [InlineData("br;q=0, *", "gzip")]
    [InlineData("*;q=0", "")]
    [InlineData("deflate", "")]
    [InlineData("identity", "")]
    public async Task Get_ChoosesTheCodingByAcceptEncoding(string accepted, string coding)
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks));
        using HttpResponseMessage reply = await server.GetAsync("/v1/metas", ("Accept-Encoding", accepted));
        byte[] body = await reply.ReadBytesAsync();
        Assert.Equal(coding, string.Join(',', reply.Content.Headers.ContentEncoding));
        Assert.Equal(body.Length, reply.Content.Headers.ContentLength);
        Assert.Equal(["Accept-Encoding"], reply.Headers.Vary);
        Assert.Equal(Samples.Json(Samples.TwoRanks), Decompress(body, coding));
    }

    [Fact]
    public async Task Get_WaitAndTheTagOfNow_AnswersWhenTheyAreOthers()
    {
        var store = new FakeStore().Publish("m", Samples.TwoRanks);
        await using TestServer server = await TestServer.StartAsync(store);
        string tag = (await server.GetAsync(Path, ("Accept", "application/json"))).Headers.ETag!.ToString();
        var asked = new TaskCompletionSource();
        var change = new TaskCompletionSource();
        store.OnWait = async cancellation =>
        {
            asked.SetResult();
            await change.Task.WaitAsync(cancellation);
            return store.World["m"];
        };

        Task<HttpResponseMessage> waiting = server.GetAsync(Path + "?wait=300", ("Accept", "application/json"), ("If-None-Match", tag));
        await asked.Task;
        Assert.False(waiting.IsCompleted);
        store.Publish("m", Samples.TwoRanks);
        change.SetResult();

        using HttpResponseMessage reply = await waiting;
        Assert.Equal(HttpStatusCode.OK, reply.StatusCode);
        Assert.NotEqual(tag, reply.Headers.ETag!.ToString());
        Assert.Equal(Samples.Json(Samples.TwoRanks), await reply.ReadBytesAsync());
    }

    [Theory]
    [InlineData("?wait=0", true, HttpStatusCode.NotModified)]          // nothing changes in no time
    [InlineData("?wait=300", false, HttpStatusCode.OK)]                // who has nothing is not kept waiting
    [InlineData("?wait=301", true, HttpStatusCode.BadRequest)]
    [InlineData("?wait=-1", true, HttpStatusCode.BadRequest)]
    [InlineData("?wait=1.5", true, HttpStatusCode.BadRequest)]
    [InlineData("?wait=soon", false, HttpStatusCode.BadRequest)]
    public async Task Get_Wait_IsBoundedAndForWhoHasTheTag(string query, bool hasTag, HttpStatusCode expected)
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks));
        string tag = (await server.GetAsync(Path)).Headers.ETag!.ToString();

        using HttpResponseMessage reply = hasTag ? await server.GetAsync(Path + query, ("If-None-Match", tag)) : await server.GetAsync(Path + query);

        Assert.Equal(expected, reply.StatusCode);
    }

    [Fact]
    public async Task Get_OfEveryForm_HasATagOfItsOwnAnd304ForIt()
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks));
        var tags = new HashSet<string>();
        foreach (string accept in new[] { "application/json", "application/octet-stream" })
        {
            foreach (string coding in new[] { "identity", "gzip", "br" })
            {
                using HttpResponseMessage reply = await server.GetAsync(Path, ("Accept", accept), ("Accept-Encoding", coding));
                string tag = reply.Headers.ETag!.ToString();
                Assert.True(tags.Add(tag) && tag[0] == '"', tag);
                foreach (string header in new[] { tag, $"\"other\", {tag}", $"W/{tag}", "*" })
                {
                    using HttpResponseMessage again = await server.GetAsync(Path, ("Accept", accept), ("Accept-Encoding", coding), ("If-None-Match", header));
                    Assert.Equal(HttpStatusCode.NotModified, again.StatusCode);
                    Assert.Equal(tag, again.Headers.ETag?.ToString());
                    Assert.Equal(["Accept", "Accept-Encoding"], again.Headers.Vary);
                    Assert.Empty(await again.ReadBytesAsync());
                }
            }
        }
        string jsonTag = (await server.GetAsync(Path, ("Accept", "application/json"))).Headers.ETag!.ToString();
        using HttpResponseMessage otherForm = await server.GetAsync(Path, ("If-None-Match", jsonTag));
        Assert.Equal(HttpStatusCode.OK, otherForm.StatusCode);
        using HttpResponseMessage garbage = await server.GetAsync(Path, ("If-None-Match", "no tag"));
        Assert.Equal(HttpStatusCode.OK, garbage.StatusCode);
        Assert.Equal(6, server.Encoded.Encodings);
    }

    [Fact]
    public async Task Get_AfterAChange_SendsTheNewMetas()
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks));
        using HttpResponseMessage first = await server.GetAsync(Path);
        server.Store.Publish("m", CheckpointMetas.Empty);
        using HttpResponseMessage second = await server.GetAsync(Path, ("If-None-Match", first.Headers.ETag!.ToString()));
        Assert.Equal(HttpStatusCode.OK, second.StatusCode);
        Assert.Equal(Samples.Pickle(CheckpointMetas.Empty), await second.ReadBytesAsync());
    }

    [Fact]
    public async Task Head_TellsTheHeadersOfGet()
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks));
        using HttpResponseMessage get = await server.GetAsync(Path);
        using HttpResponseMessage head = await server.SendAsync(HttpMethod.Head, Path);
        Assert.Equal(get.Headers.ETag, head.Headers.ETag);
        Assert.Equal(get.Content.Headers.ContentLength, head.Content.Headers.ContentLength);
        Assert.Empty(await head.ReadBytesAsync());
    }

    // Found by fuzzing: it was 500. HttpMethod would write such letters as HEAD does.
    [Theory]
    [InlineData("/v1/checkpoints/m/metas")]
    [InlineData("/v1/readyz")]
    [InlineData("/v1/healthz")]
    public async Task Head_InOtherLetters_IsNoErrorOfTheServer(string path)
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks));
        using var socket = new Socket(SocketType.Stream, ProtocolType.Tcp);
        await socket.ConnectAsync(server.Uri.Host, server.Uri.Port, TestContext.Current.CancellationToken);
        await socket.SendAsync(Encoding.ASCII.GetBytes($"HEaD {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"), TestContext.Current.CancellationToken);
        using var reader = new StreamReader(new NetworkStream(socket));
        Assert.StartsWith("HTTP/1.1 200 ", await reader.ReadLineAsync(TestContext.Current.CancellationToken), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("identity")]
    [InlineData("gzip")]
    [InlineData("br")]
    public async Task Get_ByManyAtOnce_EncodesOnce(string coding)
    {
        CheckpointMetas metas = Samples.Many(20_000);
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", metas));
        byte[] expected = Samples.Json(metas);
        byte[][] bodies = await Task.WhenAll(Enumerable.Range(0, 16).Select(async _ =>
        {
            using HttpResponseMessage reply = await server.GetAsync("/v1/metas", ("Accept-Encoding", coding));
            return Decompress(await reply.ReadBytesAsync(), coding);
        }));
        Assert.All(bodies, body => Assert.True(expected.AsSpan().SequenceEqual(body)));
        Assert.Equal(1, server.Encoded.Encodings);
    }

    [Fact]
    public async Task Get_OfAnUnknownCheckpoint_Is404()
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks));
        using HttpResponseMessage seed = await server.GetAsync("/v1/checkpoints/other/metas");
        await seed.AssertProblemAsync(HttpStatusCode.NotFound, "other");
        using HttpResponseMessage merged = await server.GetAsync("/v1/metas?checkpoint=other");
        await merged.AssertProblemAsync(HttpStatusCode.NotFound, "other");
    }

    [Fact]
    public async Task GetWithoutName_AnswersForTheOnlyOneAndAsksForANameElse()
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage none = await server.GetAsync("/v1/metas");
        await none.AssertProblemAsync(HttpStatusCode.NotFound);
        server.Store.Publish("a/b", Samples.TwoRanks);
        using HttpResponseMessage one = await server.GetAsync("/v1/metas", ("Accept", "application/octet-stream"));
        Assert.Equal("application/json", one.Content.Headers.ContentType?.ToString());
        server.Store.Publish("c", Samples.TwoRanks);
        using HttpResponseMessage two = await server.GetAsync("/v1/metas");
        System.Text.Json.JsonElement problem = await two.AssertProblemAsync(HttpStatusCode.Conflict, "a/b");
        Assert.Equal(["a/b", "c"], problem.GetProperty("checkpoints").EnumerateArray().Select(name => name.GetString()));
        using HttpResponseMessage named = await server.GetAsync("/v1/metas?checkpoint=a%2Fb");
        Assert.Equal(HttpStatusCode.OK, named.StatusCode);
    }

    [Fact]
    public async Task Get_WithScope_AnswersForIt()
    {
        var store = new FakeStore().Publish("m", Samples.TwoRanks);
        store.Local["m"] = new PublishedMetas(CheckpointMetas.Empty, "\"local\"");
        await using TestServer server = await TestServer.StartAsync(store);
        Assert.Equal("{}", await server.Client.GetStringAsync("/v1/metas?scope=local", TestServer.Cancellation));
        Assert.Equal(Samples.Pickle(CheckpointMetas.Empty), await server.Client.GetByteArrayAsync(Path + "?scope=local", TestServer.Cancellation));
        Assert.Equal(Samples.Pickle(Samples.TwoRanks), await server.Client.GetByteArrayAsync(Path + "?scope=world", TestServer.Cancellation));
        using HttpResponseMessage bad = await server.GetAsync(Path + "?scope=galaxy");
        await bad.AssertProblemAsync(HttpStatusCode.BadRequest, "galaxy");
    }

    [Theory]
    [InlineData("/v1/metas", "load default")]
    [InlineData("/v1/metas?checkpoint=n", "load n")]
    [InlineData("/v1/checkpoints/n/load-metas", "load n")]
    public async Task Load_OfJson_CallsTheStore(string path, string call)
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await server.SendAsync(HttpMethod.Post, path, new StringContent(System.Text.Encoding.UTF8.GetString(Samples.Golden("two-ranks.json")), null, "application/json"));
        await reply.AssertEmptyOkAsync();
        Assert.Equal([call], server.Store.Calls);
        Samples.AssertEqual(Samples.TwoRanks, server.Store.Loaded!);
    }

    [Theory]
    [InlineData("gzip", "application/json")]
    [InlineData("br", "application/json")]
    [InlineData("x-gzip", "application/octet-stream")]
    [InlineData("identity", "application/octet-stream")]
    public async Task Load_OfACodedBody_IsDecoded(string coding, string type)
    {
        await using TestServer server = await TestServer.StartAsync();
        byte[] plain = type == "application/json" ? Samples.Json(Samples.TwoRanks) : Samples.Pickle(Samples.TwoRanks);
        using HttpResponseMessage reply = await PostCodedAsync(server, Compress(plain, coding), coding, type);
        await reply.AssertEmptyOkAsync();
        Samples.AssertEqual(Samples.TwoRanks, server.Store.Loaded!);
    }

    [Theory]
    [InlineData("gzip")]
    [InlineData("br")]
    public async Task Load_OfABodyThatIsNotWhatItsCodingSays_Is400(string coding)
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage garbage = await PostCodedAsync(server, Samples.Golden("two-ranks.json"), coding, "application/json");
        await garbage.AssertProblemAsync(HttpStatusCode.BadRequest, "Content-Encoding");
        byte[] whole = Compress(Samples.Json(Samples.TwoRanks), coding);
        using HttpResponseMessage half = await PostCodedAsync(server, whole[..(whole.Length / 2)], coding, "application/json");
        await half.AssertProblemAsync(HttpStatusCode.BadRequest);
        Assert.Empty(server.Store.Calls);
    }

    [Fact]
    public async Task Load_OfAnUnknownCoding_Is415AndNamesTheKnownOnes()
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await PostCodedAsync(server, [1], "zstd", "application/json");
        await reply.AssertProblemAsync(HttpStatusCode.UnsupportedMediaType, "zstd");
        Assert.True(reply.Headers.Contains("Accept-Encoding"));
    }

    [Theory]
    [InlineData("gzip", "application/json")]
    [InlineData("br", "application/json")]
    [InlineData("gzip", "application/octet-stream")]
    public async Task Load_OfABodyThatGrowsBeyondItsLimit_Is413(string coding, string type)
    {
        await using TestServer server = await TestServer.StartAsync();
        byte[] bomb = Compress(new byte[(128 << 20) + 1], coding, (byte)' ');
        Assert.True(bomb.Length < 4 << 20);
        using HttpResponseMessage reply = await PostCodedAsync(server, bomb, coding, type);
        await reply.AssertProblemAsync(HttpStatusCode.RequestEntityTooLarge);
        Assert.Empty(server.Store.Calls);
    }

    [Fact]
    public async Task Load_OfALongerContentLength_Is413WithoutReading()
    {
        await using TestServer server = await TestServer.StartAsync();
        string reply = await server.SendRawAsync("POST /v1/metas HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 134217729\r\n\r\n");
        Assert.StartsWith("HTTP/1.1 413 ", reply, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Gather_PassesThePeersOfTheOptions()
    {
        AccessToken token = AccessToken.FromText("t");
        await using TestServer server = await TestServer.StartAsync(null, options =>
        {
            options.GatherPeers = ["http://10.0.0.2:19700"];
            options.Token = token;
        });
        using HttpResponseMessage reply = await server.SendAsync(HttpMethod.Post, "/v1/checkpoints/m/gather-metas", null, ("Authorization", "Bearer t"));
        await reply.AssertEmptyOkAsync();
        Assert.Equal(["gather m"], server.Store.Calls);
        Assert.Equal(["http://10.0.0.2:19700"], server.Store.GatherPeers);
        Assert.Same(token, server.Store.GatherClient?.Token);
        foreach (CheckpointError error in new[] { CheckpointError.Unreachable, CheckpointError.NotFound, CheckpointError.Refused, CheckpointError.WrongShape })
        {
            server.Store.Failure = new CheckpointEngineException(error, "peer 10.0.0.2 is odd");
            using HttpResponseMessage failed = await server.SendAsync(HttpMethod.Post, "/v1/checkpoints/m/gather-metas", null, ("Authorization", "Bearer t"));
            await failed.AssertProblemAsync(HttpStatusCode.InternalServerError, "10.0.0.2");
        }
    }

    private static async Task<HttpResponseMessage> PostCodedAsync(TestServer server, byte[] body, string coding, string type)
    {
        using var content = new ByteArrayContent(body);
        content.Headers.ContentType = new(type);
        content.Headers.ContentEncoding.Add(coding);
        return await server.SendAsync(HttpMethod.Post, "/v1/checkpoints/m/load-metas", content);
    }

    private static byte[] Compress(byte[] plain, string coding, byte? fill = null)
    {
        if (fill is { } value)
        {
            plain.AsSpan().Fill(value);
        }
        if (coding == "identity")
        {
            return plain;
        }
        using var output = new MemoryStream();
        using (Stream stream = coding == "br" ? new BrotliStream(output, CompressionLevel.Fastest) : new GZipStream(output, CompressionLevel.Fastest))
        {
            stream.Write(plain);
        }
        return output.ToArray();
    }

    private static byte[] Decompress(byte[] body, string coding)
    {
        if (coding is "" or "identity")
        {
            return body;
        }
        using var output = new MemoryStream();
        using Stream stream = coding == "br" ? new BrotliStream(new MemoryStream(body), CompressionMode.Decompress) : new GZipStream(new MemoryStream(body), CompressionMode.Decompress);
        stream.CopyTo(output);
        return output.ToArray();
    }
}
