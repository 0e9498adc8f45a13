namespace CheckpointEngine.Telemetry;

/// <summary>What data connections have sent.</summary>
/// <param name="Bytes">Bytes, those of the framing included.</param>
/// <param name="Requests">Reads that were answered.</param>
internal readonly record struct ServedTotals(long Bytes, long Requests)
{
    public static ServedTotals operator +(ServedTotals one, ServedTotals other) => new(one.Bytes + other.Bytes, one.Requests + other.Requests);
}
