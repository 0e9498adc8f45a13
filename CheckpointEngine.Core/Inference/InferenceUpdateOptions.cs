namespace CheckpointEngine.Inference;

/// <summary>How the weights of a held checkpoint are brought into a running inference server.</summary>
public sealed class InferenceUpdateOptions
{
    /// <summary>Base URL of the server, as upstream's default: <c>http://localhost:19730</c>.</summary>
    public Uri Endpoint { get; set; } = new("http://localhost:19730");

    /// <summary>Reach the server through this Unix socket; the host of <see cref="Endpoint"/> then only names it. Default null: over TCP.</summary>
    public string? UnixSocket { get; set; }

    /// <summary>A key that the server's admin endpoints ask for, sent as a bearer token; default none.</summary>
    public string? ApiKey { get; set; }

    /// <summary>The server; default vLLM.</summary>
    public InferenceEngine Engine { get; set; }

    /// <summary>Number of its workers, 1 to 1024; default 1. Of no meaning for files.</summary>
    public int InferenceParallelSize { get; set; } = 1;

    /// <summary>What its workers speak; default 0.4.</summary>
    public WorkerProtocol WorkerProtocol { get; set; }

    /// <summary>Which memory its workers are given; default that of their GPUs where there are any, else shared memory of the host. The report names the devices.</summary>
    public UpdateDeviceKind Devices { get; set; } = UpdateDeviceKind.Auto;

    /// <summary>
    /// Bytes of a bucket, of which there are two. 0 (the default): 64 MiB in host memory, 256 MiB on GPUs. At most <c>PS_MAX_BUCKET_SIZE_GB</c> (8), but for a larger
    /// tensor there is room while memory allows.
    /// </summary>
    public long BucketBytes { get; set; }

    /// <summary>How long the server may take to become healthy; default 10 minutes.</summary>
    public TimeSpan HealthTimeout { get; set; } = TimeSpan.FromMinutes(10);

    /// <summary>The longest a worker may take for one message: to map the buffer, to load a bucket, to finish; default 2 minutes.</summary>
    public TimeSpan StepTimeout { get; set; } = TimeSpan.FromMinutes(2);

    /// <summary>The longest the whole update may take once the server is healthy and the first bucket there, also told to vLLM; default 300 s, as upstream.</summary>
    public TimeSpan UpdateTimeout { get; set; } = TimeSpan.FromSeconds(300);

    /// <summary>Have SGLang drop its cache of prefixes, which is of the old weights; default true.</summary>
    public bool FlushCache { get; set; } = true;

    /// <summary>What SGLang calls the weights from then on; default null: it keeps its name.</summary>
    public string? WeightVersion { get; set; }

    /// <summary>For the ways by files: where they are written, absent or empty; default a new directory in <c>/dev/shm</c>. The server must see the same path.</summary>
    public string? DirectoryPath { get; set; }

    /// <summary>For the ways by files: leave them there afterwards.</summary>
    public bool KeepFiles { get; set; }

    /// <summary>Whether the server reads files.</summary>
    internal bool IsByFiles => Engine is InferenceEngine.VllmFiles or InferenceEngine.SglangFiles;

    internal void ThrowIfUnfit()
    {
        ArgumentNullException.ThrowIfNull(Endpoint);
        if (!Endpoint.IsAbsoluteUri || Endpoint.Scheme is not ("http" or "https"))
        {
            throw new ArgumentException($"'{Endpoint}' is no http(s) URL of an inference server");
        }
        ArgumentOutOfRangeException.ThrowIfLessThan(InferenceParallelSize, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(InferenceParallelSize, 1024);
        ArgumentOutOfRangeException.ThrowIfNegative(BucketBytes);
        ThrowIfNoTime(HealthTimeout, nameof(HealthTimeout));
        ThrowIfNoTime(StepTimeout, nameof(StepTimeout));
        ThrowIfNoTime(UpdateTimeout, nameof(UpdateTimeout));
    }

    // A month is more than any update takes and less than a timer refuses.
    private static void ThrowIfNoTime(TimeSpan time, string name)
    {
        if (time <= TimeSpan.Zero || time > TimeSpan.FromDays(31))
        {
            throw new ArgumentOutOfRangeException(name, $"{time} is not between 0 and 31 days");
        }
    }
}
