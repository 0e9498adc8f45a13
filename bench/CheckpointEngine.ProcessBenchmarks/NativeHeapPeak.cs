using System.Runtime.InteropServices;

namespace CheckpointEngine.ProcessBenchmarks;

/// <summary>Watches how far malloc(3)'s memory rises above what it was, by looking again and again from a thread of its own.</summary>
internal sealed partial class NativeHeapPeak : IDisposable
{
    private readonly Thread _thread;
    private readonly nuint _before;
    private nuint _peak;
    private volatile bool _stopped;

    internal NativeHeapPeak()
    {
        _before = _peak = Allocated();
        _thread = new Thread(Watch) { IsBackground = true, Priority = ThreadPriority.AboveNormal };
        _thread.Start();
    }

    /// <summary>Ends it.</summary>
    /// <returns>Bytes between the beginning and the highest point seen.</returns>
    internal long Stop()
    {
        _stopped = true;
        _thread.Join();
        return (long)(_peak - _before);
    }

    public void Dispose() => Stop();

    private void Watch()
    {
        while (!_stopped)
        {
            _peak = nuint.Max(_peak, Allocated());
            Thread.Sleep(0);
        }
    }

    private static nuint Allocated()
    {
        MallInfo info = mallinfo2();
        return info.uordblks + info.hblkhd;
    }

    [LibraryImport("libc")]
    private static partial MallInfo mallinfo2();

    // <malloc.h>, struct mallinfo2: uordblks are bytes in use in arenas, hblkhd bytes in mappings of their own.
    [StructLayout(LayoutKind.Sequential)]
    private struct MallInfo
    {
        internal nuint arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
    }
}
