using CheckpointEngine.Internal;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Tests;

public class BackgroundThreadTests
{
    [Fact]
    public void StepBack_LowersTheCallingThreadAlone()
    {
        int before = Libc.getpriority(Libc.PRIO_PROCESS, 0);
        Assert.SkipWhen(before >= BackgroundThread.Nice, $"the tests themselves run at nice {before}");
        int inside = int.MinValue;
        var thread = new Thread(() =>
        {
            BackgroundThread.StepBack();
            inside = Libc.getpriority(Libc.PRIO_PROCESS, (uint)Libc.gettid());
        });
        thread.Start();
        thread.Join();
        Assert.Equal(BackgroundThread.Nice, inside);
        Assert.Equal(before, Libc.getpriority(Libc.PRIO_PROCESS, 0));
    }
}
