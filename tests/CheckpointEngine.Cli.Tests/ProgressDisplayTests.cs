using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Cli.Output;

namespace CheckpointEngine.Cli.Tests;

public sealed class ProgressDisplayTests
{
    [Fact]
    public async Task Plain_OfACopy_TellsBytesShareAndRate()
    {
        using var lines = new LineWriter();
        var display = new PlainProgressDisplay(lines, TimeSpan.FromMilliseconds(1));
        string line = await display.RunAsync(async shown =>
        {
            shown.Report(new LoadProgress(1L << 29, 2L << 30));
            return await lines.First.WaitAsync(TestContext.Current.CancellationToken);
        });
        Assert.StartsWith("copy: 512.00 MiB of 2.00 GiB (25 %), ", line, StringComparison.Ordinal);
        Assert.DoesNotContain("lane", line, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Plain_OfAJoin_TellsLanes()
    {
        using var lines = new LineWriter();
        var display = new PlainProgressDisplay(lines, TimeSpan.FromMilliseconds(1));
        string line = await display.RunAsync(async shown =>
        {
            shown.Report(new JoinProgress(1L << 29, 2L << 30, 2, "transfer"));
            return await lines.First.WaitAsync(TestContext.Current.CancellationToken);
        });
        Assert.StartsWith("transfer: 512.00 MiB of 2.00 GiB (25 %), ", line, StringComparison.Ordinal);
        Assert.EndsWith(", 2 lanes", line, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(HoldMode.Anonymous, true)]
    [InlineData(HoldMode.Map, false)]
    public void OfRegistration_JsonOrNothingToCopy_ShowsNothing(HoldMode hold, bool json)
    {
        ProgressDisplay display = ProgressDisplay.OfRegistration(hold, json);
        Assert.False(display is PlainProgressDisplay or LiveProgressDisplay);
    }

    // The first line that begins with a phase; "starting" may come before it.
    private sealed class LineWriter : StringWriter
    {
        private readonly TaskCompletionSource<string> _first = new(TaskCreationOptions.RunContinuationsAsynchronously);

        internal Task<string> First => _first.Task;

        public override Encoding Encoding => Encoding.UTF8;

        public override void WriteLine(string? value)
        {
            if (value!.Contains(':', StringComparison.Ordinal))
            {
                _first.TrySetResult(value);
            }
        }
    }
}
