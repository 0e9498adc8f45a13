using System.Buffers;
using System.Diagnostics;
using System.Net;
using System.Net.Http.Headers;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Inference;

/// <summary>The control endpoints of an inference server, over TCP or a Unix socket.</summary>
/// <remarks>Any number of threads. What the server answers is bounded, cleaned and told.</remarks>
internal sealed class InferenceClient : IDisposable
{
    // A server that starts answers nothing for minutes; the first seconds are when one that runs already says so.
    private static readonly TimeSpan s_firstRetry = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan s_longestRetry = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan s_healthAnswer = TimeSpan.FromSeconds(10);

    private const int MaxAnswerBytes = 256 << 10;
    private const int MaxTextChars = 2000;

    private readonly InferenceUpdateOptions _options;
    private readonly HttpClient _http;
    private readonly string _base;

    internal InferenceClient(InferenceUpdateOptions options)
    {
        _options = options;
        _base = options.Endpoint.GetLeftPart(UriPartial.Path).TrimEnd('/');
        var handler = new SocketsHttpHandler
        {
            AllowAutoRedirect = false,
            UseCookies = false,
            UseProxy = false,           // a control endpoint is on this host, or named to be reached
            ConnectTimeout = TimeSpan.FromSeconds(5),
        };
        if (options.UnixSocket is string path)
        {
            handler.ConnectCallback = async (_, cancellationToken) =>
            {
                var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                try
                {
                    await socket.ConnectAsync(new UnixDomainSocketEndPoint(path), cancellationToken).ConfigureAwait(false);
                    return new NetworkStream(socket, ownsSocket: true);
                }
                catch
                {
                    socket.Dispose();
                    throw;
                }
            };
        }
        _http = new HttpClient(handler) { Timeout = Timeout.InfiniteTimeSpan };
    }

    /// <summary>What messages call the server.</summary>
    internal string Name => _options.UnixSocket is string path ? $"{_base} at {path}" : _base;

    public void Dispose() => _http.Dispose();

    /// <summary>Waits until the server says that it is up.</summary>
    /// <param name="waiting">Told why it is not, whenever that changes.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Timeout"/>, with what was last heard.</exception>
    internal async Task WaitUntilHealthyAsync(Action<string>? waiting, CancellationToken cancellationToken)
    {
        long start = Stopwatch.GetTimestamp();
        TimeSpan pause = s_firstRetry;
        string? told = null;
        while (true)
        {
            string? reason = await ProbeAsync("/health", cancellationToken).ConfigureAwait(false);
            if (reason is not null && _options.Engine == InferenceEngine.Sglang)
            {
                // Started to wait for its first weights it is not healthy before it has them.
                reason = await ProbeAsync("/ping", cancellationToken).ConfigureAwait(false) is null ? null : reason;
            }
            if (reason is null)
            {
                return;
            }
            if (Stopwatch.GetElapsedTime(start) + pause > _options.HealthTimeout)
            {
                ThrowHelper.Throw(CheckpointError.Timeout,
                    $"update: {Name} was not healthy within {_options.HealthTimeout.TotalSeconds:0.#} s: {reason}; check that the inference server runs and listens there");
            }
            if (reason != told)
            {
                waiting?.Invoke(told = reason);
            }
            await Task.Delay(pause, cancellationToken).ConfigureAwait(false);
            pause = pause * 2 < s_longestRetry ? pause * 2 : s_longestRetry;
        }
    }

    /// <summary>Asks the server to take weights from sockets; completes when it has.</summary>
    /// <exception cref="CheckpointEngineException">It could not, with what it says.</exception>
    internal Task UpdateFromSocketsAsync(WorkerGroup workers, CancellationToken cancellationToken)
    {
        (string path, byte[] body) = Write(json =>
        {
            bool vllm = _options.Engine == InferenceEngine.Vllm;
            if (vllm)
            {
                json.WriteString("method"u8, "update_weights_from_ipc"u8);
                json.WriteStartArray("args"u8);
                json.WriteStartObject();
            }
            else
            {
                json.WriteStartObject("zmq_handles"u8);
            }
            for (int worker = 0; worker < workers.Count; worker++)
            {
                json.WriteString(workers.Uuid(worker), workers.Address(worker));
            }
            json.WriteEndObject();
            if (vllm)
            {
                json.WriteEndArray();
                WriteTimeout(json);
            }
            else if (_options.Engine == InferenceEngine.Sglang)
            {
                WriteFlushAndVersion(json);
                json.WriteBoolean("torch_empty_cache"u8, false);
            }
            return vllm ? "/collective_rpc" : "/update_weights_from_ipc";
        });
        return PostAsync(path, body, cancellationToken);
    }

    /// <summary>Asks the server to read files; completes when it has.</summary>
    /// <exception cref="CheckpointEngineException">It could not, with what it says.</exception>
    internal Task UpdateFromFilesAsync(string directory, CancellationToken cancellationToken)
    {
        (string path, byte[] body) = Write(json =>
        {
            if (_options.Engine == InferenceEngine.VllmFiles)
            {
                json.WriteString("method"u8, "reload_weights"u8);
                json.WriteStartObject("kwargs"u8);
                json.WriteString("weights_path"u8, directory);
                json.WriteBoolean("is_checkpoint_format"u8, true);
                json.WriteEndObject();
                WriteTimeout(json);
                return "/collective_rpc";
            }
            json.WriteString("model_path"u8, directory);
            json.WriteNull("load_format"u8);
            WriteFlushAndVersion(json);
            return "/update_weights_from_disk";
        });
        return PostAsync(path, body, cancellationToken);
    }

    private static (string Path, byte[] Body) Write(Func<Utf8JsonWriter, string> members)
    {
        var body = new ArrayBufferWriter<byte>();
        using var json = new Utf8JsonWriter(body);
        json.WriteStartObject();
        string path = members(json);
        json.WriteEndObject();
        json.Flush();
        return (path, body.WrittenSpan.ToArray());
    }

    private void WriteTimeout(Utf8JsonWriter json) => json.WriteNumber("timeout"u8, _options.UpdateTimeout.TotalSeconds);

    private void WriteFlushAndVersion(Utf8JsonWriter json)
    {
        json.WriteBoolean("flush_cache"u8, _options.FlushCache);
        if (_options.WeightVersion is null)
        {
            json.WriteNull("weight_version"u8);
        }
        else
        {
            json.WriteString("weight_version"u8, _options.WeightVersion);
        }
    }

    // Null: it answers 200.
    private async Task<string?> ProbeAsync(string path, CancellationToken cancellationToken)
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limit.CancelAfter(s_healthAnswer);
        try
        {
            using HttpResponseMessage answer = await SendAsync(HttpMethod.Get, path, null, limit.Token).ConfigureAwait(false);
            return answer.StatusCode == HttpStatusCode.OK ? null : $"GET {path}: HTTP {(int)answer.StatusCode}";
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            return $"GET {path}: no answer within {s_healthAnswer.TotalSeconds:0} s";
        }
        catch (Exception failure) when (failure is HttpRequestException or IOException or SocketException)
        {
            return $"GET {path}: {failure.GetBaseException().Message}";
        }
    }

    private async Task PostAsync(string path, byte[] body, CancellationToken cancellationToken)
    {
        string what = $"update: POST {Name}{path}";
        try
        {
            using HttpResponseMessage answer = await SendAsync(HttpMethod.Post, path, body, cancellationToken).ConfigureAwait(false);
            string text = await ReadTextAsync(answer, cancellationToken).ConfigureAwait(false);
            if (!answer.IsSuccessStatusCode || SaysNo(text))
            {
                string hint = (int)answer.StatusCode switch
                {
                    401 or 403 => "; give the server's key (--api-key-file)",
                    404 when _options.Engine is InferenceEngine.Vllm or InferenceEngine.VllmFiles => "; start vLLM with VLLM_SERVER_DEV_MODE=1",
                    404 or 405 => "; this server does not have the endpoint: take another --engine, or a newer server",
                    _ => "",
                };
                ThrowHelper.Throw(CheckpointError.Refused, $"{what}: HTTP {(int)answer.StatusCode}{(text.Length == 0 ? "" : $": {MessageText.Clean(text, MaxTextChars)}")}{hint}");
            }
        }
        catch (Exception failure) when (failure is HttpRequestException or IOException or SocketException)
        {
            throw new CheckpointEngineException(CheckpointError.Unreachable, $"{what}: {failure.GetBaseException().Message}; look at the server's log", 0, failure);
        }
    }

    private Task<HttpResponseMessage> SendAsync(HttpMethod method, string path, byte[]? body, CancellationToken cancellationToken)
    {
        var request = new HttpRequestMessage(method, _base + path);
        if (body is not null)
        {
            request.Content = new ByteArrayContent(body);
            request.Content.Headers.ContentType = new MediaTypeHeaderValue("application/json");
        }
        if (_options.ApiKey is not null)
        {
            request.Headers.TryAddWithoutValidation("Authorization", $"Bearer {_options.ApiKey}");
        }
        return _http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, cancellationToken);
    }

    // SGLang says with 200, too, whether it succeeded.
    private static bool SaysNo(string text)
    {
        if (!text.StartsWith('{'))
        {
            return false;
        }
        try
        {
            using JsonDocument document = JsonDocument.Parse(text);
            return document.RootElement.TryGetProperty("success"u8, out JsonElement success) && success.ValueKind == JsonValueKind.False;
        }
        catch (JsonException)
        {
            return false;       // cut, or of another making: its status says enough
        }
    }

    private static async Task<string> ReadTextAsync(HttpResponseMessage answer, CancellationToken cancellationToken)
    {
        using Stream body = await answer.Content.ReadAsStreamAsync(cancellationToken).ConfigureAwait(false);
        byte[] text = new byte[MaxAnswerBytes];
        int length = await body.ReadAtLeastAsync(text, text.Length, throwOnEndOfStream: false, cancellationToken).ConfigureAwait(false);
        return Encoding.UTF8.GetString(text.AsSpan(0, length)).Trim();
    }
}
