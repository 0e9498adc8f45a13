using CheckpointEngine.Transfer.Rdma;
using CsCheck;

namespace CheckpointEngine.Tests;

public class HcaSelectionTests
{
    private static readonly RdmaPortName[] s_host =
        [new("mlx5_0", 1), new("mlx5_1", 1), new("mlx5_1", 2), new("mlx5_10", 1), new("mlx5_11", 1), new("bnxt_re0", 1)];

    [Theory]
    [InlineData(null, "mlx5_0:1 mlx5_1:1 mlx5_1:2 mlx5_10:1 mlx5_11:1 bnxt_re0:1")]
    [InlineData("", "mlx5_0:1 mlx5_1:1 mlx5_1:2 mlx5_10:1 mlx5_11:1 bnxt_re0:1")]
    [InlineData("  ", "mlx5_0:1 mlx5_1:1 mlx5_1:2 mlx5_10:1 mlx5_11:1 bnxt_re0:1")]
    [InlineData("=", "mlx5_0:1 mlx5_1:1 mlx5_1:2 mlx5_10:1 mlx5_11:1 bnxt_re0:1")]
    [InlineData(",:1,", "mlx5_0:1 mlx5_1:1 mlx5_1:2 mlx5_10:1 mlx5_11:1 bnxt_re0:1")]
    [InlineData("mlx5_1", "mlx5_1:1 mlx5_1:2 mlx5_10:1 mlx5_11:1")]
    [InlineData("=mlx5_1", "mlx5_1:1 mlx5_1:2")]
    [InlineData("mlx5_1:1", "mlx5_1:1 mlx5_10:1 mlx5_11:1")]
    [InlineData("=mlx5_1:2", "mlx5_1:2")]
    [InlineData("=mlx5_1:2:0:3", "mlx5_1:2")]
    [InlineData("=mlx5_1::0:3", "mlx5_1:1 mlx5_1:2")]
    [InlineData("=mlx5_1:-1", "mlx5_1:1 mlx5_1:2")]
    [InlineData("=mlx5_1: 2", "mlx5_1:2")]
    [InlineData("=mlx5_1:2x", "mlx5_1:2")]
    [InlineData("^mlx5_1", "mlx5_0:1 bnxt_re0:1")]
    [InlineData("^=mlx5_1", "mlx5_0:1 mlx5_10:1 mlx5_11:1 bnxt_re0:1")]
    [InlineData("^=mlx5_1:2", "mlx5_0:1 mlx5_1:1 mlx5_10:1 mlx5_11:1 bnxt_re0:1")]
    [InlineData("bnxt_re0,mlx5_0,bnxt_re0", "mlx5_0:1 bnxt_re0:1")]
    [InlineData(" mlx5_0 , bnxt ", "mlx5_0:1 bnxt_re0:1")]
    [InlineData("^absent", "mlx5_0:1 mlx5_1:1 mlx5_1:2 mlx5_10:1 mlx5_11:1 bnxt_re0:1")]
    public void Hca_IsReadAsNcclReadsIt(string? variable, string expected)
    {
        HcaChoice choice = HcaSelection.From(null, variable).Select(s_host);
        Assert.Equal(expected, Names(choice));
        Assert.False(choice.FellBack);
        Assert.Empty(choice.Warnings);
    }

    [Theory]
    [InlineData("^")]
    [InlineData("^=")]
    [InlineData("=^mlx5_1")]
    [InlineData("mlx4")]
    [InlineData("=mlx5")]
    [InlineData("=mlx5_0:2")]
    [InlineData("=mlx5_0:x")]
    [InlineData("=mlx5_0:99999999999999999999")]
    [InlineData("^mlx5,bnxt")]
    public void Hca_ThatLeavesNothing_TakesAllAndSaysSo(string variable)
    {
        HcaSelection selection = HcaSelection.From(null, variable);
        Assert.DoesNotContain(s_host, port => selection.Matches(port.Device, port.Port));
        HcaChoice choice = selection.Select(s_host);
        Assert.True(choice.FellBack);
        Assert.Equal(s_host.Length, choice.Indices.Length);
        string warning = Assert.Single(choice.Warnings);
        Assert.Contains("NCCL_IB_HCA=" + variable, warning, StringComparison.Ordinal);
        Assert.Contains("bnxt_re0:1", warning, StringComparison.Ordinal);
    }

    [Fact]
    public void Hca_NameThatIsNotHere_IsWarnedOf()
    {
        HcaChoice choice = HcaSelection.From(null, "=mlx5_0,mlx5_7:3").Select(s_host);
        Assert.Equal("mlx5_0:1", Names(choice));
        Assert.Contains("mlx5_7:3", Assert.Single(choice.Warnings), StringComparison.Ordinal);
    }

    [Fact]
    public void Devices_WinAndAreTakenInTheirOrder()
    {
        HcaSelection selection = HcaSelection.From("bnxt_re0, mlx5_1,bnxt_re0,,nosuch", "=mlx5_0");
        Assert.Equal("PS_P2P_STORE_RDMA_DEVICES", selection.Source);
        HcaChoice choice = selection.Select(s_host);
        Assert.Equal("bnxt_re0:1 mlx5_1:1 mlx5_1:2", Names(choice));
        Assert.Contains("nosuch", Assert.Single(choice.Warnings), StringComparison.Ordinal);
    }

    [Fact]
    public void Devices_ThatAreNotHere_TakeAll()
    {
        HcaChoice choice = HcaSelection.From("mlx5", null).Select(s_host);
        Assert.True(choice.FellBack);
        Assert.Equal(s_host.Length, choice.Indices.Length);
    }

    [Fact]
    public void Devices_OfCommasOnly_AreAll()
    {
        HcaChoice choice = HcaSelection.From(",", null).Select(s_host);
        Assert.False(choice.FellBack);
        Assert.Equal(s_host.Length, choice.Indices.Length);
    }

    [Fact]
    public void Select_OfNothing_IsNothing()
    {
        HcaChoice choice = HcaSelection.From(null, "mlx5").Select([]);
        Assert.Empty(choice.Indices);
        Assert.False(choice.FellBack);
    }

    [Fact]
    public void Hca_TakesNoMoreThan32NamesAndPorts()
    {
        RdmaPortName[] host = [.. Enumerable.Range(0, 40).Select(number => new RdmaPortName($"d{number}", 1))];
        HcaChoice all = HcaSelection.All.Select(host);
        Assert.Equal(Enumerable.Range(0, 32), all.Indices);
        Assert.Contains("40", all.Limited, StringComparison.Ordinal);

        // The 33rd name does not count.
        HcaSelection named = HcaSelection.From(null, "=" + string.Join(',', host.Select(port => port.Device)));
        Assert.True(named.Matches("d31", 1));
        Assert.False(named.Matches("d32", 1));
        Assert.Equal(40, HcaSelection.From(string.Join(',', host.Select(port => port.Device)), null).Select(host).Indices.Length);
    }

    /// <summary>Any text gives a choice, and it is what a plain reading of NCCL's two functions gives.</summary>
    [Fact]
    public void Hca_AnyText_AgreesWithNccl()
        => Gen.String[Gen.Char["^=,:12-ml0"], 0, 14].Sample(text =>
        {
            RdmaPortName[] host = [new("m", 1), new("ml", 1), new("ml1", 2), new("l0", 1), new("^m", 1), new("=l", 2)];
            HcaSelection selection = HcaSelection.From(null, text);
            foreach (RdmaPortName port in host)
            {
                Assert.Equal(NcclTakes(text, port), selection.Matches(port.Device, port.Port));
            }
            HcaChoice choice = selection.Select(host);
            Assert.Equal(choice.FellBack, !host.Any(port => NcclTakes(text, port)));
            Assert.Equal(choice.Indices.Order().Distinct(), choice.Indices);
            Assert.NotEmpty(choice.Indices);
        });

    private static bool NcclTakes(string text, RdmaPortName port)
    {
        string rest = text;
        bool not = rest.StartsWith('^');
        rest = not ? rest[1..] : rest;
        bool exact = rest.StartsWith('=');
        rest = exact ? rest[1..] : rest;
        string[][] list = [.. rest.Split(',', StringSplitOptions.RemoveEmptyEntries).Select(entry => entry.Split(':')).Where(fields => fields[0] != "")];
        bool any = list.Length == 0 || list.Any(fields =>
            (exact ? port.Device == fields[0] : port.Device.StartsWith(fields[0], StringComparison.Ordinal))
            && (fields.Length < 2 || fields[1] == "" || Atoi(fields[1]) is -1 || Atoi(fields[1]) == port.Port));
        return any ^ not;
    }

    private static long Atoi(string text)
    {
        bool negative = text.StartsWith('-');
        string digits = new([.. text[(negative ? 1 : 0)..].TakeWhile(char.IsAsciiDigit)]);
        return digits == "" ? 0 : (negative ? -1 : 1) * long.Parse(digits, System.Globalization.CultureInfo.InvariantCulture);
    }

    private static string Names(HcaChoice choice) => string.Join(' ', choice.Indices.Select(index => s_host[index].ToString()));
}
