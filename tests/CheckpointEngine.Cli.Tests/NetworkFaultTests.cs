using CheckpointEngine.Cli.Tests.Support;
using CheckpointEngine.Simulation;

namespace CheckpointEngine.Cli.Tests;

/// <summary>Joins over lines that lose, delay, reorder, double and damage packets, each way. What needs the kernel's netem runs in the guest of <c>./build.sh lab</c> where the host has none.</summary>
public sealed class NetworkFaultTests(ITestOutputHelper output)
{
    private const int Bytes = 8 << 20;
    private const int Joiners = 2;

    [Theory]
    [InlineData(false, 1, 0, 0, 0, 0, 0)]
    [InlineData(false, 5, 0, 0, 0, 0, 0)]
    [InlineData(false, 0, 20, 10, 0, 0, 0)]
    [InlineData(false, 2, 20, 10, 0, 0, 0)]
    [InlineData(false, 0, 10, 0, 25, 0, 0)]
    [InlineData(false, 0, 0, 0, 0, 10, 0)]
    [InlineData(false, 0, 0, 0, 0, 0, 1)]
    [InlineData(false, 1, 10, 5, 10, 2, 0.5)]
    [InlineData(true, 2, 20, 10, 0, 0, 0)]
    [InlineData(true, 1, 10, 5, 10, 2, 0.5)]
    public async Task Join_OverABadLine_HasEveryByte(bool encrypts, double loss, int delay, int jitter, double reorder, double duplicate, double corrupt)
    {
        var quality = new LineQuality(loss, delay, jitter, reorder, duplicate, corrupt);
        using NetworkOfHosts network = CreateOrSkip(quality);
        using var temp = new TempDirectory();
        SmallCheckpoint.WriteSingle(temp["model"], Bytes);
        HostCertificates? certificates = encrypts ? new HostCertificates(temp, 1 + Joiners) : null;
        string[] secured = [.. certificates?.Access ?? [], .. certificates?.Own ?? []];
        await using Holder holder = await Holder.StartAsync(network.On(0), ["serve", "--checkpoint", "m=" + temp["model"], "--listen", $"http://{NetworkOfHosts.AddressOf(0)}:0", "--insecure", "--json", .. secured]);

        // Together, so that they read from each other over such lines, too.
        Outcome[] outcomes = await Task.WhenAll(Enumerable.Range(1, Joiners).Select(async host =>
        {
            await using Engine join = Engine.StartAs(network.On(host), ["join", "--metas-url", holder.MetasUrl, "--transport", "tcp", "--relay", "--to", "dir:" + temp[$"copy{host}"], "--require-verify", "--json", .. secured]);
            return await join.EndAsync();
        }));

        foreach (int host in Enumerable.Range(1, Joiners))
        {
            output.WriteLine($"{quality}: {outcomes[host - 1].Succeeded().Output.Trim()}");
            Assert.DoesNotContain("differs", outcomes[host - 1].Errors, StringComparison.Ordinal);      // what is damaged does not come as far as the digests
            ServeAndJoinTests.AssertSame(temp["model"], temp[$"copy{host}"]);
        }
    }

    private static NetworkOfHosts CreateOrSkip(LineQuality quality)
    {
        NetworkOfHosts? network = NetworkOfHosts.TryCreate(1 + Joiners, 0, out string? whyNot);
        for (int host = 1; network is not null && host <= Joiners; host++)
        {
            string? done = network.TryWorsen(host, quality, out whyNot);
            if (done != quality.ToString())
            {
                network.Dispose();
                Assert.Skip($"no such line can be made here: {whyNot ?? "losses alone can be had, and netem is not there"}");
            }
        }
        if (network is null)
        {
            Assert.Skip(whyNot!);
        }
        return network;
    }
}
