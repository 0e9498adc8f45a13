using System.Globalization;

namespace CheckpointEngine.Simulation;

/// <summary>What a bad line does to packets, on each of its ways.</summary>
/// <param name="LossPercent">Packets that are lost.</param>
/// <param name="DelayMs">How long each takes.</param>
/// <param name="JitterMs">By how much that varies.</param>
/// <param name="ReorderPercent">Packets that overtake the others; needs a delay.</param>
/// <param name="DuplicatePercent">Packets that come twice.</param>
/// <param name="CorruptPercent">Packets with a wrong bit.</param>
internal sealed record LineQuality(double LossPercent = 0, int DelayMs = 0, int JitterMs = 0, double ReorderPercent = 0, double DuplicatePercent = 0, double CorruptPercent = 0)
{
    /// <summary>As netem takes it.</summary>
    public string[] ToNetem() =>
    [
        "netem", "limit", "10000",
        .. DelayMs > 0 ? (string[])["delay", $"{DelayMs}ms", $"{JitterMs}ms"] : [],
        .. LossPercent > 0 ? (string[])["loss", Percent(LossPercent)] : [],
        .. ReorderPercent > 0 ? (string[])["reorder", Percent(ReorderPercent)] : [],
        .. DuplicatePercent > 0 ? (string[])["duplicate", Percent(DuplicatePercent)] : [],
        .. CorruptPercent > 0 ? (string[])["corrupt", Percent(CorruptPercent)] : [],
    ];

    public override string ToString() => string.Join(' ', ToNetem().Skip(3));

    private static string Percent(double percent) => string.Create(CultureInfo.InvariantCulture, $"{percent}%");
}
