using System.Net;
using System.Text;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Inference;

namespace CheckpointEngine.Http.Tests.Endpoints;

public sealed class UpdateEndpointsTests
{
    [Fact]
    public async Task Update_UpstreamsBody_IsUnderstood()
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await PostAsync(server, """{"ranks":[0,1,2,3],"update_url":"http://localhost:19730/collective_rpc","inference_group_ranks":[0,1],"timeout":12.5,"uds":null}""");
        await reply.AssertEmptyOkAsync();
        Assert.Equal("update m", Assert.Single(server.Store.Calls));
        InferenceUpdateOptions options = server.Store.Updated!;
        Assert.Equal(("http://localhost:19730/", InferenceEngine.Vllm, 2, TimeSpan.FromSeconds(12.5)),
            (options.Endpoint.ToString(), options.Engine, options.InferenceParallelSize, options.UpdateTimeout));
    }

    [Theory]
    [InlineData("http://127.0.0.1:1/prefix/update_weights_from_ipc", null, InferenceEngine.Sglang, "http://127.0.0.1:1/prefix/")]
    [InlineData("http://127.0.0.1:1/update_weights_from_disk", null, InferenceEngine.SglangFiles, "http://127.0.0.1:1/")]
    [InlineData("http://[::1]:1/update_weights_from_ipc", "lmdeploy", InferenceEngine.Lmdeploy, "http://[::1]:1/")]
    [InlineData("http://127.0.0.1:1/collective_rpc", "vllm-files", InferenceEngine.VllmFiles, "http://127.0.0.1:1/")]
    public async Task Update_Url_TellsTheEngine(string url, string? engine, InferenceEngine expected, string endpoint)
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await PostAsync(server,
            $$"""{"update_url":"{{url}}","engine":{{(engine is null ? "null" : $"\"{engine}\"")}},"inference_parallel_size":8,"worker_protocol":"0.2","weight_version":"v","flush_cache":false}""");
        await reply.AssertEmptyOkAsync();
        InferenceUpdateOptions options = server.Store.Updated!;
        Assert.Equal((expected, endpoint, 8, WorkerProtocol.V02, "v", false),
            (options.Engine, options.Endpoint.ToString(), options.InferenceParallelSize, options.WorkerProtocol, options.WeightVersion, options.FlushCache));
    }

    [Theory]
    [InlineData("""{"ranks":[]}""", "update_url")]
    [InlineData("""{"update_url":"ftp://localhost/collective_rpc"}""", "no http")]
    [InlineData("""{"update_url":"http://10.0.0.5/collective_rpc"}""", "loopback")]
    [InlineData("""{"update_url":"http://localhost/elsewhere"}""", "engine")]
    [InlineData("""{"update_url":"http://localhost/collective_rpc","engine":"other"}""", "engine")]
    [InlineData("""{"update_url":"http://localhost/collective_rpc","timeout":0}""", "timeout")]
    [InlineData("""{"update_url":"http://localhost/collective_rpc","uds":"relative.sock"}""", "uds")]
    [InlineData("""{"update_url":"http://localhost/collective_rpc","inference_parallel_size":0}""", "workers")]
    [InlineData("""{"update_url":"http://localhost/collective_rpc","worker_protocol":"0.3"}""", "worker_protocol")]
    [InlineData("not json", "JSON")]
    public async Task Update_BadBody_Is400(string body, string text)
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await PostAsync(server, body);
        Assert.Equal(HttpStatusCode.BadRequest, reply.StatusCode);
        Assert.Contains(text, await reply.Content.ReadAsStringAsync(TestServer.Cancellation), StringComparison.Ordinal);
        Assert.Empty(server.Store.Calls);
    }

    [Theory]
    [InlineData("""{"update_url":7}""")]
    [InlineData("[]")]
    public async Task Update_BodyOfTheWrongShape_Is422(string body)
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await PostAsync(server, body);
        Assert.Equal(HttpStatusCode.UnprocessableEntity, reply.StatusCode);
    }

    [Fact]
    public async Task Update_EngineFails_Is500WithItsWords()
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore { Failure = new CheckpointEngineException(CheckpointError.Refused, "worker HOST-1: no such parameter") });
        using HttpResponseMessage reply = await PostAsync(server, """{"update_url":"http://localhost/collective_rpc"}""");
        Assert.Equal(HttpStatusCode.InternalServerError, reply.StatusCode);
        Assert.Contains("no such parameter", await reply.Content.ReadAsStringAsync(TestServer.Cancellation), StringComparison.Ordinal);
    }

    private static async Task<HttpResponseMessage> PostAsync(TestServer server, string body)
    {
        using var content = new StringContent(body, Encoding.UTF8, "application/json");
        return await server.SendAsync(HttpMethod.Post, "/v1/checkpoints/m/update", content);
    }
}
