using CheckpointEngine.Transfer;

namespace CheckpointEngine.Telemetry;

/// <summary>What a lane has read since it last told: told now and then, so that counting costs the lane two additions a unit.</summary>
/// <remarks>Of one lane. Allocates nothing.</remarks>
internal struct LaneCounts
{
    // At the rates of one lane some twenty times a second at most: as live as anybody looks.
    private const long BytesBetween = 64 << 20;

    private long _bytes;
    private int _units;

    /// <summary>Counts a unit.</summary>
    internal void Add(IReadLane lane, int bytes)
    {
        _bytes += bytes;
        _units++;
        if (_bytes >= BytesBetween)
        {
            Tell(lane);
        }
    }

    /// <summary>Tells what was not told yet; last of all when the lane ends.</summary>
    internal void Tell(IReadLane lane)
    {
        if (EngineTelemetry.IsSupported && _units != 0 && (EngineMetrics.JoinRead.Enabled || EngineMetrics.JoinUnits.Enabled))
        {
            var plane = new KeyValuePair<string, object?>(EngineMetrics.Plane, lane.TransportName);
            EngineMetrics.JoinRead.Add(_bytes, plane);
            EngineMetrics.JoinUnits.Add(_units, plane);
        }
        (_bytes, _units) = (0, 0);
    }
}
