using System.Buffers;
using System.CommandLine;
using CheckpointEngine.Access;
using CheckpointEngine.Cli.Options;
using CheckpointEngine.Cli.Output;
using CheckpointEngine.Http;
using CheckpointEngine.Http.Telemetry;
using CheckpointEngine.Internal;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Cli;

/// <summary>The part of a holder's life that <c>serve</c> and <c>join --serve</c> share: answer over HTTP, gather, say ready, stay.</summary>
internal sealed class HolderSession(ListenOptions listen, LimitOptions limits, ParseResult parsed, AccessToken? token, MetasClientOptions client, TelemetryExport? telemetry, ReloadSignal reload, ILoggerFactory logging)
{
    private static readonly TimeSpan s_firstRetry = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan s_longestRetry = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan s_noteEvery = TimeSpan.FromSeconds(15);

    private volatile string? _notReady;     // what /v1/readyz says until there is the whole world to tell of

    /// <summary>Serves what <paramref name="server"/> holds until a signal or the end of <c>--sleep-time</c>.</summary>
    /// <exception cref="OperationCanceledException">A signal came before it was ready.</exception>
    public async Task RunAsync(ParameterServer server, bool json, CancellationToken stop)
    {
        SchedulerSlice.ShortenAll();
        _notReady = listen.Gather(parsed) ? "it still gathers the metas of its peers" : null;
        await using CheckpointEngineHost host = await StartHostAsync(server, stop).ConfigureAwait(false);
        if (listen.HasCertificate(parsed))
        {
            reload.Add(() => host.ReloadCertificates());
            reload.Add(() => server.ReloadCertificates());
        }
        if (listen.Gather(parsed))
        {
            foreach (string name in server.CheckpointNames)
            {
                await GatherAsync(server, name, stop).ConfigureAwait(false);
            }
            _notReady = null;
        }
        if (listen.SaveMetasFile(parsed) is { } file)
        {
            SaveMetas(server, file);
        }
        ReadyLine.Print(server, host.Addresses, json);
        ServiceManager.TellReady(server.CheckpointNames.Count);
        try
        {
            await Task.Delay(listen.SleepTime(parsed) ?? Timeout.InfiniteTimeSpan, stop).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            // The signal a holder waits for: from here on it drains, which is a good end.
        }
        ServiceManager.TellStopping();
        await host.StopAsync(CancellationToken.None).ConfigureAwait(false);
    }

    private async Task<CheckpointEngineHost> StartHostAsync(ParameterServer server, CancellationToken stop)
    {
        CheckpointEngineHostOptions options = listen.CreateHostOptions(parsed, token, client, limits.HttpLimits(parsed), () => _notReady, telemetry, logging);
        try
        {
            return await CheckpointEngineHost.StartAsync(server, options, stop).ConfigureAwait(false);
        }
        catch (ArgumentException mistake)
        {
            throw new UsageException(mistake.Message);
        }
    }

    private async Task GatherAsync(ParameterServer server, string name, CancellationToken stop)
    {
        TimeSpan pause = s_firstRetry;
        long noted = Environment.TickCount64;
        while (true)
        {
            try
            {
                await server.GatherMetasAsync(name, listen.Peers(parsed), client, stop).ConfigureAwait(false);
                return;
            }
            catch (CheckpointEngineException absent)
                when (absent.Error is CheckpointError.Unreachable or CheckpointError.NotFound or CheckpointError.Timeout)
            {
                // Not up yet, or up and still registering: the usual course when all ranks start together.
                if (Environment.TickCount64 - noted > s_noteEvery.TotalMilliseconds)
                {
                    Stderr.Note($"still gathering '{name}': {absent.Message}");
                    noted = Environment.TickCount64;
                }
                await Task.Delay(pause, stop).ConfigureAwait(false);
                pause = pause * 2 < s_longestRetry ? pause * 2 : s_longestRetry;
            }
        }
    }

    private static void SaveMetas(ParameterServer server, string file)
    {
        IReadOnlyList<string> names = server.CheckpointNames;
        if (names.Count != 1)
        {
            throw new UsageException($"--save-metas-file: a file holds the metas of one checkpoint, here are {names.Count}");
        }
        bool json = Path.GetExtension(file).Equals(".json", StringComparison.OrdinalIgnoreCase);
        MetasFile.Write(server.GetMetas(names[0]).Metas, file, json ? MetasFormat.Json : MetasFormat.Pickle);
    }
}
