using System.Net;
using CheckpointEngine.Access;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Peers;

namespace CheckpointEngine.Http.Tests.Hosting;

public class AuthenticationTests
{
    [Theory]
    [InlineData(null, false)]
    [InlineData("Bearer secret-token", true)]
    [InlineData("bearer   secret-token ", true)]
    [InlineData("Bearer secret-tokem", false)]
    [InlineData("Bearer secret-token-and-more", false)]
    [InlineData("Bearer ", false)]
    [InlineData("Bearer", false)]
    [InlineData("secret-token", false)]
    [InlineData("Basic secret-token", false)]
    public async Task EveryEndpoint_WithATokenSet_DemandsIt(string? authorization, bool isLetIn)
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks), options => options.Token = AccessToken.FromText("secret-token"));
        (string Name, string Value)[] headers = authorization is null ? [] : [("Authorization", authorization)];
        (HttpMethod, string)[] requests =
        [
            (HttpMethod.Get, "/v1/metas"), (HttpMethod.Post, "/v1/metas"), (HttpMethod.Get, "/v1/checkpoints/m/metas"), (HttpMethod.Post, "/v1/checkpoints/m/load-metas"),
            (HttpMethod.Post, "/v1/checkpoints/m/gather-metas"), (HttpMethod.Post, "/v1/checkpoints/m/files"), (HttpMethod.Get, "/v1/checkpoints/m/side-files"), (HttpMethod.Delete, "/v1/checkpoints/m"),
            (HttpMethod.Get, "/"), (HttpMethod.Get, "/metrics"),
        ];
        foreach ((HttpMethod method, string path) in requests)
        {
            using HttpResponseMessage reply = await server.SendAsync(method, path, null, headers);
            if (isLetIn)
            {
                Assert.NotEqual(HttpStatusCode.Unauthorized, reply.StatusCode);
                continue;
            }
            await reply.AssertProblemAsync(HttpStatusCode.Unauthorized, "token");
            Assert.Equal(path == "/" ? ["Bearer", "Basic"] : ["Bearer"], reply.Headers.WwwAuthenticate.Select(static challenge => challenge.Scheme));
        }
        Assert.Equal(isLetIn, !server.Store.Calls.IsEmpty);
        using HttpResponseMessage health = await server.GetAsync("/v1/healthz", headers);
        await health.AssertEmptyOkAsync();
        using HttpResponseMessage ready = await server.GetAsync("/v1/readyz", headers);
        Assert.Equal("""{"checkpoints":1}""", await ready.Content.ReadAsStringAsync(TestServer.Cancellation));      // a number: names are for who has the token
    }
}
