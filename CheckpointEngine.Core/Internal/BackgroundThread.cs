using CheckpointEngine.Interop;

namespace CheckpointEngine.Internal;

/// <summary>Threads beside the pool: of work that waits for long or computes for long, which would be missed there.</summary>
internal static class BackgroundThread
{
    // A tenth of a core that a thread at the usual 0 wants as well. At 19 it were a seventieth: who waits for a chunk that this thread has in hand
    // (2 ms of SHA-256) would wait a sixth of a second. Joins beside it lost nothing that could be measured; at 0 they took a third longer.
    internal const int Nice = 10;

    /// <summary>Runs work on a thread of its own.</summary>
    internal static Task<T> RunAsync<T>(string name, Func<T> work)
    {
        var done = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
        new Thread(() =>
        {
            try
            {
                done.SetResult(work());
            }
            catch (Exception failure)
            {
                done.SetException(failure);
            }
        })
        { IsBackground = true, Name = name }.Start();
        return done.Task;
    }

    /// <summary>Lowers the calling thread's share of a contended core; a thread that does not end cannot take it back.</summary>
    /// <remarks><see cref="Thread.Priority"/> is without effect on Linux. A refusal is no error: the work is done at the usual share.</remarks>
    internal static void StepBack() => _ = Libc.setpriority(Libc.PRIO_PROCESS, (uint)Libc.gettid(), Nice);
}
