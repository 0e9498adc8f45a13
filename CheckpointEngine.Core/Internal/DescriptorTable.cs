using System.Runtime.InteropServices;
using CheckpointEngine.Interop;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Internal;

/// <summary>The kernel's table of this process's descriptors.</summary>
/// <remarks>
/// It doubles when it is full, and in a process with several threads each time waits until every core has passed a quiet point (synchronize_rcu(), which takes
/// some 20 ms where all are busy). Whoever accepts or opens meanwhile waits as well: a thousand connections that come at once found a holder that
/// answered nobody for a tenth of a second. Source: Linux, fs/file.c, expand_files().
/// </remarks>
internal static unsafe class DescriptorTable
{
    /// <summary>The most that is reserved: half a megabyte of the kernel's memory, whatever limits somebody sets.</summary>
    internal const int Most = 65_536;

    /// <summary>Lets the table grow now, on a thread that nobody waits for.</summary>
    /// <param name="descriptors">Descriptors that may be wanted at a time, beside those that are open; at most <see cref="Most"/>, fewer where the process may not have as many.</param>
    /// <returns>Whether it grew.</returns>
    internal static Task<bool> ReserveAsync(long descriptors) => BackgroundThread.RunAsync("checkpoint-engine descriptors", () => Reserve(descriptors));

    // A refusal is no error: the table grows as it is needed.
    private static bool Reserve(long descriptors)
    {
        Libc.RLimit limit;
        if (Libc.getrlimit(Libc.RLIMIT_NOFILE, &limit) != 0)
        {
            return false;
        }
        try
        {
            using SafeHandle any = File.OpenHandle("/dev/null");
            int low = (int)any.DangerousGetHandle();
            int high = Libc.fcntl(low, Libc.F_DUPFD_CLOEXEC, (int)Math.Min((ulong)(low + Math.Min(descriptors, Most)), limit.rlim_cur - 1));
            new SafeFileHandle(high, ownsHandle: true).Dispose();
            return high >= 0;
        }
        catch (IOException)
        {
            return false;
        }
    }
}
