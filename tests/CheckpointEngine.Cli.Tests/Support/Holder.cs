using System.Text.Json;

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

    public ValueTask DisposeAsync() => Engine.DisposeAsync();
}
