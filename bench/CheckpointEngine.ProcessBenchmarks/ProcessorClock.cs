using System.ComponentModel;
using System.Runtime.InteropServices;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>The processor's time, user and system, of other processes.</summary>
internal static partial class ProcessorClock
{
    private const int Children = -1;

    /// <summary>Of all children of this process that have ended, since its start: getrusage(2).</summary>
    internal static TimeSpan OfEndedChildren
        => getrusage(Children, out Usage usage) == 0 ? usage.User.ToTimeSpan() + usage.System.ToTimeSpan() : throw new Win32Exception();

    /// <summary>Of a process that runs, to the nanosecond: clock_getcpuclockid(3).</summary>
    internal static TimeSpan Of(int process)
    {
        int error = clock_getcpuclockid(process, out int clock);
        if (error != 0)
        {
            throw new Win32Exception(error);
        }
        return clock_gettime(clock, out Time time) == 0 ? new TimeSpan((time.Seconds * TimeSpan.TicksPerSecond) + (time.Fraction / TimeSpan.NanosecondsPerTick)) : throw new Win32Exception(Marshal.GetLastPInvokeError());
    }

    [StructLayout(LayoutKind.Sequential)]
    private readonly struct Time
    {
        internal readonly long Seconds;
        internal readonly long Fraction;

        // As a timeval.
        internal TimeSpan ToTimeSpan() => new((Seconds * TimeSpan.TicksPerSecond) + (Fraction * TimeSpan.TicksPerMicrosecond));
    }

    [StructLayout(LayoutKind.Sequential, Size = 144)]
    private readonly struct Usage
    {
        internal readonly Time User;
        internal readonly Time System;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int getrusage(int who, out Usage usage);

    [LibraryImport("libc")]
    private static partial int clock_getcpuclockid(int process, out int clock);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int clock_gettime(int clock, out Time time);
}
