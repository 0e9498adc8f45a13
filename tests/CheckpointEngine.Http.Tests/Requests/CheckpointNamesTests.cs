using CheckpointEngine.Http.Requests;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Metas;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;

namespace CheckpointEngine.Http.Tests.Requests;

public class CheckpointNamesTests
{
    [Theory]
    [InlineData("m", "m")]
    [InlineData("a%2Fb", "a/b")]
    [InlineData("a%2fb", "a/b")]
    [InlineData("a%252Fb", "a%2Fb")]
    [InlineData("a%252fb", "a%2fb")]
    [InlineData("a%25252Fb", "a%252Fb")]
    [InlineData("a+b", "a+b")]
    [InlineData("a%20b", "a b")]
    [InlineData("%E3%83%A2", "モ")]
    [InlineData("a;b=c,d:e@f", "a;b=c,d:e@f")]
    [InlineData("%2F..%2Fx", "/../x")]
    public async Task Name_InTheRawTarget_IsDecodedOnce(string raw, string name)
    {
        await using TestServer server = await TestServer.StartAsync();
        foreach (string target in new[] { $"/v1/checkpoints/{raw}", $"/v1/checkpoints/{raw}/", $"/v1/checkpoints/{raw}?x=%2F/y", $"/v1/x/../checkpoints/{raw}" })
        {
            string reply = await server.SendRawAsync($"DELETE {target} HTTP/1.1\r\nHost: host\r\nConnection: close\r\n\r\n");
            Assert.StartsWith("HTTP/1.1 200 ", reply, StringComparison.Ordinal);
        }
        Assert.Equal(Enumerable.Repeat($"unregister {name}", 4), server.Store.Calls);
    }

    [Theory]
    [InlineData("a%20b", "200", "a b")]
    [InlineData("a%252Fb", "200", "a%2Fb")]
    [InlineData("a%2Fb", "404", null)]      // Kestrel decodes all of an absolute target, so that routing sees two segments
    public async Task Name_InAnAbsoluteTarget_IsNeverAnother(string raw, string status, string? name)
    {
        await using TestServer server = await TestServer.StartAsync();
        string reply = await server.SendRawAsync($"DELETE http://host/v1/checkpoints/{raw} HTTP/1.1\r\nHost: host\r\nConnection: close\r\n\r\n");
        Assert.StartsWith($"HTTP/1.1 {status} ", reply, StringComparison.Ordinal);
        Assert.Equal(name is null ? [] : [$"unregister {name}"], server.Store.Calls);
    }

    [Fact]
    public async Task Name_OfTwoCheckpointsThatDifferInEscapes_FindsEach()
    {
        var store = new FakeStore().Publish("a/b", Samples.TwoRanks).Publish("a%2Fb", CheckpointMetas.Empty);
        await using TestServer server = await TestServer.StartAsync(store);
        string slash = await server.SendRawAsync("GET /v1/checkpoints/a%2Fb/metas HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\nConnection: close\r\n\r\n");
        Assert.Contains("192.168.1.1:12345", slash, StringComparison.Ordinal);
        string percent = await server.SendRawAsync("GET /v1/checkpoints/a%252Fb/metas HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\nConnection: close\r\n\r\n");
        Assert.EndsWith("\r\n\r\n{}", percent, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("%ff")]
    [InlineData("%E3%83")]
    [InlineData("a%zz")]
    [InlineData("a%2")]
    [InlineData("%00")]
    public async Task Name_OfGarbage_Is400(string raw)
    {
        await using TestServer server = await TestServer.StartAsync();
        string reply = await server.SendRawAsync($"DELETE /v1/checkpoints/{raw} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        Assert.StartsWith("HTTP/1.1 400 ", reply, StringComparison.Ordinal);
        Assert.Empty(server.Store.Calls);
    }

    [Theory]
    [InlineData("x", 255, "200")]
    [InlineData("x", 256, "400")]
    [InlineData("%E3%83%A2", 85, "200")]
    [InlineData("%E3%83%A2", 86, "400")]
    public async Task Name_OfManyBytes_IsBounded(string raw, int times, string status)
    {
        await using TestServer server = await TestServer.StartAsync();
        string name = string.Concat(Enumerable.Repeat(raw, times));
        string path = await server.SendRawAsync($"DELETE /v1/checkpoints/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        Assert.StartsWith($"HTTP/1.1 {status} ", path, StringComparison.Ordinal);
        string query = await server.SendRawAsync($"GET /v1/metas?checkpoint={name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        Assert.StartsWith($"HTTP/1.1 {status.Replace("200", "404", StringComparison.Ordinal)} ", query, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("GARBAGE\r\n\r\n")]
    [InlineData("GET /v1/healthz\r\n\r\n")]
    [InlineData("GET /v1/healthz HTTP/1.1\r\n\r\n")]
    [InlineData("POST /v1/metas HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")]
    [InlineData("POST /v1/metas HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nb4496796\r\n")]
    [InlineData("POST /v1/checkpoints/a/files HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nb4496796\r\n")]
    public async Task Request_OfGarbage_Is400(string request)
    {
        await using TestServer server = await TestServer.StartAsync();
        Assert.StartsWith("HTTP/1.1 400 ", await server.SendRawAsync(request), StringComparison.Ordinal);
        Assert.Empty(server.Store.Calls);
    }

    [Theory]
    [InlineData("", "a%2Fb", "a/b")]                                   // a server that keeps no target
    [InlineData("/proxied/elsewhere", "name", "name")]                 // a middleware gave the request another path
    [InlineData("/mount/v1/checkpoints/a%2Fb/metas", "a%2Fb", "a/b")]  // below a prefix
    [InlineData("/v1/checkpoints/a%252Fb/metas", "a%2Fb", "a%2Fb")]
    [InlineData("/v1/checkpoints/a%2Fb/metas", "a/b", "a/b")]          // a server that decodes all
    public void Name_WithoutAUsableTarget_IsTheRouted(string target, string routed, string name)
    {
        var context = new DefaultHttpContext();
        context.Features.GetRequiredFeature<IHttpRequestFeature>().RawTarget = target;
        context.Request.RouteValues["name"] = routed;
        Assert.Equal(name, CheckpointNames.FromPath(context, segmentsBehind: 1));
    }
}
