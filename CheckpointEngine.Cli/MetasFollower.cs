using CheckpointEngine.Cli.Output;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Cli;

/// <summary>What follows one URL: the next version of the metas, again and again.</summary>
internal sealed class MetasFollower(string url, MetasClientOptions options) : IDisposable
{
    private static readonly TimeSpan s_wait = TimeSpan.FromSeconds(60);
    private static readonly TimeSpan s_pause = TimeSpan.FromSeconds(1);

    private readonly MetasClient _client = new(options);
    private string _entityTag = "";

    /// <summary>The metas of now.</summary>
    /// <exception cref="CheckpointEngineException">As of <see cref="MetasClient.FollowAsync"/>.</exception>
    public async Task<CheckpointMetas> FetchAsync(CancellationToken cancellationToken)
    {
        PublishedMetas now = (await _client.FollowAsync(url, null, TimeSpan.Zero, cancellationToken).ConfigureAwait(false))!;
        _entityTag = now.EntityTag;
        return now.Metas;
    }

    /// <summary>Hands on every version behind the last one, until it is cancelled; what goes wrong is told, and tried again.</summary>
    /// <param name="next">Takes a version.</param>
    /// <param name="stop">Ends it.</param>
    public async Task RunAsync(Func<CheckpointMetas, Task> next, CancellationToken stop)
    {
        string told = "";
        while (!stop.IsCancellationRequested)
        {
            try
            {
                if (await _client.FollowAsync(url, _entityTag, s_wait, stop).ConfigureAwait(false) is PublishedMetas changed)
                {
                    await next(changed.Metas).ConfigureAwait(false);
                    _entityTag = changed.EntityTag;
                }
                told = "";
                continue;
            }
            catch (OperationCanceledException) when (stop.IsCancellationRequested)
            {
                return;
            }
            catch (CheckpointEngineException failure)
            {
                string reason = WithoutNumbers(failure.Message);
                if (told != reason)
                {
                    Stderr.Warning($"still at the version before: {failure.Message}");
                    told = reason;
                }
            }
            await Task.Delay(s_pause, stop).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    public void Dispose() => _client.Dispose();

    // Sizes and ports are others at each try.
    private static string WithoutNumbers(string text) => string.Concat(text.Where(static character => !char.IsAsciiDigit(character) && character != ','));
}
