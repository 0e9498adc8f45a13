using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Tests;

public class NumaPlacementTests
{
    [Theory]
    [InlineData("0\nMems_allowed", 1, 0x1)]
    [InlineData("0-3\n", 4, 0xf)]
    [InlineData("1,3-4,4\n", 3, 0x1a)]
    [InlineData("", 0, 0)]
    [InlineData("x", 0, 0)]
    [InlineData("2-\n", 1, 0x4)]
    [InlineData("3-1", 0, 0)]
    [InlineData("0,99999999999999", 1, 0x1)]
    [InlineData("0-4294967295", 64, -1)]
    public void ParseNodes_AsTheKernelWritesThem_GivesTheirBits(string text, int count, long bits)
    {
        Span<ulong> nodes = stackalloc ulong[1];
        Assert.Equal(count, NumaPlacement.ParseNodes(Encoding.ASCII.GetBytes(text), nodes));
        Assert.Equal((ulong)bits, nodes[0]);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Spread_OverANode_IsThePolicyOfTheMemory(bool memfd)
    {
        using MemoryBuffer memory = memfd ? MemoryBuffer.AllocateMemfd(4 << 20, "numa") : MemoryBuffer.AllocateAnonymous(4 << 20);
        Assert.SkipUnless(NumaPlacement.Spread(memory.Address, memory.LengthBytes, [1ul]), "this kernel or container has no mbind(2)");
        memory.GetSpan(0, 1)[0] = 1;
        string start = memory.Address.ToString("x", null) + " ";
        string line = Assert.Single(File.ReadLines("/proc/self/numa_maps"), line => line.StartsWith(start, StringComparison.Ordinal));
        Assert.Contains("interleave", line, StringComparison.Ordinal);
    }

    [Fact]
    public void Spread_OnAHostWithOneNode_LeavesMemoryAlone()
    {
        Assert.SkipWhen(Directory.GetDirectories("/sys/devices/system/node", "node*").Length > 1, "this host has several NUMA nodes");
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(4096);
        Assert.False(NumaPlacement.Spread(memory.Address, memory.LengthBytes));
    }
}
