using System.Globalization;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Internal;

/// <summary>How long the kernel lets a thread run before another's turn, which also is how soon it comes to its own after it has slept.</summary>
/// <remarks>
/// A holder's threads mostly wait, and who asks it wants to hear soon; beside 64 joiners on two cores 99 of a hundred answers
/// came within 8 to 13 ms with the shortest slice and within 12 to 16 with the usual one, and what it sends did not change. A share of the cores is not asked for: that
/// is the nice value, which stays. Source: sched(7), sched_setattr(2), "Complete EEVDF" in Linux 6.12; kernels before ignore the wish.
/// </remarks>
internal static class SchedulerSlice
{
    /// <summary>The shortest that the kernel has.</summary>
    internal const ulong ShortestNanoseconds = 100_000;

    private const int MostPasses = 8;

    /// <summary>Asks for the shortest slice for all threads of this process; those made later have it of the thread that makes them.</summary>
    /// <remarks>A refusal is no error: all goes on as before. Threads under a policy of their own (real-time, deadline, idle) are left alone.</remarks>
    internal static void ShortenAll()
    {
        try
        {
            ShortenEach();
        }
        catch (Exception hidden) when (hidden is IOException or UnauthorizedAccessException)
        {
            // No /proc to find them in.
        }
    }

    private static void ShortenEach()
    {
        var done = new HashSet<int>();
        bool more = true;
        for (int pass = 0; more && pass < MostPasses; pass++)      // again, for those that were made meanwhile
        {
            more = false;
            foreach (string task in Directory.EnumerateDirectories("/proc/self/task"))
            {
                if (int.TryParse(Path.GetFileName(task.AsSpan()), NumberStyles.None, CultureInfo.InvariantCulture, out int thread) && done.Add(thread))
                {
                    Shorten(thread);
                    more = true;
                }
            }
        }
    }

    /// <summary>The same for the calling thread alone, and those that it makes.</summary>
    internal static void ShortenOwn() => Shorten(0);

    /// <summary>What a thread has.</summary>
    /// <param name="thread">Its id in the kernel; 0 for the one that asks.</param>
    /// <returns>Nanoseconds; 0 where the kernel does not tell.</returns>
    internal static unsafe ulong Of(int thread)
    {
        Libc.SchedAttributes attributes;
        return Libc.sched_getattr(thread, &attributes) == 0 ? attributes.sched_runtime : 0;
    }

    private static unsafe void Shorten(int thread)
    {
        Libc.SchedAttributes attributes;
        if (Libc.sched_getattr(thread, &attributes) == 0 && attributes.sched_policy is Libc.SCHED_OTHER or Libc.SCHED_BATCH)
        {
            attributes.sched_runtime = ShortestNanoseconds;
            _ = Libc.sched_setattr(thread, &attributes);
        }
    }
}
