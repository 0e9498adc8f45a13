using System.Diagnostics;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Inference;

/// <summary>The devices of an update, opened on a thread of their own while the server or the bytes are still waited for; dispose it when the update has ended.</summary>
internal sealed class OpeningDevices : IAsyncDisposable
{
    private readonly long _begun = Stopwatch.GetTimestamp();
    private double _seconds;

    /// <summary>Begins.</summary>
    internal OpeningDevices(InferenceUpdateOptions options)
    {
        Opened = BackgroundThread.RunAsync("checkpoint-engine devices", () =>
        {
            long start = Stopwatch.GetTimestamp();
            IUpdateDevice[] devices = UpdateDevices.Make(options.Devices, options.InferenceParallelSize);
            _seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
            return devices;
        });
    }

    /// <summary>One for each worker.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>; what the driver says.</exception>
    internal Task<IUpdateDevice[]> Opened { get; }

    /// <summary>What it took; once they are open.</summary>
    internal double Seconds => _seconds;

    /// <summary>Since it began, which is when the update was asked for.</summary>
    internal double SecondsSinceBegin => Stopwatch.GetElapsedTime(_begun).TotalSeconds;

    public async ValueTask DisposeAsync()
    {
        try
        {
            foreach (IUpdateDevice device in await Opened.ConfigureAwait(false))
            {
                device.Dispose();
            }
        }
        catch (CheckpointEngineException)
        {
            // There are none; who waited for them was told.
        }
    }
}
