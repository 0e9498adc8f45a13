using System.Formats.Tar;
using System.Net;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Http.Tests.Support;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Http.Tests;

/// <summary>The endpoints over a real server, and the engine's own client at the other end.</summary>
public sealed class ParameterServerTests : IAsyncLifetime
{
    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("ce-ps-");
    private readonly ParameterServer _server = new(new ParameterServerOptions());
    private readonly HttpClient _client = new(new SocketsHttpHandler { UseProxy = false });

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync() => await _server.StartAsync(Cancellation);

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        await _server.DisposeAsync();
        _directory.Delete(recursive: true);
    }

    [Fact]
    public async Task Checkpoint_RegisteredToldJoinedAndDeleted_OverHttp()
    {
        string model = SmallModel.Write(Path.Join(_directory.FullName, "model"));
        await using CheckpointEngineHost host = await CheckpointEngineHost.StartAsync(
            _server, new CheckpointEngineHostOptions { Listen = ["http://127.0.0.1:0", $"unix:{_directory.FullName}/ce.sock"], AllowPaths = [_directory.FullName] }, Cancellation);
        string url = host.Addresses[0] + "/v1/checkpoints/org%2Fmodel";

        using (HttpResponseMessage registered = await PostAsync(url + "/files", $$"""{"files":["{{model}}"]}"""))
        {
            await registered.AssertEmptyOkAsync();
        }
        using (HttpResponseMessage again = await PostAsync(url + "/files", $$"""{"files":["{{model}}"]}"""))
        {
            await again.AssertProblemAsync(HttpStatusCode.Conflict, "org/model");
        }
        using (HttpResponseMessage missing = await PostAsync(host.Addresses[0] + "/v1/checkpoints/x/files", $$"""{"files":["{{model}}/missing.safetensors"]}"""))
        {
            await missing.AssertProblemAsync(HttpStatusCode.BadRequest, "missing.safetensors");
        }

        using var metasClient = new MetasClient();
        CheckpointMetas metas = await metasClient.FetchAsync(url + "/metas", Cancellation);
        Assert.Equal(2, metas.Tensors.Count);
        Samples.AssertEqual(metas, await metasClient.FetchAsync($"unix:{_directory.FullName}/ce.sock:/v1/metas", Cancellation));
        Samples.AssertEqual(_server.GetMetas("org/model").Metas, metas);
        CheckpointMetas pickled = MetasPickleReader.Read(await _client.GetByteArrayAsync(url + "/metas", Cancellation));
        Assert.Equal(metas.Owners[0].P2pStoreAddress, pickled.Owners[0].P2pStoreAddress);

        await using (var joiner = new ParameterServer(new ParameterServerOptions()))
        {
            JoinReport report = await joiner.JoinAsync(metas, new JoinOptions { RequireVerify = true }, null, Cancellation);
            Assert.True(report.Verified);
            Assert.Equal(1024, report.Bytes);
        }

        using (var tar = new TarReader(await _client.GetStreamAsync(url + "/side-files", Cancellation)))
        {
            TarEntry entry = Assert.IsType<PaxTarEntry>(await tar.GetNextEntryAsync(cancellationToken: Cancellation));
            Assert.Equal("config.json", entry.Name);
            using var content = new StreamReader(entry.DataStream!, Encoding.UTF8);
            Assert.Contains("small", await content.ReadToEndAsync(Cancellation), StringComparison.Ordinal);
        }

        for (int round = 0; round < 2; round++)
        {
            using HttpResponseMessage deleted = await _client.DeleteAsync(url, Cancellation);
            await deleted.AssertEmptyOkAsync();
        }
        using HttpResponseMessage gone = await _client.GetAsync(url + "/metas", Cancellation);
        await gone.AssertProblemAsync(HttpStatusCode.NotFound, "org/model");
    }

    [Fact]
    public async Task Metas_LoadedFromAStranger_AreMergedWithOurs()
    {
        await _server.RegisterAsync("m", [SmallModel.Write(Path.Join(_directory.FullName, "model"))], Cancellation);
        await using CheckpointEngineHost host = await CheckpointEngineHost.StartAsync(_server, new CheckpointEngineHostOptions { Listen = ["http://127.0.0.1:0"] }, Cancellation);
        using HttpResponseMessage before = await _client.GetAsync(host.Addresses[0] + "/v1/metas", Cancellation);
        string stranger = """{"7":{"p2p_store_addr":"10.0.0.7:1","memory_buffer_metas_list":[{"metas":[{"name":"c","dtype":"torch.uint8","shape":[4],"aligned_size":256}],"ptr":4096,"size":256}],"rdma_device":""}}""";
        using (HttpResponseMessage loaded = await PostAsync(host.Addresses[0] + "/v1/metas?checkpoint=m", stranger))
        {
            await loaded.AssertEmptyOkAsync();
        }
        using HttpResponseMessage after = await _client.GetAsync(host.Addresses[0] + "/v1/metas", Cancellation);
        Assert.NotEqual(before.Headers.ETag, after.Headers.ETag);
        using var metasClient = new MetasClient();
        Assert.Equal(new[] { 0, 7 }, Ranks(await metasClient.FetchAsync(host.Addresses[0] + "/v1/metas", Cancellation)));
        Assert.Equal(new[] { 0 }, Ranks(await metasClient.FetchAsync(host.Addresses[0] + "/v1/checkpoints/m/metas?scope=local", Cancellation)));
    }

    [Fact]
    public async Task Metas_OfTwoRanks_AreGathered()
    {
        string model = SmallModel.Write(Path.Join(_directory.FullName, "model"));
        AccessToken token = AccessToken.FromText("shared");
        await using var other = new ParameterServer(new ParameterServerOptions { Rank = 1 });
        await other.StartAsync(Cancellation);
        await _server.RegisterAsync("a/b", [model], Cancellation);
        await other.RegisterAsync("a/b", [model], Cancellation);
        await using CheckpointEngineHost peer = await CheckpointEngineHost.StartAsync(other, new CheckpointEngineHostOptions { Listen = ["http://127.0.0.1:0"], Token = token }, Cancellation);
        await using CheckpointEngineHost host = await CheckpointEngineHost.StartAsync(
            _server, new CheckpointEngineHostOptions { Listen = ["http://127.0.0.1:0"], Token = token, GatherPeers = peer.Addresses }, Cancellation);
        _client.DefaultRequestHeaders.Authorization = new("Bearer", "shared");
        using (HttpResponseMessage gathered = await _client.PostAsync(host.Addresses[0] + "/v1/checkpoints/a%2Fb/gather-metas", null, Cancellation))
        {
            await gathered.AssertEmptyOkAsync();
        }
        using var metasClient = new MetasClient(new MetasClientOptions { Token = token });
        Assert.Equal(new[] { 0, 1 }, Ranks(await metasClient.FetchAsync(host.Addresses[0] + "/v1/metas", Cancellation)));
        using HttpResponseMessage missing = await _client.PostAsync(host.Addresses[0] + "/v1/checkpoints/other/gather-metas", null, Cancellation);
        await missing.AssertProblemAsync(HttpStatusCode.InternalServerError, "other");
    }

    [Fact]
    public async Task MapCheckpointEngine_BelowAPrefixOfAnyApplication_Answers()
    {
        await _server.RegisterAsync("a%2Fb", [SmallModel.Write(Path.Join(_directory.FullName, "model"))], Cancellation);
        WebApplicationBuilder builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.UseUrls("http://127.0.0.1:0");
        await using WebApplication application = builder.Build();
        application.MapGroup("/engine").MapCheckpointEngine(_server);
        await application.StartAsync(Cancellation);
        using var metasClient = new MetasClient();
        Assert.Equal(new[] { 0 }, Ranks(await metasClient.FetchAsync(application.Urls.First() + "/engine/v1/checkpoints/a%252Fb/metas", Cancellation)));
        await application.StopAsync(Cancellation);
    }

    private static int[] Ranks(CheckpointMetas metas)
    {
        int[] ranks = new int[metas.Owners.Length];
        for (int owner = 0; owner < ranks.Length; owner++)
        {
            ranks[owner] = metas.Owners[owner].Rank;
        }
        return ranks;
    }

    private async Task<HttpResponseMessage> PostAsync(string url, string json)
    {
        using var content = new StringContent(json, null, "application/json");
        return await _client.PostAsync(url, content, Cancellation);
    }
}
