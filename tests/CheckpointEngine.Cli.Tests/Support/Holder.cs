using System.Diagnostics;
using System.Text.Json;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>A running <c>serve</c> or <c>join --serve</c> that has said it is ready.</summary>
internal sealed class Holder : IAsyncDisposable
{
    private Holder(Engine engine, JsonElement ready)
    {
        Engine = engine;
        Ready = ready;
    }

    public Engine Engine { get; }

    /// <summary>The ready line.</summary>
    public JsonElement Ready { get; }

    public string Http => Ready.GetProperty("http").GetString()!;

    public string P2pStoreAddress => Ready.GetProperty("p2p_store_addr").GetString()!;

    public string MetasUrl => Http + (Http.StartsWith("unix:", StringComparison.Ordinal) ? ":" : "") + "/v1/metas";

    /// <summary>Serves a directory under the name m on any free port.</summary>
    public static Task<Holder> ServeAsync(string directory, params string[] more)
        => StartAsync(["serve", "--checkpoint", "m=" + directory, "--listen", "http://127.0.0.1:0", "--json", .. more]);

    public static Task<Holder> StartAsync(params string[] arguments) => StartAsync(new Dictionary<string, string>(), arguments);

    public static Task<Holder> StartAsync(Dictionary<string, string> environment, params string[] arguments) => ReadyAsync(Engine.Start(environment, arguments));

    /// <summary>Starts it by another command, which becomes it.</summary>
    public static Task<Holder> StartAsync(string[] before, params string[] arguments) => ReadyAsync(Engine.StartAs(before, arguments));

    private static async Task<Holder> ReadyAsync(Engine engine)
    {
        try
        {
            string line = await engine.WaitForLineAsync(line => line.StartsWith("{\"ready\":", StringComparison.Ordinal));
            using JsonDocument document = JsonDocument.Parse(line);
            return new Holder(engine, document.RootElement.Clone());
        }
        catch
        {
            await engine.DisposeAsync();
            throw;
        }
    }

    /// <summary>Asks after its health every 20 ms.</summary>
    /// <param name="isStranger">Over a connection for each question, which has to get in.</param>
    /// <param name="end">Ends it.</param>
    /// <returns>How long the answers took.</returns>
    public Task<AnswerTimes> WatchHealthAsync(bool isStranger, CancellationToken end)
        => Task.Factory.StartNew(() => WatchHealth(isStranger, end), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);

    // On a thread of its own, or the time of an answer would be that of whatever else the pool of the tests has to do.
    private AnswerTimes WatchHealth(bool isStranger, CancellationToken end)
    {
        SchedulerSlice.ShortenOwn();
        using var client = new HttpClient(new SocketsHttpHandler { UseProxy = false, PooledConnectionLifetime = isStranger ? TimeSpan.Zero : Timeout.InfiniteTimeSpan });
        var answers = new List<TimeSpan>();
        do
        {
            long start = Stopwatch.GetTimestamp();
            using var question = new HttpRequestMessage(HttpMethod.Get, new Uri(Http + "/v1/healthz"));
            client.Send(question, CancellationToken.None).EnsureSuccessStatusCode().Dispose();
            answers.Add(Stopwatch.GetElapsedTime(start));
        }
        while (!end.WaitHandle.WaitOne(TimeSpan.FromMilliseconds(20)));
        return AnswerTimes.Of(answers);
    }

    public ValueTask DisposeAsync() => Engine.DisposeAsync();
}
