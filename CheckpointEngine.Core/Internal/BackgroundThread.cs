using CheckpointEngine.Interop;

namespace CheckpointEngine.Internal;

/// <summary>Makes a thread step back.</summary>
internal static class BackgroundThread
{
    // A ninth of the time of a thread that works at the usual 0, when both want one core. At 19 it were a seventieth: a chunk that this
    // thread has in hand, and that a joiner waits for, would keep it a third of a second.
    internal const int Nice = 10;

    /// <summary>Lowers the calling thread's share of a contended core; a thread that does not end cannot take it back.</summary>
    /// <remarks><see cref="Thread.Priority"/> is without effect on Linux. A refusal is no error: the work is done at the usual share.</remarks>
    internal static void StepBack() => _ = Libc.setpriority(Libc.PRIO_PROCESS, (uint)Libc.gettid(), Nice);
}
