using System.Globalization;
using System.Runtime.InteropServices;
using CheckpointEngine.Cli.Tests.Support;
using CheckpointEngine.Rdma.Tests.Support;

namespace CheckpointEngine.Rdma.Tests;

/// <summary>The clock of the host is set while bytes move: leases, timeouts and stalls go by another.</summary>
public sealed partial class ClockTests
{
    private const int ClockRealtime = 0;
    private const int Hour = 3600;

    [LabTheory]
    [InlineData("rdma")]
    [InlineData("tcp")]
    public async Task Join_TheClockJumpsForthAndBack_GoesOn(string transport)
    {
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], 100 << 20);
        await using Holder holder = await Holder.ServeAsync([0], temp["model"], "--transport", transport == "rdma" ? "rdma" : "auto");
        await using ChildProcess join = ChildProcess.Start(Repository.Command, "join", "--metas-url", holder.MetasUrl, "--to", "null", "--transport", transport, "--devices", RdmaLab.Names([1]),
            "--require-verify", "--repeat", "3", "--retry-timeout", "0", "--stall-timeout", "30", "--json");
        string counter = transport == "rdma" ? $"/sys/class/infiniband/{RdmaLab.Found[1]}/ports/1/hw_counters/rcvd_pkts" : "/sys/class/net/lo/statistics/rx_packets";      // addresses of one host meet at lo
        long before = Read();
        await Ends.UntilAsync(() => ValueTask.FromResult(Read() >= before + 500));
        try
        {
            Assert.Equal("", Shift(2 * Hour));
            Assert.Equal("", Shift(-4 * Hour));

            Assert.True((await join.EndAsync()).Succeeded().Json().GetProperty("verified").GetBoolean());
        }
        finally
        {
            Shift(2 * Hour);
        }

        long Read() => long.Parse(File.ReadAllText(counter), CultureInfo.InvariantCulture);
    }

    // Empty, or why not.
    private static unsafe string Shift(int seconds)
    {
        long* now = stackalloc long[2];
        if (clock_gettime(ClockRealtime, now) == 0)
        {
            now[0] += seconds;
            if (clock_settime(ClockRealtime, now) == 0)
            {
                return "";
            }
        }
        return Marshal.GetLastPInvokeErrorMessage();
    }

    [LibraryImport("libc", SetLastError = true)]
    private static unsafe partial int clock_gettime(int clock, long* time);

    [LibraryImport("libc", SetLastError = true)]
    private static unsafe partial int clock_settime(int clock, long* time);
}
