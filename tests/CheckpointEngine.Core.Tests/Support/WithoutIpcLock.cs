using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;

namespace CheckpointEngine.Tests;

/// <summary>Runs code as if it were not root's where locked memory is concerned.</summary>
internal static unsafe partial class WithoutIpcLock
{
    private const uint Version3 = 0x20080522;
    private const uint IpcLock = 1 << 14;

    /// <summary>Runs on a thread of its own without CAP_IPC_LOCK: Linux keeps capabilities by thread.</summary>
    internal static void Run(Action action)
    {
        ExceptionDispatchInfo? failure = null;
        var thread = new Thread(() =>
        {
            try
            {
                ulong header = Version3;
                uint* data = stackalloc uint[6];   // effective, permitted, inheritable; for bits 0 to 31, then 32 to 63
                Assert.Equal(0, capget(&header, data));
                data[0] &= ~IpcLock;
                Assert.Equal(0, capset(&header, data));
                action();
            }
            catch (Exception e)
            {
                failure = ExceptionDispatchInfo.Capture(e);
            }
        });
        thread.Start();
        thread.Join();
        failure?.Throw();
    }

    [LibraryImport("libc")]
    private static partial int capget(ulong* header, uint* data);

    [LibraryImport("libc")]
    private static partial int capset(ulong* header, uint* data);
}
