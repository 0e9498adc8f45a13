using Spectre.Console;
using Spectre.Console.Rendering;

namespace CheckpointEngine.Cli.Output;

/// <summary>Progress as a live bar on a terminal: phase, bytes, rate, time left, lanes.</summary>
internal sealed class LiveProgressDisplay(TextWriter output) : ProgressDisplay
{
    private static readonly TimeSpan s_interval = TimeSpan.FromMilliseconds(100);

    public override Task<T> RunAsync<T>(Func<ProgressDisplay, Task<T>> work)
    {
        Progress bar = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(output) }).Progress()
            .AutoClear(true)
            .Columns(
                new TaskDescriptionColumn(),
                new ProgressBarColumn(),
                new PercentageColumn(),
                new DownloadedColumn { Base = FileSizeBase.Binary },
                new TransferSpeedColumn { Base = FileSizeBase.Binary },
                new RemainingTimeColumn(),
                new LanesColumn(this));
        return bar.StartAsync(context => FollowAsync(context, work(this)));
    }

    private async Task<T> FollowAsync<T>(ProgressContext context, Task<T> running)
    {
        ProgressTask task = context.AddTask("starting");
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

    private sealed class LanesColumn(LiveProgressDisplay display) : ProgressColumn
    {
        public override IRenderable Render(RenderOptions options, ProgressTask task, TimeSpan deltaTime)
            => new Text(LanesText(display.Latest.Lanes));
    }
}
