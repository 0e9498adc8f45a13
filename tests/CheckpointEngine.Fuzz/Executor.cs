using System.Diagnostics;
using System.IO.MemoryMappedFiles;

namespace CheckpointEngine.Fuzz;

/// <summary>How an input ended.</summary>
/// <param name="Signature">Alike for inputs that took the same way, as far as result or message tell.</param>
/// <param name="Failure">Why it is a finding; null when it is none.</param>
internal readonly record struct Outcome(string Signature, string? Failure);

/// <summary>Runs inputs and holds their target to the rules: a value or a <see cref="CheckpointEngineException"/>, soon, for bounded memory.</summary>
/// <remarks>
/// One thread. The input under way lies in a mapped file, so that it is there after a fault that ends the process; a watchdog ends a process
/// that hangs.
/// </remarks>
internal sealed class Executor : IDisposable
{
    private const long FixedAllocationBytes = 64 << 20;
    private const int MaxMessageChars = 4096;
    private static readonly TimeSpan s_slow = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan s_hung = TimeSpan.FromSeconds(60);

    private readonly FuzzTarget _target;
    private readonly string _inFlightPath;
    private readonly MemoryMappedFile _inFlight;
    private readonly MemoryMappedViewAccessor _inFlightView;
    private readonly Timer _watchdog;
    private long _startedAt;

    internal Executor(FuzzTarget target, string artifacts)
    {
        _target = target;
        Directory.CreateDirectory(artifacts);
        _inFlightPath = Path.Combine(artifacts, $"{target.Name}.in-flight");
        _inFlight = MemoryMappedFile.CreateFromFile(_inFlightPath, FileMode.Create, null, 4 + InFlightBytes);
        _inFlightView = _inFlight.CreateViewAccessor();
        _watchdog = new Timer(_ => EndIfHung(), null, s_hung, TimeSpan.FromSeconds(5));
    }

    // Of a longer input (none is made here, but one may be replayed) the beginning is kept.
    private const int InFlightBytes = 4 << 20;

    /// <summary>Runs one input; a slow one again, since the machine may have been busy.</summary>
    internal Outcome Execute(byte[] input)
    {
        Outcome outcome = ExecuteOnce(input, out TimeSpan elapsed);
        for (int again = 0; again < 3 && elapsed > s_slow && outcome.Failure is null; again++)
        {
            outcome = ExecuteOnce(input, out elapsed);
        }
        return elapsed > s_slow && outcome.Failure is null
            ? outcome with { Failure = $"slow: {elapsed.TotalMilliseconds:N0} ms for {input.Length:N0} bytes" }
            : outcome;
    }

    public void Dispose()
    {
        _watchdog.Dispose();
        _inFlightView.Dispose();
        _inFlight.Dispose();
        File.Delete(_inFlightPath);
    }

    private Outcome ExecuteOnce(byte[] input, out TimeSpan elapsed)
    {
        int kept = Math.Min(input.Length, InFlightBytes);
        _inFlightView.Write(0, kept);
        _inFlightView.WriteArray(4, input, 0, kept);
        long allocatedBefore = Allocated();
        long start = Stopwatch.GetTimestamp();
        Volatile.Write(ref _startedAt, start);
        string signature = "";
        string? failure = null;
        CheckpointEngineException? refused = null;
        try
        {
            signature = _target.Run(input);
        }
        catch (CheckpointEngineException refusal)
        {
            refused = refusal;
        }
        catch (Exception finding)
        {
            failure = finding is FindingException ? $"broken promise: {finding.Message}" : $"{finding.GetType().Name}: {finding}";
        }
        elapsed = Stopwatch.GetElapsedTime(start);
        Volatile.Write(ref _startedAt, 0);
        long allocated = Allocated() - allocatedBefore;
        if (refused is not null)
        {
            signature = $"{refused.Error}: {Shape(refused.Message)}";
            failure = CheckRefusal(refused);
        }
        long allowed = FixedAllocationBytes + (long)_target.AllocationPerInputByte * input.Length;
        failure ??= allocated > allowed ? $"memory: {allocated:N0} managed bytes for {input.Length:N0} of input" : null;
        return new Outcome(signature, failure);
    }

    private long Allocated() => _target.UsesOtherThreads ? GC.GetTotalAllocatedBytes(precise: false) : GC.GetAllocatedBytesForCurrentThread();

    // A message goes into logs and answers: one line, not long, whatever a stranger wrote.
    private static string? CheckRefusal(CheckpointEngineException refused)
    {
        if (!Enum.IsDefined(refused.Error))
        {
            return $"error kind: {(int)refused.Error} is none";
        }
        if (refused.Message.Length > MaxMessageChars)
        {
            return $"long message: {refused.Message.Length:N0} characters, beginning with {refused.Message[..200]}";
        }
        int control = refused.Message.AsSpan().IndexOfAnyInRange('\0', '\u001f');
        return control >= 0 || refused.Message.AsSpan().IndexOfAnyInRange('\u007f', '\u009f') >= 0
            ? $"control character in a message: {refused.Message}"
            : null;
    }

    // The message without what comes from the input: its numbers, and all from the first quotation mark to the last (to the end, where it was cut).
    private static string Shape(string message)
    {
        int quote = message.IndexOf('\'');
        string text = quote < 0 ? message : message[..quote] + (message.Contains('…') ? "" : message[(message.LastIndexOf('\'') + 1)..]);
        return new string([.. text.Where(character => !char.IsAsciiHexDigit(character))]);
    }

    private void EndIfHung()
    {
        long started = Volatile.Read(ref _startedAt);
        if (started != 0 && Stopwatch.GetElapsedTime(started) > s_hung)
        {
            Console.WriteLine($"FAIL {_target.Name}: hangs; its input: {_inFlightPath}, behind 4 bytes of length");
            Console.Out.Flush();
            Environment.FailFast($"fuzz target {_target.Name} hangs");
        }
    }
}
