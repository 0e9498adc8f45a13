using CheckpointEngine.Internal;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Tests;

public class SchedulerSliceTests
{
    [Fact]
    public void ShortenOwn_ChangesTheCallingThreadAndThoseItMakes()
    {
        ulong before = SchedulerSlice.Of(0);
        Assert.SkipWhen(before == 0, "this kernel does not tell the slice of a thread: Linux 6.12 does");
        ulong own = 0, made = 0;
        int nice = int.MinValue;
        var thread = new Thread(() =>
        {
            BackgroundThread.StepBack();
            SchedulerSlice.ShortenOwn();
            own = SchedulerSlice.Of(0);
            nice = Libc.getpriority(Libc.PRIO_PROCESS, 0);
            var child = new Thread(() => made = SchedulerSlice.Of(0));
            child.Start();
            child.Join();
        });
        thread.Start();
        thread.Join();
        Assert.Equal(SchedulerSlice.ShortestNanoseconds, own);
        Assert.Equal(SchedulerSlice.ShortestNanoseconds, made);
        Assert.True(nice >= BackgroundThread.Nice, "what it had of a share was not kept");
        Assert.Equal(before, SchedulerSlice.Of(0));
    }

    [Fact]
    public void Of_AThreadThatIsNotThere_IsZero() => Assert.Equal(0ul, SchedulerSlice.Of(int.MaxValue));
}
