using System.CommandLine;
using System.CommandLine.Parsing;
using CheckpointEngine.Cli.Commands;
using CheckpointEngine.Inference;

namespace CheckpointEngine.Cli.Options;

/// <summary>Which inference server takes the weights, and how.</summary>
internal sealed class InferenceOptions
{
    private readonly Option<string> _endpoint = new("--endpoint")
    {
        Description = "The inference server: http://HOST:PORT; its control endpoints are admin surfaces, so reach them over loopback or --uds",
        HelpName = "URL",
    };

    private readonly Option<string> _unixSocket = new("--uds") { Description = "Reach it through this Unix socket", HelpName = "PATH" };

    private readonly Option<string> _engine = OptionRules.Word("--engine",
        "What it is (default vllm), or -files: it reads safetensors, which are written for it and removed again", "vllm", "sglang", "lmdeploy", "vllm-files", "sglang-files");

    private readonly Option<int> _parallelSize = OptionRules.Integer("--inference-parallel-size", "N", "Number of its workers; default 8, as upstream", 1, 1024, 8);

    private readonly Option<string> _protocol = OptionRules.Word("--worker-protocol",
        "Which checkpoint-engine its workers have: 0.4 or later (default), 0.2 to 0.3, or 0.1", "0.4", "0.2", "0.1");

    private readonly Option<string> _devices = OptionRules.Word("--update-devices", "Memory that its workers take weights from: of their GPUs where there are any, else of this host (auto, default), or just that", "auto", "host", "cuda");
    private readonly Option<int> _bucketMebibytes = OptionRules.Integer("--bucket-mib", "N", "MiB of a bucket, of which there are two; default 64 in host memory, 256 on GPUs; PS_MAX_BUCKET_SIZE_GB limits it", 1, 1 << 24);
    private readonly Option<string> _apiKeyFile = new("--api-key-file") { Description = "File with the key that its admin endpoints ask for", HelpName = "FILE" };
    private readonly Option<string> _weightVersion = new("--weight-version") { Description = "What SGLang calls these weights", HelpName = "NAME" };
    private readonly Option<bool> _noFlushCache = new("--no-flush-cache") { Description = "Have SGLang keep its cache of prefixes, which is of the old weights" };
    private readonly Option<string> _filesDirectory = new("--files-dir") { Description = "With -files: where they are written, absent or empty; default a new directory in /dev/shm", HelpName = "DIR" };
    private readonly Option<bool> _keepFiles = new("--keep-files") { Description = "With -files: leave them there" };
    private readonly Option<TimeSpan?> _healthTimeout = OptionRules.Seconds("--health-timeout", "The longest the server may take to be up; default 600");
    private readonly Option<TimeSpan?> _stepTimeout = OptionRules.Seconds("--step-timeout", "The longest a worker may take for one bucket; default 120");
    private readonly Option<TimeSpan?> _updateTimeout = OptionRules.Seconds("--update-timeout", "The longest the update may take once the server is up; default 300");

    public InferenceOptions(Command command)
    {
        Group = new OptionGroup("Inference server",
        [
            _endpoint, _unixSocket, _engine, _parallelSize, _protocol, _devices, _bucketMebibytes, _apiKeyFile, _weightVersion, _noFlushCache, _filesDirectory, _keepFiles,
            _healthTimeout, _stepTimeout, _updateTimeout,
        ]);
        command.Validators.Add(result =>
        {
            if (result.GetValue(_endpoint) is { } url && (!Uri.TryCreate(url, UriKind.Absolute, out Uri? uri) || uri.Scheme is not ("http" or "https")))
            {
                result.AddError($"--endpoint: '{url}' is not http(s)://HOST:PORT");
            }
            bool byFiles = result.GetValue(_engine)?.EndsWith("-files", StringComparison.Ordinal) == true;
            if (!byFiles && (result.IsGiven(_filesDirectory) || result.IsGiven(_keepFiles)))
            {
                result.AddError($"{(result.IsGiven(_filesDirectory) ? _filesDirectory.Name : _keepFiles.Name)} needs --engine vllm-files or sglang-files");
            }
        });
    }

    public OptionGroup Group { get; }

    /// <summary>The first option that means nothing without <c>--endpoint</c>, or null.</summary>
    public Option? FindLonely(SymbolResult result) => result.IsGiven(_endpoint) ? null : Group.Options.FirstOrDefault(option => option != _endpoint && result.IsGiven(option));

    public bool IsGiven(SymbolResult result) => result.IsGiven(_endpoint);

    public bool IsGiven(ParseResult parsed) => parsed.IsGiven(_endpoint);

    public InferenceUpdateOptions Create(ParseResult parsed)
    {
        var options = new InferenceUpdateOptions
        {
            UnixSocket = parsed.GetValue(_unixSocket),
            Engine = parsed.GetValue(_engine) switch
            {
                "sglang" => InferenceEngine.Sglang,
                "lmdeploy" => InferenceEngine.Lmdeploy,
                "vllm-files" => InferenceEngine.VllmFiles,
                "sglang-files" => InferenceEngine.SglangFiles,
                _ => InferenceEngine.Vllm,
            },
            InferenceParallelSize = parsed.GetValue(_parallelSize),
            WorkerProtocol = parsed.GetValue(_protocol) switch { "0.2" => WorkerProtocol.V02, "0.1" => WorkerProtocol.V01, _ => WorkerProtocol.V04 },
            Devices = parsed.GetValue(_devices) switch { "cuda" => UpdateDeviceKind.Cuda, "host" => UpdateDeviceKind.Host, _ => UpdateDeviceKind.Auto },
            BucketBytes = (long)parsed.GetValue(_bucketMebibytes) << 20,
            ApiKey = parsed.GetValue(_apiKeyFile) is { } file ? ReadKey(file) : null,
            WeightVersion = parsed.GetValue(_weightVersion),
            FlushCache = !parsed.GetValue(_noFlushCache),
            DirectoryPath = parsed.GetValue(_filesDirectory),
            KeepFiles = parsed.GetValue(_keepFiles),
        };
        options.Endpoint = parsed.GetValue(_endpoint) is { } endpoint ? new Uri(endpoint) : options.Endpoint;
        options.HealthTimeout = Limit(parsed.GetValue(_healthTimeout)) ?? options.HealthTimeout;
        options.StepTimeout = Limit(parsed.GetValue(_stepTimeout)) ?? options.StepTimeout;
        options.UpdateTimeout = Limit(parsed.GetValue(_updateTimeout)) ?? options.UpdateTimeout;
        return options;
    }

    private static TimeSpan? Limit(TimeSpan? given) => given > TimeSpan.FromDays(31) ? TimeSpan.FromDays(31) : given;

    private static string ReadKey(string file)
    {
        try
        {
            return File.ReadAllText(file).Trim();
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            throw new CheckpointEngineException(CheckpointError.Io, $"--api-key-file: {failure.Message}", 0, failure);
        }
    }
}
