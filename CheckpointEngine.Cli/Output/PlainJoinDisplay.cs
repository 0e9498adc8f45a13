using System.Diagnostics;

namespace CheckpointEngine.Cli.Output;

/// <summary>Progress as lines, for logs: at most one every two seconds, none for a join that is over sooner.</summary>
internal sealed class PlainJoinDisplay : JoinDisplay
{
    private static readonly TimeSpan s_interval = TimeSpan.FromSeconds(2);

    public override async Task<JoinReport> RunAsync(Func<IProgress<JoinProgress>, Task<JoinReport>> join)
    {
        Task<JoinReport> running = join(this);
        var rate = new TransferRate();
        using var timer = new PeriodicTimer(s_interval);
        Task<bool> tick = timer.WaitForNextTickAsync().AsTask();
        while (await Task.WhenAny(running, tick).ConfigureAwait(false) == tick)
        {
            Print(Latest, rate);
            tick = timer.WaitForNextTickAsync().AsTask();
        }
        return await running.ConfigureAwait(false);
    }

    private static void Print(in JoinProgress now, TransferRate rate)
    {
        double bytesPerSecond = rate.Update(now.BytesDone, Stopwatch.GetTimestamp());
        if (now.BytesTotal <= 0)
        {
            Console.Out.WriteLine(string.IsNullOrEmpty(now.Phase) ? "starting" : now.Phase);
            return;
        }
        string left = bytesPerSecond > 0 ? $", {(now.BytesTotal - now.BytesDone) / bytesPerSecond:0} s left" : "";
        Console.Out.WriteLine($"{now.Phase}: {Quantity.Bytes(now.BytesDone)} of {Quantity.Bytes(now.BytesTotal)} ({100.0 * now.BytesDone / now.BytesTotal:0} %), "
            + $"{Quantity.Bytes(bytesPerSecond)}/s{left}, {LanesText(now.Lanes)}");
    }

    private sealed class TransferRate
    {
        private long _bytes;
        private long _timestamp = Stopwatch.GetTimestamp();

        // Bytes a second since the last call; 0 when a new round began in between.
        public double Update(long bytes, long timestamp)
        {
            double seconds = Stopwatch.GetElapsedTime(_timestamp, timestamp).TotalSeconds;
            double rate = seconds > 0 && bytes >= _bytes ? (bytes - _bytes) / seconds : 0;
            _bytes = bytes;
            _timestamp = timestamp;
            return rate;
        }
    }
}
