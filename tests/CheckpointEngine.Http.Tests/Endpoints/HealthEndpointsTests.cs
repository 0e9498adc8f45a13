using System.Net;
using CheckpointEngine.Http.Tests.Support;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.Extensions.DependencyInjection;

namespace CheckpointEngine.Http.Tests.Endpoints;

public sealed class HealthEndpointsTests
{
    [Fact]
    public async Task Ready_UntilSomethingIsHeld_Is503WithTheReason()
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage before = await server.GetAsync("/v1/readyz");
        await before.AssertProblemAsync(HttpStatusCode.ServiceUnavailable, "no checkpoint is held here yet");

        server.Store.Publish("secret-name", Samples.TwoRanks);

        using HttpResponseMessage after = await server.GetAsync("/v1/readyz");
        Assert.Equal((HttpStatusCode.OK, """{"checkpoints":1}"""), (after.StatusCode, await after.Content.ReadAsStringAsync(TestServer.Cancellation)));
        using HttpResponseMessage head = await server.SendAsync(HttpMethod.Head, "/v1/readyz");
        await head.AssertEmptyOkAsync();
        Assert.Empty(server.Store.Calls);       // nothing that costs is asked for a stranger
    }

    [Fact]
    public async Task Ready_WhileSomethingStandsInTheWay_Is503WithIt()
    {
        string? reason = "it still gathers";
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks), options => options.NotReady = () => reason);
        using HttpResponseMessage before = await server.GetAsync("/v1/readyz");
        await before.AssertProblemAsync(HttpStatusCode.ServiceUnavailable, "it still gathers");

        reason = null;

        using HttpResponseMessage after = await server.GetAsync("/v1/readyz");
        Assert.Equal(HttpStatusCode.OK, after.StatusCode);
    }

    [Fact]
    public async Task Ready_OfAnApplicationThatStops_Is503AndHealthIsNot()
    {
        WebApplicationBuilder builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions());
        builder.WebHost.UseKestrelCore().UseUrls("http://127.0.0.1:0");
        builder.Services.AddRoutingCore();
        await using WebApplication application = builder.Build();
        await using var engine = new ParameterServer(new ParameterServerOptions());
        DirectoryInfo directory = Directory.CreateTempSubdirectory("ce-http-");
        await engine.RegisterAsync("m", [SmallModel.Write(directory.FullName)], cancellationToken: TestServer.Cancellation);
        directory.Delete(recursive: true);       // mapped: it needs the name no more
        application.MapCheckpointEngine(engine);
        var asked = new TaskCompletionSource<(HttpStatusCode Ready, HttpStatusCode Health)>(TaskCreationOptions.RunContinuationsAsynchronously);
        using var client = new HttpClient();
        await application.StartAsync(TestServer.Cancellation);
        string address = application.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.Single();
        Assert.Equal(HttpStatusCode.OK, await StatusAsync("/v1/readyz"));
        application.Lifetime.ApplicationStopping.Register(() => asked.SetResult((StatusAsync("/v1/readyz").GetAwaiter().GetResult(), StatusAsync("/v1/healthz").GetAwaiter().GetResult())));

        await application.StopAsync(TestServer.Cancellation);

        Assert.Equal((HttpStatusCode.ServiceUnavailable, HttpStatusCode.OK), await asked.Task);

        async Task<HttpStatusCode> StatusAsync(string path)
        {
            using HttpResponseMessage reply = await client.GetAsync(address + path, TestServer.Cancellation);
            return reply.StatusCode;
        }
    }
}
