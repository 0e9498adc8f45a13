using CheckpointEngine.Metas;

namespace CheckpointEngine.Native;

/// <summary>Where metas come from: some that are there, or URLs, of which several are replicas.</summary>
/// <remarks>One fetch at a time; owns the certificate of its options.</remarks>
internal sealed class MetasSource : IDisposable
{
    private readonly CheckpointMetas? _metas;
    private readonly string[] _urls = [];
    private readonly MetasClientOptions? _options;
    private readonly MetasClient? _client;
    private readonly List<string> _notes = [];

    internal MetasSource(CheckpointMetas metas) => _metas = metas;

    internal MetasSource(string[] urls, MetasClientOptions options) => (_urls, _options, _client) = (urls, options, new MetasClient(options));

    /// <summary>Whether they may be others when they are fetched again.</summary>
    internal bool MayChange => _client is not null;

    /// <summary>Which replicas were left out, a line for each.</summary>
    internal IEnumerable<string> Notes => _notes;

    /// <exception cref="CheckpointEngineException">As of <see cref="MetasClient.FetchReplicasAsync"/>.</exception>
    internal async Task<CheckpointMetas> FetchAsync(CancellationToken cancellationToken)
    {
        if (_client is null)
        {
            return _metas!;
        }
        var now = new List<string>();
        CheckpointMetas fetched = await _client.FetchReplicasAsync(_urls, failure => now.Add($"went on without it: {failure.Message}"), cancellationToken).ConfigureAwait(false);
        _notes.AddRange(now.Except(_notes));
        return fetched;
    }

    /// <summary>Waits for other metas than those of an entity tag, in whole seconds and as often as the longest wait of one request takes; null when there are none.</summary>
    /// <exception cref="CheckpointEngineException">As of <see cref="MetasClient.FollowAsync"/>.</exception>
    internal async Task<PublishedMetas?> FollowAsync(string? entityTag, ulong waitMs, CancellationToken cancellationToken)
    {
        const ulong MostSeconds = 300;
        ulong seconds = (waitMs / 1000) + (waitMs % 1000 == 0 ? 0UL : 1);
        while (true)
        {
            ulong slice = Math.Min(seconds, MostSeconds);
            PublishedMetas? told = await _client!.FollowAsync(_urls[0], entityTag, TimeSpan.FromSeconds(slice), cancellationToken).ConfigureAwait(false);
            seconds -= waitMs == ulong.MaxValue ? 0 : slice;
            if (told is not null || seconds == 0)
            {
                return told;
            }
        }
    }

    public void Dispose()
    {
        _client?.Dispose();
        _options?.ClientCertificate?.Dispose();
    }
}
