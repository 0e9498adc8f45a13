using System.Globalization;
using System.Net.Http.Json;
using System.Net.Sockets;

namespace CheckpointEngine.Cli.Tests.Support;

/// <summary>A holder's HTTP at a Unix socket, which network namespaces share: to change what it holds, and to ask how it is.</summary>
internal sealed class HolderControl : IDisposable
{
    private readonly HttpClient _http;

    /// <summary>Connects when it is first used.</summary>
    /// <param name="socket">The path that it listens on.</param>
    /// <param name="token">The token that it demands; null for none.</param>
    public HolderControl(string socket, string? token = null)
    {
        _http = new HttpClient(new SocketsHttpHandler
        {
            UseProxy = false,
            ConnectCallback = async (_, cancel) =>
            {
                var unix = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                await unix.ConnectAsync(new UnixDomainSocketEndPoint(socket), cancel);
                return new NetworkStream(unix, ownsSocket: true);
            },
        })
        {
            BaseAddress = new Uri("http://holder/"),
        };
        if (token is not null)
        {
            _http.DefaultRequestHeaders.Add("Authorization", "Bearer " + token);
        }
    }

    /// <summary>Puts the checkpoint of a directory in the place of m.</summary>
    public async Task ReplaceAsync(string directory) => Assert.Null(await TryReplaceAsync(directory));

    /// <summary>As <see cref="ReplaceAsync"/>; null, or why it was not taken.</summary>
    public async Task<string?> TryReplaceAsync(string directory)
    {
        using HttpResponseMessage answer = await _http.PostAsJsonAsync("v1/checkpoints/m/files", new Dictionary<string, object> { ["files"] = new[] { directory }, ["replace"] = true }, TestContext.Current.CancellationToken);
        return answer.IsSuccessStatusCode ? null : await answer.Content.ReadAsStringAsync(TestContext.Current.CancellationToken);
    }

    /// <summary>Leases that readers have there now.</summary>
    public async Task<int> CountLeasesAsync() => (int)await ReadMetricAsync("checkpoint_engine_leases_live");

    /// <summary>Bytes that it has sent over data connections so far.</summary>
    public async Task<long> CountSentBytesAsync() => (long)await ReadMetricAsync("checkpoint_engine_serve_sent_bytes_total");

    /// <summary>How often metas were asked for and answered so far.</summary>
    public async Task<int> CountMetasAnswersAsync()
        => (int)(await ReadMetricsAsync(line => line.StartsWith("http_server_request_duration_seconds_count{", StringComparison.Ordinal) && line.Contains("\"/v1/metas\"", StringComparison.Ordinal))).Sum();

    private async Task<double> ReadMetricAsync(string name) => Assert.Single(await ReadMetricsAsync(line => line.StartsWith(name, StringComparison.Ordinal)));

    private async Task<double[]> ReadMetricsAsync(Func<string, bool> which)
    {
        string metrics = await _http.GetStringAsync("metrics", TestContext.Current.CancellationToken);
        return [.. metrics.Split('\n').Where(which).Select(line => double.Parse(line[(line.LastIndexOf(' ') + 1)..], CultureInfo.InvariantCulture))];
    }

    public void Dispose() => _http.Dispose();
}
