using System.Diagnostics;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Inference;
using CheckpointEngine.Internal;
using CheckpointEngine.Join;
using CheckpointEngine.Metas;
using Microsoft.Extensions.Logging;

namespace CheckpointEngine;

public sealed partial class ParameterServer
{
    /// <summary>Brings a checkpoint that is held here into a running inference server.</summary>
    /// <param name="name">The checkpoint.</param>
    /// <param name="options">Which server, and how it takes weights.</param>
    /// <param name="progress">Told the state at every step, from a thread of the update.</param>
    /// <param name="cancellationToken">Ends it: the server's workers are told to stop, and it can take the next update.</param>
    /// <remarks>
    /// The checkpoint stays where it is until the update has ended: its unregistering, or a begin of its owner's update, waits
    /// (<see cref="ParameterServerOptions.DrainTimeout"/>) and then ends this one. After a failure the server may have parts of the new weights: update it
    /// again. One update at a time for a server is the caller's to see to.
    /// </remarks>
    /// <exception cref="CheckpointEngineException">
    /// <see cref="CheckpointError.NotFound"/>: it is not held here. <see cref="CheckpointError.Timeout"/>; <see cref="CheckpointError.Refused"/>: the server or a
    /// worker says no, with its words; <see cref="CheckpointError.Unreachable"/>; <see cref="CheckpointError.NotSupported"/>: no libzmq, or no such devices.
    /// </exception>
    /// <exception cref="ArgumentException">An option is out of its range.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public Task<InferenceUpdateReport> UpdateAsync(string name, InferenceUpdateOptions options, IProgress<InferenceUpdateProgress>? progress = null, CancellationToken cancellationToken = default)
        => UpdateAsync(name, options, null, progress, cancellationToken);

    private Task<InferenceUpdateReport> UpdateAsync(string name, InferenceUpdateOptions options, OpeningDevices? devices, IProgress<InferenceUpdateProgress>? progress, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(name);
        ArgumentNullException.ThrowIfNull(options);
        return ObserveUpdateAsync(name, options, () => UpdateUnobservedAsync(name, options, devices, progress, cancellationToken));
    }

    private async Task<InferenceUpdateReport> UpdateUnobservedAsync(string name, InferenceUpdateOptions options, OpeningDevices? devices, IProgress<InferenceUpdateProgress>? progress, CancellationToken cancellationToken)
    {
        options.ThrowIfUnfit();
        ObjectDisposedException.ThrowIf(_disposed, this);
        HeldEntry entry;
        CancellationToken cut;
        lock (_lock)
        {
            entry = FindHeld(name).Held!;
            if (!entry.Uses.TryEnter(out cut))
            {
                ThrowHelper.Throw(CheckpointError.Busy, $"update '{name}': its owner is changing it, or taking it away; try again");
            }
        }
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken, cut);
        try
        {
            return await UpdateHeldAsync(entry.Checkpoint, options, devices, progress, stop).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            throw cut.IsCancellationRequested
                ? new CheckpointEngineException(CheckpointError.Superseded, $"update '{name}': the checkpoint was taken away meanwhile")
                : NotInTime(name, options);
        }
        finally
        {
            entry.Uses.Leave();
        }
    }

    /// <summary>
    /// Reads a checkpoint into memory as <see cref="JoinAsync(CheckpointMetas, JoinOptions, IProgress{JoinProgress}, CancellationToken)"/> does, and brings it into a running inference
    /// server meanwhile: a bucket as soon as its tensors are here and checked. It is held here afterwards.
    /// </summary>
    /// <param name="metas">Who holds what.</param>
    /// <param name="join">What to read; into memory, once, and either <see cref="JoinOptions.RequireVerify"/> or not <see cref="JoinOptions.Verify"/>.</param>
    /// <param name="update">Which server, and how it takes weights.</param>
    /// <param name="joinProgress">Told the state of the join.</param>
    /// <param name="updateProgress">Told the state of the update.</param>
    /// <param name="cancellationToken">Ends both; nothing is held.</param>
    /// <remarks>
    /// By files, from memory that is attached to, and with <see cref="HoldMode.Memfd"/> the update begins when the join has ended. The server is told that it has everything only
    /// when the join has ended well. A failure of either ends the other.
    /// </remarks>
    /// <exception cref="CheckpointEngineException">As both.</exception>
    /// <exception cref="ArgumentException">An option is out of its range.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public async Task<(JoinReport Join, InferenceUpdateReport Update)> JoinAndUpdateAsync(CheckpointMetas metas, JoinOptions join, InferenceUpdateOptions update,
        IProgress<JoinProgress>? joinProgress = null, IProgress<InferenceUpdateProgress>? updateProgress = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(join);
        ArgumentNullException.ThrowIfNull(update);
        update.ThrowIfUnfit();
        if (join.Destination != JoinDestinationKind.Memory || join.Repeat > 1 || (join.Verify && !join.RequireVerify))
        {
            throw new ArgumentException("an inference server takes what is joined into memory, once, and verified (RequireVerify) unless Verify is false", nameof(join));
        }
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        Task<InferenceUpdateReport>? updating = null;
        await using OpeningDevices? devices = update.IsByFiles ? null : new OpeningDevices(update);      // a GPU's context takes longer than to attach
        Action<ArrivingCheckpoint>? start = devices is null || Options.Hold == HoldMode.Memfd
            ? null
            : arriving => updating = ObserveUpdateAsync(join.CheckpointName, update, () => UpdateArrivingAsync(join.CheckpointName, arriving, devices, update, updateProgress, stop));
        JoinReport joined;
        try
        {
            // Beside gigabytes that come in a GPU takes four times as long to open.
            joined = await JoinAsync(metas, join, devices is null ? null : new JoinArrival(start, devices.Opened), joinProgress, stop.Token).ConfigureAwait(false);
        }
        catch (Exception failure)
        {
            await stop.CancelAsync().ConfigureAwait(false);      // it may still wait for a server that starts
            // Which of them failed first has stopped the other.
            if (updating is not null && await FailureOfAsync(updating).ConfigureAwait(false) is { } ofUpdate && failure is OperationCanceledException && !cancellationToken.IsCancellationRequested)
            {
                throw ofUpdate;
            }
            throw;
        }
        try
        {
            return (joined, await (updating ?? UpdateAsync(join.CheckpointName, update, devices, updateProgress, cancellationToken)).ConfigureAwait(false));
        }
        catch
        {
            await UnregisterAsync(join.CheckpointName, CancellationToken.None).ConfigureAwait(false);
            throw;
        }
    }

    private async Task<InferenceUpdateReport> UpdateArrivingAsync(string name, ArrivingCheckpoint arriving, OpeningDevices devices, InferenceUpdateOptions options, IProgress<InferenceUpdateProgress>? progress, CancellationTokenSource both)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(both.Token);
        try
        {
            return await UpdateFromAsync(new UpdateSource(name, arriving.Tensors, arriving.AddressOf, arriving), devices, options, progress, stop).ConfigureAwait(false);
        }
        catch (Exception failure)
        {
            bool late = failure is OperationCanceledException && !both.IsCancellationRequested;
            await both.CancelAsync().ConfigureAwait(false);
            if (late)
            {
                throw NotInTime(name, options);
            }
            throw;
        }
        finally
        {
            arriving.Dispose();
        }
    }

    private static async Task<Exception?> FailureOfAsync(Task task)
    {
        try
        {
            await task.ConfigureAwait(false);
            return null;
        }
        catch (Exception failure)
        {
            return failure is OperationCanceledException ? null : failure;
        }
    }

    private static CheckpointEngineException NotInTime(string name, InferenceUpdateOptions options) => new(CheckpointError.Timeout,
        $"update '{name}': not done within {options.UpdateTimeout.TotalSeconds:0.#} s; give it more time (--update-timeout), or look at the log of {options.Endpoint}");

    private async Task<InferenceUpdateReport> UpdateHeldAsync(HeldCheckpoint checkpoint, InferenceUpdateOptions options, OpeningDevices? devices, IProgress<InferenceUpdateProgress>? progress, CancellationTokenSource stop)
    {
        checkpoint.CheckBackingSizes();
        if (!options.IsByFiles)
        {
            var source = new UpdateSource(checkpoint.Name, checkpoint.Tensors, checkpoint.GetAddress, HeldReadiness.Instance);
            await using OpeningDevices? own = devices is null ? new OpeningDevices(options) : null;
            return await UpdateFromAsync(source, (devices ?? own)!, options, progress, stop).ConfigureAwait(false);
        }
        using var client = new InferenceClient(options);
        double health = await WaitUntilHealthyAsync(client, checkpoint.DataBytes, progress, stop.Token).ConfigureAwait(false);
        stop.CancelAfter(options.UpdateTimeout);
        InferenceUpdateReport report = await new FilesUpdate(checkpoint, options, client, progress).RunAsync(health, stop.Token).ConfigureAwait(false);
        LogInferenceUpdated(checkpoint.Name, options.Endpoint, report.Bytes, report.Seconds);
        return report;
    }

    private async Task<InferenceUpdateReport> UpdateFromAsync(UpdateSource source, OpeningDevices devices, InferenceUpdateOptions options, IProgress<InferenceUpdateProgress>? progress, CancellationTokenSource stop)
    {
        using var client = new InferenceClient(options);
        using var waiting = CancellationTokenSource.CreateLinkedTokenSource(stop.Token);
        Task<double> healthy = WaitUntilHealthyAsync(client, source.DataBytes, progress, waiting.Token);
        await Task.WhenAny(healthy, devices.Opened).ConfigureAwait(false);
        if (devices.Opened.IsFaulted)
        {
            await waiting.CancelAsync().ConfigureAwait(false);      // told at once, and not when the server is up
            await healthy.ContinueWith(static ended => _ = ended.Exception, TaskScheduler.Default).ConfigureAwait(false);
        }
        IUpdateDevice[] opened = await devices.Opened.WaitAsync(stop.Token).ConfigureAwait(false);
        double health = await healthy.ConfigureAwait(false);
        var pipeline = new UpdatePipeline(source, options, client, opened, Options.LocalPeers.UserIds(), progress);
        InferenceUpdateReport report = await BackgroundThread.RunAsync("checkpoint-engine update", () => pipeline.Run(health, devices, stop)).ConfigureAwait(false);
        LogInferenceUpdated(source.Name, options.Endpoint, report.Bytes, report.Seconds);
        return report;
    }

    private static async Task<double> WaitUntilHealthyAsync(InferenceClient client, long bytes, IProgress<InferenceUpdateProgress>? progress, CancellationToken cancellationToken)
    {
        long start = Stopwatch.GetTimestamp();
        progress?.Report(new InferenceUpdateProgress(0, bytes, "health"));
        await client.WaitUntilHealthyAsync(note => progress?.Report(new InferenceUpdateProgress(0, bytes, "health", note)), cancellationToken).ConfigureAwait(false);
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    [LoggerMessage(EventId = 1031, Level = LogLevel.Information, Message = "updated {Endpoint} from '{Checkpoint}': {Bytes} bytes in {Seconds:0.00} s")]
    private partial void LogInferenceUpdated(string checkpoint, Uri endpoint, long bytes, double seconds);
}
