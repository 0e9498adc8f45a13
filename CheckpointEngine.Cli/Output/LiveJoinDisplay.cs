using Spectre.Console;
using Spectre.Console.Rendering;

namespace CheckpointEngine.Cli.Output;

/// <summary>Progress as a live bar on a terminal: phase, bytes, rate, time left, lanes.</summary>
internal sealed class LiveJoinDisplay : JoinDisplay
{
    private static readonly TimeSpan s_interval = TimeSpan.FromMilliseconds(100);

    public override Task<JoinReport> RunAsync(Func<IProgress<JoinProgress>, Task<JoinReport>> join)
    {
        Progress bar = AnsiConsole.Progress()
            .AutoClear(true)
            .Columns(
                new TaskDescriptionColumn(),
                new ProgressBarColumn(),
                new PercentageColumn(),
                new DownloadedColumn { Base = FileSizeBase.Binary },
                new TransferSpeedColumn { Base = FileSizeBase.Binary },
                new RemainingTimeColumn(),
                new LanesColumn(this));
        return bar.StartAsync(context => FollowAsync(context, join(this)));
    }

    private async Task<JoinReport> FollowAsync(ProgressContext context, Task<JoinReport> running)
    {
        ProgressTask task = context.AddTask("metas");
        task.IsIndeterminate = true;
        using var timer = new PeriodicTimer(s_interval);
        Task<bool> tick = timer.WaitForNextTickAsync().AsTask();
        while (await Task.WhenAny(running, tick).ConfigureAwait(false) == tick)
        {
            JoinProgress now = Latest;
            task.Description = string.IsNullOrEmpty(now.Phase) ? "starting" : Markup.Escape(now.Phase);
            task.IsIndeterminate = now.BytesTotal <= 0;
            if (now.BytesTotal > 0)
            {
                // A bar that reaches its end stops; another round may follow.
                task.MaxValue = now.BytesTotal;
                task.Value = Math.Min(now.BytesDone, now.BytesTotal - 1);
            }
            tick = timer.WaitForNextTickAsync().AsTask();
        }
        return await running.ConfigureAwait(false);
    }

    private sealed class LanesColumn(LiveJoinDisplay display) : ProgressColumn
    {
        public override IRenderable Render(RenderOptions options, ProgressTask task, TimeSpan deltaTime)
            => new Text(display.Latest.Lanes is > 0 and int lanes ? LanesText(lanes) : "");
    }
}
