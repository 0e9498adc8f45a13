using System.Buffers.Binary;
using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Text;
using System.Text.Json;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Fuzz.Support;

/// <summary>A <c>checkpoint-engine serve</c> of its own, which must live, answer and stay small whatever comes to its ports.</summary>
/// <remarks>One thread. It has 64 KiB under the name fuzz, and no token.</remarks>
internal sealed class HolderProcess : IDisposable
{
    /// <summary>What it holds.</summary>
    internal const int Bytes = 64 << 10;

    // Conversations that are being closed, and what the thread pool has grown by.
    private const int MostMore = 64;

    // Buffers that are kept for the next conversation, and a heap that breathes.
    private const long MostBytesMore = 96 << 20;

    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);

    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("ce-fuzz-");
    private readonly StringBuilder _errors = new();
    private readonly HttpClient _http = new(new SocketsHttpHandler { UseProxy = false }) { Timeout = s_patience };
    private readonly Process _process;
    private Figures? _first;

    internal HolderProcess()
    {
        WriteCheckpoint(Path.Combine(_directory.FullName, "model.safetensors"));
        _process = Process.Start(new ProcessStartInfo(Command!, ["serve", "--checkpoint", "fuzz=" + _directory.FullName, "--hold", "anon", "--allow-path", _directory.FullName, "--listen", "http://127.0.0.1:0",
            "--max-requests", "http=1000000,peers=1000000", "--drain-timeout", "0", "--json"]) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        _process.ErrorDataReceived += (_, line) =>
        {
            lock (_errors)
            {
                _errors.AppendLine(line.Data);
                _errors.Remove(0, Math.Max(0, _errors.Length - 8192));
            }
        };
        _process.BeginErrorReadLine();
        string ready = _process.StandardOutput.ReadLine() ?? throw new InvalidOperationException($"{Command} serves nothing: {Errors}");
        using JsonDocument document = JsonDocument.Parse(ready);
        var http = new Uri(document.RootElement.GetProperty("http").GetString()!);
        _http.BaseAddress = http;
        Http = new IPEndPoint(IPAddress.Loopback, http.Port);
        var name = EndpointName.Parse(document.RootElement.GetProperty("p2p_store_addr").GetString()!);
        Handshake = new IPEndPoint(IPAddress.Loopback, name.Port);
        SegmentDescriptor descriptor = HandshakeClient.FetchDescriptorAsync(name, "{\"protocol\":\"tcp\"}"u8.ToArray()).AsTask().GetAwaiter().GetResult();
        Data = new IPEndPoint(IPAddress.Loopback, descriptor.TcpDataPort);
        Peers = new IPEndPoint(IPAddress.Loopback, EndpointName.Parse(descriptor.Engine!.Peer).Port);
        Address = descriptor.Buffers[0].Address;
    }

    /// <summary>The command as it ships, compiled ahead of time: CHECKPOINT_ENGINE_TEST_COMMAND, or <c>artifacts/bin/checkpoint-engine</c> of the working tree; null when it is not there.</summary>
    internal static string? Command { get; } = FindCommand();

    internal IPEndPoint Http { get; }

    internal IPEndPoint Handshake { get; }

    internal IPEndPoint Peers { get; }

    internal IPEndPoint Data { get; }

    /// <summary>Where its 64 KiB are.</summary>
    internal ulong Address { get; }

    internal TimeSpan ProcessorTime
    {
        get
        {
            _process.Refresh();
            return _process.TotalProcessorTime;
        }
    }

    private string Errors
    {
        get
        {
            lock (_errors)
            {
                return _errors.ToString();
            }
        }
    }

    /// <summary>Asks after its health.</summary>
    /// <exception cref="FindingException">It has none, or has said that something happened that should not.</exception>
    internal void CheckLives()
    {
        try
        {
            using HttpResponseMessage answer = _http.Send(new HttpRequestMessage(HttpMethod.Get, "/v1/healthz"));
            if (answer.StatusCode != HttpStatusCode.OK)
            {
                throw new FindingException($"health: {answer.StatusCode}\n{Errors}");
            }
        }
        catch (Exception silent) when (silent is HttpRequestException or TaskCanceledException)
        {
            throw new FindingException($"{(_process.WaitForExit(TimeSpan.FromSeconds(1)) ? $"it ended with {_process.ExitCode}" : "health is silent")}: {silent.Message}\n{Errors}");
        }
        if (Errors is { } errors && (errors.Contains("   at ", StringComparison.Ordinal) || errors.Contains("Unhandled", StringComparison.Ordinal)))
        {
            throw new FindingException($"it has met something unexpected: {errors}");
        }
    }

    /// <summary>Compares what it has with what it had the first time, and puts back what it should hold if somebody has taken it away.</summary>
    /// <exception cref="FindingException">It has grown.</exception>
    internal void CheckSize()
    {
        using HttpResponseMessage held = _http.Send(new HttpRequestMessage(HttpMethod.Get, "/v1/checkpoints/fuzz/side-files"));
        if (held.StatusCode == HttpStatusCode.NotFound)
        {
            using var again = new HttpRequestMessage(HttpMethod.Post, "/v1/checkpoints/fuzz/files") { Content = new StringContent($"{{\"files\":[\"{_directory.FullName}\"]}}", null, "application/json") };
            using HttpResponseMessage registered = _http.Send(again);
        }
        _first ??= Read();
        Figures now = Read();
        for (long start = Stopwatch.GetTimestamp(); !now.IsWithin(_first) && Stopwatch.GetElapsedTime(start) < s_patience; now = Read())
        {
            Thread.Sleep(20);       // what is being closed is closed soon
        }
        if (!now.IsWithin(_first))
        {
            throw new FindingException($"it had {_first}, and now has {now}");
        }
    }

    public void Dispose()
    {
        _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
        _http.Dispose();
        _directory.Delete(recursive: true);
    }

    private Figures Read()
    {
        string resident = File.ReadLines($"/proc/{_process.Id}/status").Single(line => line.StartsWith("VmRSS:", StringComparison.Ordinal));
        return new Figures(long.Parse(resident.Split(' ', StringSplitOptions.RemoveEmptyEntries)[^2], CultureInfo.InvariantCulture) << 10,
            Directory.GetDirectories($"/proc/{_process.Id}/task").Length, Directory.GetFileSystemEntries($"/proc/{_process.Id}/fd").Length);
    }

    private static void WriteCheckpoint(string path)
    {
        byte[] header = Encoding.UTF8.GetBytes($"{{\"fuzz\":{{\"dtype\":\"U8\",\"shape\":[{Bytes}],\"data_offsets\":[0,{Bytes}]}}}}");
        byte[] file = new byte[sizeof(long) + header.Length + Bytes];
        BinaryPrimitives.WriteInt64LittleEndian(file, header.Length);
        header.CopyTo(file, sizeof(long));
        new Random(1).NextBytes(file.AsSpan(sizeof(long) + header.Length));
        File.WriteAllBytes(path, file);
    }

    private static string? FindCommand()
    {
        if (Environment.GetEnvironmentVariable("CHECKPOINT_ENGINE_TEST_COMMAND") is { Length: > 0 } named)
        {
            return named;
        }
        for (string? directory = AppContext.BaseDirectory; directory is not null; directory = Path.GetDirectoryName(directory))
        {
            if (File.Exists(Path.Combine(directory, "CheckpointEngine.slnx")))
            {
                string command = Path.Combine(directory, "artifacts", "bin", "checkpoint-engine");
                return File.Exists(command) ? command : null;
            }
        }
        return null;
    }

    private sealed record Figures(long ResidentBytes, int Threads, int Descriptors)
    {
        public bool IsWithin(Figures first) => ResidentBytes <= first.ResidentBytes + MostBytesMore && Threads <= first.Threads + MostMore && Descriptors <= first.Descriptors + MostMore;

        public override string ToString() => $"{ResidentBytes >> 20} MiB, {Threads} threads, {Descriptors} descriptors";
    }
}
