using System.Diagnostics;

namespace CheckpointEngine.Cli.Output;

/// <summary>Progress as lines, for logs: at most one every two seconds, none for what is over sooner.</summary>
internal sealed class PlainProgressDisplay(TextWriter output, TimeSpan interval) : ProgressDisplay
{
    public PlainProgressDisplay(TextWriter output)
        : this(output, TimeSpan.FromSeconds(2))
    {
    }

    public override async Task<T> RunAsync<T>(Func<ProgressDisplay, Task<T>> work)
    {
        Task<T> running = work(this);
        var rate = new TransferRate();
        using var timer = new PeriodicTimer(interval);
        Task<bool> tick = timer.WaitForNextTickAsync().AsTask();
        while (await Task.WhenAny(running, tick).ConfigureAwait(false) == tick)
        {
            Print(Latest, rate);
            tick = timer.WaitForNextTickAsync().AsTask();
        }
        return await running.ConfigureAwait(false);
    }

    private void Print(in JoinProgress now, TransferRate rate)
    {
        double bytesPerSecond = rate.Update(now.BytesDone, Stopwatch.GetTimestamp());
        if (now.BytesTotal <= 0)
        {
            output.WriteLine(string.IsNullOrEmpty(now.Phase) ? "starting" : now.Phase);
            return;
        }
        string left = bytesPerSecond > 0 ? $", {(now.BytesTotal - now.BytesDone) / bytesPerSecond:0} s left" : "";
        string lanes = now.Lanes > 0 ? ", " + LanesText(now.Lanes) : "";
        output.WriteLine($"{now.Phase}: {Quantity.Bytes(now.BytesDone)} of {Quantity.Bytes(now.BytesTotal)} ({100.0 * now.BytesDone / now.BytesTotal:0} %), "
            + $"{Quantity.Bytes(bytesPerSecond)}/s{left}{lanes}");
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
