using System.Formats.Tar;
using System.Net;
using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Http.Tests.Support;

namespace CheckpointEngine.Http.Tests.Endpoints;

public sealed class CheckpointEndpointsTests : IDisposable
{
    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("ce-http-");

    public void Dispose() => _directory.Delete(recursive: true);

    [Fact]
    public async Task Health_Answers200Empty()
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await server.GetAsync("/v1/healthz");
        await reply.AssertEmptyOkAsync();
        using HttpResponseMessage head = await server.SendAsync(HttpMethod.Head, "/v1/healthz");
        await head.AssertEmptyOkAsync();
    }

    [Theory]
    [InlineData("GET", "/v1/checkpoints", HttpStatusCode.NotFound)]
    [InlineData("GET", "/v1/checkpoints//metas", HttpStatusCode.NotFound)]
    [InlineData("GET", "/v1/checkpoints/m/update", HttpStatusCode.MethodNotAllowed)]
    [InlineData("POST", "/v1/healthz", HttpStatusCode.MethodNotAllowed)]
    [InlineData("POST", "/v1/readyz", HttpStatusCode.MethodNotAllowed)]
    [InlineData("PUT", "/v1/metas", HttpStatusCode.MethodNotAllowed)]
    [InlineData("GET", "/v1/checkpoints/m", HttpStatusCode.MethodNotAllowed)]
    [InlineData("GET", "/v1/checkpoints/m/files", HttpStatusCode.MethodNotAllowed)]
    [InlineData("DELETE", "/v1/checkpoints/m/metas", HttpStatusCode.MethodNotAllowed)]
    public async Task Routing_OfWhatIsNotThere_Is404Or405(string method, string path, HttpStatusCode status)
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await server.SendAsync(new HttpMethod(method), path);
        Assert.Equal(status, reply.StatusCode);
        Assert.Empty(server.Store.Calls);
    }

    [Theory]
    [InlineData("POST", "/v1/metas")]
    [InlineData("DELETE", "/v1/checkpoints/m")]
    public async Task Change_AskedByAForeignPage_Is403(string method, string path)
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await server.SendAsync(new HttpMethod(method), path, null, ("Sec-Fetch-Site", "cross-site"));
        await reply.AssertProblemAsync(HttpStatusCode.Forbidden);
        Assert.Empty(server.Store.Calls);
    }

    [Fact]
    public async Task Delete_OfKnownAndUnknown_Is200Empty()
    {
        await using TestServer server = await TestServer.StartAsync(new FakeStore().Publish("m", Samples.TwoRanks));
        foreach (string name in new[] { "m", "m", "other" })
        {
            using HttpResponseMessage reply = await server.SendAsync(HttpMethod.Delete, $"/v1/checkpoints/{name}");
            await reply.AssertEmptyOkAsync();
        }
        Assert.Equal(["unregister m", "unregister m", "unregister other"], server.Store.Calls);
    }

    [Theory]
    [InlineData("true", "replace m")]
    [InlineData("false", "register m")]
    public async Task Register_Replace_IsPassedOn(string replace, string call)
    {
        string file = Create("model.safetensors");
        await using TestServer server = await StartAllowingAsync(_directory.FullName);
        using HttpResponseMessage reply = await server.SendAsync(HttpMethod.Post, "/v1/checkpoints/m/files", new StringContent($"{{\"files\":[\"{file}\"],\"replace\":{replace}}}", System.Text.Encoding.UTF8, "application/json"));
        await reply.AssertEmptyOkAsync();
        Assert.Equal([call], server.Store.Calls);
    }

    [Fact]
    public async Task Register_OfAnAllowedFile_PassesItsResolvedPath()
    {
        string real = Create("real/model.safetensors");
        File.CreateSymbolicLink(Path.Join(_directory.FullName, "link.safetensors"), real);
        await using TestServer server = await StartAllowingAsync(_directory.FullName);
        using HttpResponseMessage reply = await RegisterAsync(server, Path.Join(_directory.FullName, "link.safetensors"), Path.Join(_directory.FullName, "real/../real/./model.safetensors"));
        await reply.AssertEmptyOkAsync();
        Assert.Equal(["register m"], server.Store.Calls);
        Assert.Equal([real, real], Assert.Single(server.Store.Registered));
    }

    [Theory]
    [InlineData("", null)]
    [InlineData(",\"use_shared_memory_pool\":null", null)]
    [InlineData(",\"use_shared_memory_pool\":true", true)]
    [InlineData(",\"use_shared_memory_pool\":false", false)]
    public async Task Register_WithOrWithoutThePool_PassesWhatWasSaid(string member, bool? said)
    {
        await using TestServer server = await StartAllowingAsync(_directory.FullName);
        using var content = new StringContent($$"""{"files":["{{Create("model.safetensors")}}"]{{member}}}""");
        using HttpResponseMessage reply = await server.SendAsync(HttpMethod.Post, "/v1/checkpoints/m/files", content);
        await reply.AssertEmptyOkAsync();
        Assert.Equal(said, server.Store.RegisteredWith!.SharedPool);
    }

    [Theory]
    [InlineData("?force=true", "unregister m and its pool")]
    [InlineData("?force=false", "unregister m")]
    [InlineData("?force=1", null)]
    public async Task Delete_ByForce_FreesThePool(string query, string? call)
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await server.SendAsync(HttpMethod.Delete, "/v1/checkpoints/m" + query);
        if (call is null)
        {
            await reply.AssertProblemAsync(HttpStatusCode.BadRequest, "force=1");
            Assert.Empty(server.Store.Calls);
        }
        else
        {
            await reply.AssertEmptyOkAsync();
            Assert.Equal([call], server.Store.Calls);
        }
    }

    [Fact]
    public async Task Register_WithoutAllowedPaths_Is403AndNamesTheFlag()
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await RegisterAsync(server, Create("model.safetensors"));
        await reply.AssertProblemAsync(HttpStatusCode.Forbidden, "--allow-path");
        Assert.Empty(server.Store.Calls);
    }

    [Theory]
    [InlineData("/etc/passwd")]
    [InlineData("$/allowed/../outside/x.safetensors")]
    [InlineData("$/allowed/file-link.safetensors")]
    [InlineData("$/allowed/directory-link/x.safetensors")]
    [InlineData("$/allowed/loop")]
    [InlineData("$/allowed-too/x.safetensors")]
    [InlineData("$/allowed/model")]
    [InlineData("$/allowed/model/model.safetensors.index.json")]
    [InlineData("$/allowed/nested")]
    [InlineData("$/allowed/missing/../../outside/x.safetensors")]
    public async Task Register_OfWhatLeadsOutside_Is403(string path)
    {
        Create("outside/x.safetensors");
        Create("allowed/model/model.safetensors.index.json");
        Create("allowed/nested/sub/y.safetensors");
        Create("allowed-too/x.safetensors");
        string allowed = Path.Join(_directory.FullName, "allowed");
        File.CreateSymbolicLink(Path.Join(allowed, "file-link.safetensors"), "../outside/x.safetensors");
        File.CreateSymbolicLink(Path.Join(allowed, "model/shard.safetensors"), "../../outside/x.safetensors");
        File.CreateSymbolicLink(Path.Join(allowed, "nested/sub/z.safetensors"), "/etc/passwd");
        File.CreateSymbolicLink(Path.Join(allowed, "loop"), "loop");
        Directory.CreateSymbolicLink(Path.Join(allowed, "directory-link"), "../outside");
        await using TestServer server = await StartAllowingAsync(allowed);
        using HttpResponseMessage reply = await RegisterAsync(server, path.Replace("$", _directory.FullName, StringComparison.Ordinal));
        await reply.AssertProblemAsync(HttpStatusCode.Forbidden);
        Assert.Empty(server.Store.Calls);
    }

    [Fact]
    public async Task Register_OfAHubSnapshotWhoseBlobsAreAllowed_Passes()
    {
        Create("hub/blobs/abc");
        Create("hub/snapshots/1/config.json");
        File.CreateSymbolicLink(Path.Join(_directory.FullName, "hub/snapshots/1/model.safetensors"), "../../blobs/abc");
        Directory.CreateSymbolicLink(Path.Join(_directory.FullName, "entrance"), "hub");
        await using TestServer server = await StartAllowingAsync(Path.Join(_directory.FullName, "entrance") + "/");
        using HttpResponseMessage reply = await RegisterAsync(server, Path.Join(_directory.FullName, "hub/snapshots/1"));
        await reply.AssertEmptyOkAsync();
    }

    [Theory]
    [InlineData("{\"files\":[\"relative.safetensors\"]}", HttpStatusCode.BadRequest)]
    [InlineData("{\"files\":[\"/tmp/a\\u0000b\"]}", HttpStatusCode.BadRequest)]
    [InlineData("{\"files\":[\"\"]}", HttpStatusCode.BadRequest)]
    [InlineData("{\"files\":[]}", HttpStatusCode.BadRequest)]
    [InlineData("{\"files\":", HttpStatusCode.BadRequest)]
    [InlineData("", HttpStatusCode.BadRequest)]
    [InlineData("{\"files\":[null]}", HttpStatusCode.UnprocessableEntity)]
    [InlineData("{\"files\":null}", HttpStatusCode.UnprocessableEntity)]
    [InlineData("{\"files\":\"/a\"}", HttpStatusCode.UnprocessableEntity)]
    [InlineData("{}", HttpStatusCode.UnprocessableEntity)]
    [InlineData("null", HttpStatusCode.UnprocessableEntity)]
    [InlineData("[]", HttpStatusCode.UnprocessableEntity)]
    public async Task Register_OfABadBody_Is400Or422(string body, HttpStatusCode status)
    {
        await using TestServer server = await StartAllowingAsync(_directory.FullName);
        using HttpResponseMessage reply = await server.SendAsync(HttpMethod.Post, "/v1/checkpoints/m/files", new StringContent(body));
        await reply.AssertProblemAsync(status);
        Assert.Empty(server.Store.Calls);
    }

    [Theory]
    [InlineData(CheckpointError.AlreadyExists, HttpStatusCode.Conflict)]
    [InlineData(CheckpointError.NotFound, HttpStatusCode.BadRequest)]
    [InlineData(CheckpointError.InvalidData, HttpStatusCode.BadRequest)]
    [InlineData(CheckpointError.OutOfMemory, HttpStatusCode.InternalServerError)]
    [InlineData(CheckpointError.Io, HttpStatusCode.InternalServerError)]
    public async Task Register_StoreFails_HasTheStatusOfItsKind(CheckpointError error, HttpStatusCode status)
    {
        await using TestServer server = await StartAllowingAsync(_directory.FullName);
        server.Store.Failure = new CheckpointEngineException(error, "because");
        using HttpResponseMessage reply = await RegisterAsync(server, Create("model.safetensors"));
        await reply.AssertProblemAsync(status, "because");
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Register_OfAListBeyondItsLimit_Is413(bool isChunked)
    {
        await using TestServer server = await StartAllowingAsync(_directory.FullName);
        using var content = new StringContent("{\"files\":[\"" + new string('x', 1 << 20) + "\"]}");
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/checkpoints/m/files") { Content = content };
        request.Headers.TransferEncodingChunked = isChunked;
        using HttpResponseMessage reply = await server.Client.SendAsync(request, TestServer.Cancellation);
        await reply.AssertProblemAsync(HttpStatusCode.RequestEntityTooLarge);
        Assert.Empty(server.Store.Calls);
    }

    [Fact]
    public async Task Health_WhileARegistrationBlocks_Answers()
    {
        await using TestServer server = await StartAllowingAsync(_directory.FullName);
        var begun = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        using var release = new ManualResetEventSlim();
        server.Store.OnRegister = _ =>
        {
            begun.SetResult();
            release.Wait(TestServer.Cancellation);      // holds the thread, as reading a terabyte would
            return Task.CompletedTask;
        };
        Task<HttpResponseMessage> registration = RegisterAsync(server, Create("model.safetensors"));
        await begun.Task.WaitAsync(TestServer.Cancellation);
        using HttpResponseMessage health = await server.GetAsync("/v1/healthz");
        await health.AssertEmptyOkAsync();
        Assert.False(registration.IsCompleted);
        release.Set();
        using HttpResponseMessage reply = await registration;
        await reply.AssertEmptyOkAsync();
    }

    [Fact]
    public async Task Register_ClientGoes_IsCancelled()
    {
        await using TestServer server = await StartAllowingAsync(_directory.FullName);
        var begun = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var cancelled = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        server.Store.OnRegister = async cancellation =>
        {
            using CancellationTokenRegistration gone = cancellation.Register(cancelled.SetResult);
            begun.SetResult();
            await Task.Delay(Timeout.Infinite, cancellation);
        };
        using var client = new CancellationTokenSource();
        using var content = new StringContent($$"""{"files":["{{Create("model.safetensors")}}"]}""");
        Task registration = server.Client.PostAsync("/v1/checkpoints/m/files", content, client.Token);
        await begun.Task.WaitAsync(TestServer.Cancellation);
        await client.CancelAsync();
        await cancelled.Task.WaitAsync(TestServer.Cancellation);
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => registration);
    }

    [Fact]
    public async Task SideFiles_OfAHeldCheckpoint_AreATar()
    {
        var store = new FakeStore();
        string longName = new string('t', 120) + ".json";
        store.SideFiles["m"] = [new SideFile("config.json", "{}"u8.ToArray()), new SideFile("モデル.txt", new byte[100_000]), new SideFile("empty.txt", default), new SideFile(longName, "x"u8.ToArray())];
        await using TestServer server = await TestServer.StartAsync(store);
        using HttpResponseMessage reply = await server.GetAsync("/v1/checkpoints/m/side-files");
        Assert.Equal("application/x-tar", reply.Content.Headers.ContentType?.ToString());
        var files = new Dictionary<string, byte[]>();
        using var tar = new TarReader(new MemoryStream(await reply.ReadBytesAsync()));
        while (tar.GetNextEntry() is { } entry)
        {
            using var content = new MemoryStream();
            entry.DataStream?.CopyTo(content);
            files.Add(entry.Name, content.ToArray());
        }
        Assert.Equal(["config.json", "empty.txt", longName, "モデル.txt"], files.Keys.Order(StringComparer.Ordinal));
        Assert.Equal("{}", Encoding.UTF8.GetString(files["config.json"]));
        Assert.Equal(100_000, files["モデル.txt"].Length);
        Assert.Empty(files["empty.txt"]);
    }

    [Fact]
    public async Task SideFiles_OfAnUnknownCheckpoint_Are404()
    {
        await using TestServer server = await TestServer.StartAsync();
        using HttpResponseMessage reply = await server.GetAsync("/v1/checkpoints/m/side-files");
        await reply.AssertProblemAsync(HttpStatusCode.NotFound, "'m'");
    }

    private static Task<TestServer> StartAllowingAsync(string path) => TestServer.StartAsync(null, options => options.AllowPaths = [path]);

    private static Task<HttpResponseMessage> RegisterAsync(TestServer server, params string[] files)
        => server.SendAsync(HttpMethod.Post, "/v1/checkpoints/m/files", new StringContent($$"""{"files":[{{string.Join(',', files.Select(file => $"\"{file}\""))}}],"more":1}"""));

    private string Create(string name)
    {
        string path = Path.Join(_directory.FullName, name);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        File.WriteAllText(path, "");
        return path;
    }
}
