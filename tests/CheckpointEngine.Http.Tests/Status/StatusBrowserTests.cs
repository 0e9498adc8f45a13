using System.Buffers.Binary;
using System.Diagnostics;
using CheckpointEngine.Access;
using CheckpointEngine.Http.Tests.Support;

namespace CheckpointEngine.Http.Tests.Status;

/// <summary>The page in a real browser: it logs in, it looks, and no name runs as a script.</summary>
public sealed class StatusBrowserTests : IDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(2);
    private readonly string _directory = Directory.CreateTempSubdirectory("ce-browser-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Fact]
    public async Task Browser_HostileNames_AreShownAndNotRun()
    {
        var hostile = new CheckpointStatus { Name = StatusPageTests.HostileName.Trim('\0'), State = "held", Kind = "map", Generation = 3, Tensors = 1, Bytes = 1 };
        await using TestServer server = await StartAsync(() => BusyStatus.Make(hostile));
        string document = await RunAsync("--dump-dom", Url(server));
        Assert.Contains("<title>CheckpointEngine", document, StringComparison.Ordinal);
        Assert.Contains("&lt;script&gt;document.title='owned'&lt;/script&gt;", document, StringComparison.Ordinal);
        Assert.DoesNotContain("<title>owned", document, StringComparison.Ordinal);
        Assert.DoesNotContain("<img", document, StringComparison.Ordinal);
        Assert.DoesNotContain("<script", document, StringComparison.Ordinal);
    }

    // With CHECKPOINT_ENGINE_SCREENSHOT=docs/status.png it makes the picture that the documentation shows.
    [Theory]
    [InlineData("light", 1)]
    [InlineData("dark", 0)]
    public async Task Browser_Screenshot_HasColoursOfTheSchemeThatIsPreferred(string scheme, int blinkScheme)
    {
        await using TestServer server = await StartAsync(() => BusyStatus.Make());
        await RunAsync("--dump-dom", Url(server));        // a look before, for rates
        string file = Path.Join(_directory, scheme + ".png");
        await RunAsync($"--blink-settings=preferredColorScheme={blinkScheme}", "--window-size=1280,960", "--hide-scrollbars", $"--screenshot={file}", Url(server));
        byte[] picture = await File.ReadAllBytesAsync(file, TestServer.Cancellation);
        Assert.Equal((1280, 960), (BinaryPrimitives.ReadInt32BigEndian(picture.AsSpan(16)), BinaryPrimitives.ReadInt32BigEndian(picture.AsSpan(20))));
        Assert.True(picture.Length > 30_000, $"{picture.Length} bytes: an empty page");      // text and tables do not pack to less
        if (scheme == "light" && Environment.GetEnvironmentVariable("CHECKPOINT_ENGINE_SCREENSHOT") is { Length: > 0 } kept)
        {
            File.Copy(file, Path.Join(Repository.Root, kept), overwrite: true);
        }
    }

    private static Task<TestServer> StartAsync(Func<ServerStatus> status) => TestServer.StartAsync(new FakeStore { Status = status }, options => options.Token = AccessToken.FromText("secret-token"));

    private static string Url(TestServer server) => $"http://me:secret-token@{server.Uri.Authority}/";

    private async Task<string> RunAsync(params string[] arguments)
    {
        string? browser = (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':').Select(static directory => Path.Join(directory, "chromium")).FirstOrDefault(File.Exists);
        Assert.SkipUnless(browser is not null, "there is no chromium in the PATH (Debian: chromium)");
        var start = new ProcessStartInfo(browser!) { RedirectStandardOutput = true, RedirectStandardError = true };
        string[] quiet = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server", $"--user-data-dir={Path.Join(_directory, "profile")}"];
        foreach (string argument in quiet.Concat(arguments))
        {
            start.ArgumentList.Add(argument);
        }
        using Process process = Process.Start(start)!;
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(TestServer.Cancellation);
        patience.CancelAfter(s_patience);
        try
        {
            Task<string> output = process.StandardOutput.ReadToEndAsync(patience.Token);
            Task<string> errors = process.StandardError.ReadToEndAsync(patience.Token);
            await process.WaitForExitAsync(patience.Token);
            Assert.True(process.ExitCode == 0, await errors);
            return await output;
        }
        finally
        {
            if (!process.HasExited)
            {
                process.Kill(entireProcessTree: true);
            }
        }
    }
}
