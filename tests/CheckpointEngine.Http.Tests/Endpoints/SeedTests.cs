using System.Net;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Http.Tests.Endpoints;

/// <summary>The six tests that came with upstream's endpoints, and the two that their merged form added.</summary>
public class SeedTests
{
    [Fact]
    public async Task GetMetas_OfKnownCheckpoint_IsAPickleThatReadsBack()
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks));
        using HttpResponseMessage reply = await server.GetAsync("/v1/checkpoints/m/metas");
        Assert.Equal(HttpStatusCode.OK, reply.StatusCode);
        Assert.Equal("application/octet-stream", reply.Content.Headers.ContentType?.ToString());
        Samples.AssertEqual(Samples.TwoRanks, MetasPickleReader.Read(await reply.ReadBytesAsync()));
    }

    [Fact]
    public async Task GetMetas_StoreFails_Is500WithItsText()
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore { Failure = new CheckpointEngineException(CheckpointError.Native, "the store is on fire") });
        using HttpResponseMessage reply = await server.GetAsync("/v1/checkpoints/m/metas");
        await reply.AssertProblemAsync(HttpStatusCode.InternalServerError, "the store is on fire");
    }

    [Theory]
    [InlineData("two-ranks.p2.pkl")]
    [InlineData("two-ranks.p4.pkl")]
    [InlineData("two-ranks.p5.pkl")]
    public async Task LoadMetas_OfAPickle_CallsTheStore(string file)
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await server.SendAsync(HttpMethod.Post, "/v1/checkpoints/m/load-metas", new ByteArrayContent(Samples.Golden(file)));
        await reply.AssertEmptyOkAsync();
        Assert.Equal(["load m"], server.Store.Calls);
        Samples.AssertEqual(Samples.TwoRanks, server.Store.Loaded!);
    }

    [Theory]
    [InlineData("")]
    [InlineData("not a pickle")]
    [InlineData("cos\nsystem\n(S'true'\ntR.")]
    public async Task LoadMetas_OfGarbage_Is400AndCallsNothing(string body)
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await server.SendAsync(HttpMethod.Post, "/v1/checkpoints/m/load-metas", new ByteArrayContent([.. body.Select(c => (byte)c)]));
        await reply.AssertProblemAsync(HttpStatusCode.BadRequest);
        Assert.Empty(server.Store.Calls);
    }

    [Fact]
    public async Task LoadMetas_StoreFails_Is500WithItsText()
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore { Failure = new InvalidOperationException("no room at the inn") });
        using HttpResponseMessage reply = await server.SendAsync(HttpMethod.Post, "/v1/checkpoints/m/load-metas", new ByteArrayContent(Samples.Pickle(Samples.TwoRanks)));
        await reply.AssertProblemAsync(HttpStatusCode.InternalServerError, "no room at the inn");
    }

    [Theory]
    [InlineData("/v1/checkpoints/m/metas", "/v1/checkpoints/n/load-metas")]
    [InlineData("/v1/metas", "/v1/metas?checkpoint=n")]
    public async Task Metas_GotAndPostedBack_AreEqual(string get, string post)
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks));
        byte[] body = await server.Client.GetByteArrayAsync(get, TestServer.Cancellation);
        using HttpResponseMessage reply = await server.SendAsync(HttpMethod.Post, post, new ByteArrayContent(body));
        await reply.AssertEmptyOkAsync();
        Assert.Contains("load n", server.Store.Calls);
        Samples.AssertEqual(Samples.TwoRanks, server.Store.Loaded!);
    }

    [Theory]
    [InlineData("{\"0\":{\"memory_buffer_metas_list\":7}}", HttpStatusCode.UnprocessableEntity)]
    [InlineData("[]", HttpStatusCode.UnprocessableEntity)]
    [InlineData("{\"0\":", HttpStatusCode.BadRequest)]
    [InlineData("", HttpStatusCode.BadRequest)]
    public async Task PostMetas_OfBadJson_Is422ForItsShapeAnd400ForItsSyntax(string body, HttpStatusCode status)
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage merged = await server.SendAsync(HttpMethod.Post, "/v1/metas", new StringContent(body));
        await merged.AssertProblemAsync(status);
        using HttpResponseMessage seed = await server.SendAsync(HttpMethod.Post, "/v1/checkpoints/m/load-metas", new StringContent(body, null, "application/json"));
        await seed.AssertProblemAsync(status);
        Assert.Empty(server.Store.Calls);
    }

    [Fact]
    public async Task LoadMetas_OfAnOwnerWithoutAddress_IsRefused()
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage json = await server.SendAsync(HttpMethod.Post, "/v1/metas", new ByteArrayContent(Samples.Golden("no-p2p-store.json")));
        await json.AssertProblemAsync(HttpStatusCode.UnprocessableEntity, "p2p_store_addr");
        using HttpResponseMessage pickle = await server.SendAsync(HttpMethod.Post, "/v1/checkpoints/m/load-metas", new ByteArrayContent(Samples.Golden("no-p2p-store.p4.pkl")));
        await pickle.AssertProblemAsync(HttpStatusCode.BadRequest, "p2p_store_addr");
        Assert.Null(server.Store.Loaded);
    }
}
