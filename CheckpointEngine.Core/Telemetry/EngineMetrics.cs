using System.Diagnostics.Metrics;

namespace CheckpointEngine.Telemetry;

/// <summary>The instruments. Those that count are added to where it happens; those that show a state are asked for it when somebody looks.</summary>
/// <remarks>Any number of threads.</remarks>
internal static class EngineMetrics
{
    internal const string Plane = "plane";
    internal const string Outcome = "outcome";

    // From an attachment in a millisecond to a model of terabytes over one slow link.
    private static readonly InstrumentAdvice<double> s_seconds = new()
    {
        HistogramBucketBoundaries = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800],
    };

    /// <summary>Bytes that lanes have read; tag <see cref="Plane"/>.</summary>
    internal static Counter<long> JoinRead { get; } = Count("checkpoint_engine.join.read", "By", "Bytes that joins have read from owners, by plane.");

    /// <summary>Units of up to 4 MiB that lanes have brought into their place; tag <see cref="Plane"/>.</summary>
    internal static Counter<long> JoinUnits { get; } = Count("checkpoint_engine.join.units", "{unit}", "Units of up to 4 MiB that joins have read and put in their place, by plane.");

    internal static Counter<long> JoinAttached { get; } = Count("checkpoint_engine.join.attached", "By", "Bytes that joins have mapped where they are instead of reading them.");

    internal static Counter<long> JoinReused { get; } = Count("checkpoint_engine.join.reused", "By", "Bytes that joins did not read because this host had them already.");

    internal static Counter<long> JoinRetried { get; } = Count("checkpoint_engine.join.retried", "By", "Bytes that joins have asked for once more because they did not come.");

    internal static Counter<long> DigestMismatches { get; } = Count("checkpoint_engine.join.digest.mismatches", "{mismatch}", "Chunks or tensors that differed from the digest their owner vouches for.");

    /// <summary>Tag <see cref="Outcome"/>.</summary>
    internal static Counter<long> Joins { get; } = Count("checkpoint_engine.joins", "{join}", "Joins that have ended, by outcome: ok, cancelled, or the kind of the error.");

    /// <summary>Tag <see cref="Outcome"/>.</summary>
    internal static Histogram<double> JoinDuration { get; } = Measure("checkpoint_engine.join.duration", "How long joins took, metas not counted, by outcome.");

    /// <summary>Tag <c>phase</c>; of joins that have ended well.</summary>
    internal static Histogram<double> JoinPhase { get; } = Measure("checkpoint_engine.join.phase.duration", "How long each phase of a join took that ended well.");

    /// <summary>Tag <see cref="Outcome"/>.</summary>
    internal static Counter<long> Updates { get; } = Count("checkpoint_engine.updates", "{update}", "Updates of inference servers that have ended, by outcome.");

    /// <summary>Tag <see cref="Outcome"/>.</summary>
    internal static Histogram<double> UpdateDuration { get; } = Measure("checkpoint_engine.update.duration", "How long updates of inference servers took, by outcome.");

    internal static Counter<long> LeasesTaken { get; } = Count("checkpoint_engine.leases.taken", "{lease}", "Leases that readers have taken on what is held here.");

    internal static Counter<long> LeasesRevoked { get; } = Count("checkpoint_engine.leases.revoked", "{lease}", "Leases that were revoked because their readers took longer than the drain timeout.");

    /// <summary>Tag <c>change</c>, a member of <see cref="CheckpointChange"/>.</summary>
    internal static Counter<long> CheckpointChanges { get; } = Count("checkpoint_engine.checkpoint.changes", "{change}", "Checkpoints that were registered, replaced or updated, each a new generation, or unregistered.");

    /// <summary>Tags <c>service</c> and <c>reason</c>, of <see cref="Refusal"/>.</summary>
    internal static Counter<long> Refusals { get; } = Count("checkpoint_engine.refusals", "{refusal}", "Peers that were refused, by service and reason; the log says who.");

    /// <summary>Tag <c>listener</c>.</summary>
    internal static Counter<long> ConnectionsRefused { get; } = Count("checkpoint_engine.connections.refused", "{connection}", "Connections that found no place at a listener, since all that were open were of use.");

    /// <summary>Tag <c>listener</c>.</summary>
    internal static Counter<long> ConnectionsDisplaced { get; } = Count("checkpoint_engine.connections.displaced", "{connection}", "Connections that waited for their peer and were closed to make room for a newcomer.");

    /// <summary>Tag <c>listener</c>.</summary>
    internal static Counter<long> RequestsRefused { get; } = Count("checkpoint_engine.requests.refused", "{request}", "Requests that were refused since their address asks more often than it may.");

    static EngineMetrics()
    {
        Meter meter = EngineTelemetry.Meter;
        meter.CreateObservableCounter("checkpoint_engine.serve.sent", static () => new Measurement<long>(LiveServers.Served().Bytes, s_tcp), "By",
            "Bytes sent over data connections. Local and RDMA reads are one-sided: the holder takes no part and cannot count them.");
        meter.CreateObservableCounter("checkpoint_engine.serve.requests", static () => new Measurement<long>(LiveServers.Served().Requests, s_tcp), "{request}",
            "Reads answered over data connections.");
        meter.CreateObservableCounter("checkpoint_engine.serve.peer.sent", LiveServers.ServedByPeer, "By", "Bytes sent over data connections by the peer's address, where that is measured.");
        Show("checkpoint_engine.joins.active", "{join}", "Joins under way.", static server => server.ActiveJoins);
        meter.CreateObservableUpDownCounter("checkpoint_engine.leases.live", LiveServers.LiveLeases, "{lease}", "Leases that readers have on what is held here.");
        Show("checkpoint_engine.checkpoints.held", "{checkpoint}", "Checkpoints that are held.", static server => server.CountHeld().Checkpoints);
        Show("checkpoint_engine.checkpoints.size", "By", "Tensor data of the checkpoints that are held.", static server => server.CountHeld().Bytes);
        Show("checkpoint_engine.peer.conversations", "{conversation}", "Conversations of the peer service that are open.", static server => server.ConversationCount);
        Show("checkpoint_engine.data.connections", "{connection}", "Data connections that are open.", static server => server.DataConnectionCount);

        void Show(string name, string unit, string description, Func<ParameterServer, long> value)
            => meter.CreateObservableUpDownCounter(name, () => LiveServers.Sum(value), unit, description);
    }

    private static readonly KeyValuePair<string, object?>[] s_tcp = [new(Plane, "tcp")];

    /// <summary>Asks a server for its state from now on, when somebody looks.</summary>
    internal static void Watch(ParameterServer server)
    {
        if (EngineTelemetry.IsSupported)
        {
            LiveServers.Add(server);
        }
    }

    /// <summary>Counts bytes that are not what their owner vouches for.</summary>
    internal static void Mismatched()
    {
        if (EngineTelemetry.IsSupported)
        {
            DigestMismatches.Add(1);
        }
    }

    /// <summary>Counts a lease that was taken back.</summary>
    internal static void Revoked()
    {
        if (EngineTelemetry.IsSupported)
        {
            LeasesRevoked.Add(1);
        }
    }

    /// <summary>Counts one refusal.</summary>
    internal static void Refused(string service, string reason)
    {
        if (EngineTelemetry.IsSupported && Refusals.Enabled)
        {
            Refusals.Add(1, new("service", service), new("reason", reason));
        }
    }

    /// <summary>Counts a connection that found no place.</summary>
    internal static void ConnectionRefused(string listener)
    {
        if (EngineTelemetry.IsSupported)
        {
            ConnectionsRefused.Add(1, new KeyValuePair<string, object?>("listener", listener));
        }
    }

    /// <summary>Counts a connection that was closed for a newcomer.</summary>
    internal static void Displaced(string listener)
    {
        if (EngineTelemetry.IsSupported)
        {
            ConnectionsDisplaced.Add(1, new KeyValuePair<string, object?>("listener", listener));
        }
    }

    /// <summary>Counts a request of an address that asks too often.</summary>
    internal static void RequestRefused(string listener)
    {
        if (EngineTelemetry.IsSupported)
        {
            RequestsRefused.Add(1, new KeyValuePair<string, object?>("listener", listener));
        }
    }

    /// <summary>Counts one change of what is held.</summary>
    internal static void Changed(string change)
    {
        if (EngineTelemetry.IsSupported && CheckpointChanges.Enabled)
        {
            CheckpointChanges.Add(1, new KeyValuePair<string, object?>("change", change));
        }
    }

    private static Counter<long> Count(string name, string unit, string description) => EngineTelemetry.Meter.CreateCounter<long>(name, unit, description);

    private static Histogram<double> Measure(string name, string description) => EngineTelemetry.Meter.CreateHistogram(name, "s", description, null, s_seconds);
}
