using CheckpointEngine.Metas;

namespace CheckpointEngine.Native;

/// <summary>Where a URL's metas come from.</summary>
internal static class MetasSource
{
    /// <summary>Fetches metas once; the certificate of <paramref name="options"/> is disposed.</summary>
    internal static async Task<CheckpointMetas> FetchAsync(string url, MetasClientOptions options, CancellationToken cancellationToken)
    {
        try
        {
            using var client = new MetasClient(options);
            return await client.FetchAsync(url, cancellationToken).ConfigureAwait(false);
        }
        finally
        {
            options.ClientCertificate?.Dispose();
        }
    }
}
