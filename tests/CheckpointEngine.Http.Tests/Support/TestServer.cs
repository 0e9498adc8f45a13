using System.Net.Sockets;
using System.Text;
using CheckpointEngine.Http.Replies;

namespace CheckpointEngine.Http.Tests.Support;

/// <summary>A real Kestrel on a free loopback port over a <see cref="FakeStore"/>, and a client for it.</summary>
internal sealed class TestServer : IAsyncDisposable
{
    private TestServer(CheckpointEngineHost host, FakeStore store, EncodedMetas encoded)
    {
        Host = host;
        Store = store;
        Encoded = encoded;
        Uri = new Uri(host.Addresses[0]);
        Client = new HttpClient(new SocketsHttpHandler { UseProxy = false }) { BaseAddress = Uri };
    }

    internal CheckpointEngineHost Host { get; }

    internal FakeStore Store { get; }

    internal EncodedMetas Encoded { get; }

    internal Uri Uri { get; }

    internal HttpClient Client { get; }

    internal static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    internal static async Task<TestServer> StartAsync(FakeStore? store = null, Action<CheckpointEngineHostOptions>? configure = null)
    {
        store ??= new FakeStore();
        var encoded = new EncodedMetas();
        var options = new CheckpointEngineHostOptions { Listen = ["http://127.0.0.1:0"] };
        configure?.Invoke(options);
        return new TestServer(await CheckpointEngineHost.StartAsync(store, encoded, options, Cancellation), store, encoded);
    }

    internal async Task<HttpResponseMessage> GetAsync(string path, params (string Name, string Value)[] headers)
        => await SendAsync(HttpMethod.Get, path, null, headers);

    internal async Task<HttpResponseMessage> SendAsync(HttpMethod method, string path, HttpContent? content = null, params (string Name, string Value)[] headers)
    {
        using var request = new HttpRequestMessage(method, path) { Content = content };
        foreach ((string name, string value) in headers)
        {
            Assert.True(request.Headers.TryAddWithoutValidation(name, value));
        }
        return await Client.SendAsync(request, Cancellation);
    }

    /// <summary>Sends bytes as they are and returns all that comes back until the server closes.</summary>
    internal async Task<string> SendRawAsync(string request)
    {
        using var socket = new TcpClient();
        await socket.ConnectAsync(Uri.Host, Uri.Port, Cancellation);
        NetworkStream stream = socket.GetStream();
        await stream.WriteAsync(Encoding.Latin1.GetBytes(request), Cancellation);
        using var reader = new StreamReader(stream, Encoding.UTF8);
        return await reader.ReadToEndAsync(Cancellation);
    }

    public async ValueTask DisposeAsync()
    {
        Client.Dispose();
        await Host.DisposeAsync();
    }
}
