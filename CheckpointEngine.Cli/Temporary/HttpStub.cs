// A stand-in until the branch http is merged; then this folder goes.
#pragma warning disable CA1822
using CheckpointEngine.Peers;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Http;

internal sealed class CheckpointEngineHostOptions
{
    public string Listen { get; set; } = "";
    public string? TlsCertificateFile { get; set; }
    public string? TlsKeyFile { get; set; }
    public string? TlsClientCaFile { get; set; }
    public AccessToken? Token { get; set; }
    public bool Insecure { get; set; }
    public IReadOnlyList<string> AllowPaths { get; set; } = [];
    public IReadOnlyList<string> GatherPeers { get; set; } = [];
    public ILoggerFactory? LoggerFactory { get; set; }
}

internal sealed class CheckpointEngineHost : IAsyncDisposable
{
    public IReadOnlyList<string> Addresses { get; init; } = [];
    public static Task<CheckpointEngineHost> StartAsync(ParameterServer server, CheckpointEngineHostOptions options, CancellationToken cancellationToken = default)
        => Task.FromResult(new CheckpointEngineHost { Addresses = [server.PeerUrl] });
    public Task StopAsync(CancellationToken cancellationToken = default) => Task.CompletedTask;
    public ValueTask DisposeAsync() => ValueTask.CompletedTask;
}
