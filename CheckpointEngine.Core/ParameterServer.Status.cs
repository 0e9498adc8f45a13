using System.Diagnostics;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Inference;
using CheckpointEngine.Join;
using CheckpointEngine.Metas;
using CheckpointEngine.Telemetry;

namespace CheckpointEngine;

// What it tells of itself, to people and to instruments.
public sealed partial class ParameterServer
{
    private readonly DateTimeOffset _started = DateTimeOffset.UtcNow;
    private readonly List<JoinObservation> _joins = [];      // under way; under itself

    /// <summary>What it is doing at this moment.</summary>
    public ServerStatus GetStatus()
    {
        CheckpointStatus[] checkpoints;
        lock (_lock)
        {
            checkpoints = [.. _records.OrderBy(static record => record.Key, StringComparer.Ordinal).Select(record => Describe(record.Key, record.Value))];
        }
        JoinStatus[] joins;
        lock (_joins)
        {
            joins = [.. _joins.Select(static join => new JoinStatus(join.Checkpoint, join.Started, join.Latest))];
        }
        bool isStarted = _engine is not null;
        return new ServerStatus
        {
            Version = EngineVersion.Text,
            Started = _started,
            Rank = Rank,
            P2pStoreAddress = isStarted ? P2pStoreAddress : "",
            PeerUrl = isStarted && _peers is not null ? PeerUrl : "",
            Planes = _engine?.Planes ?? [],
            Checkpoints = checkpoints,
            Joins = joins,
            Readers = _engine?.DescribeReaders() ?? [],
            Conversations = ConversationCount,
            SentBytes = _engine?.SentBytes ?? 0,
        };
    }

    /// <summary>Joins under way.</summary>
    internal int ActiveJoins
    {
        get
        {
            lock (_joins)
            {
                return _joins.Count;
            }
        }
    }

    /// <summary>Conversations of the peer service, over TCP and the local socket.</summary>
    internal int ConversationCount => (_peers?.SessionCount ?? 0) + (_localPeers?.SessionCount ?? 0);

    /// <summary>Data connections that are open.</summary>
    internal int DataConnectionCount => _engine?.DataConnectionCount ?? 0;

    /// <summary>How much is held.</summary>
    internal (int Checkpoints, long Bytes) CountHeld()
    {
        lock (_lock)
        {
            (int checkpoints, long bytes) = (0, 0);
            foreach (CheckpointRecord record in _records.Values)
            {
                checkpoints += record.Held is null ? 0 : 1;
                bytes += record.Held?.Checkpoint.DataBytes ?? 0;
            }
            return (checkpoints, bytes);
        }
    }

    // Under the lock.
    private CheckpointStatus Describe(string name, CheckpointRecord record)
    {
        HeldEntry? held = record.Held;
        string state = held is { IsUpdating: true } ? "updating" : held is not null ? "held" : record.IsReserved ? "arriving" : "elsewhere";
        OwnerStatus[] owners = _engine is not null && record.IsVisible && held is not { IsUpdating: true }
            ? [.. record.GetMetas(MetasScope.World, this).Metas.Owners.ToArray().Select(static owner => new OwnerStatus(owner.Rank, owner.P2pStoreAddress ?? "", owner.TensorCount))]
            : [];
        return held is null ? new CheckpointStatus { Name = name, State = state, Owners = owners } : new CheckpointStatus
        {
            Name = name,
            State = state,
            Kind = KindOf(held.Checkpoint),
            Tensors = held.Checkpoint.Tensors.Count,
            Bytes = held.Checkpoint.DataBytes,
            Generation = held.Generation,
            DigestsDone = held.Digests?.DoneCount ?? 0,
            DigestsTotal = held.Digests?.ChunkCount ?? 0,
            Leases = held.Uses.Count,
            Owners = owners,
        };
    }

    private static string KindOf(HeldCheckpoint checkpoint) => checkpoint.IsOfCaller ? "caller" : checkpoint.Buffers.Length == 0 ? "" : checkpoint.Buffers[0].Memory.Kind switch
    {
        MemoryBufferKind.MappedFile => "map",
        MemoryBufferKind.Memfd => "memfd",
        MemoryBufferKind.Borrowed => "caller",
        _ => "anon",
    };

    private async Task<JoinReport> JoinAsync(CheckpointMetas metas, JoinOptions options, JoinArrival? arrival, IProgress<JoinProgress>? progress, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(options);
        using var observation = new JoinObservation(options.CheckpointName, progress, EndJoin);
        lock (_joins)
        {
            _joins.Add(observation);
        }
        try
        {
            // Who is alone in its process and has nobody to tell does not wake up to be told.
            bool isWatched = progress is not null || _engine is not null || (EngineTelemetry.IsSupported && EngineTelemetry.Source.HasListeners());
            JoinReport report = await JoinUnobservedAsync(metas, options, arrival, isWatched ? observation : null, cancellationToken).ConfigureAwait(false);
            observation.Completed(report);
            return report;
        }
        catch (Exception failure)
        {
            observation.Failed(failure);
            throw;
        }
    }

    private void EndJoin(JoinObservation join)
    {
        lock (_joins)
        {
            _joins.Remove(join);
        }
    }

    private static async Task<InferenceUpdateReport> ObserveUpdateAsync(string name, InferenceUpdateOptions options, Func<Task<InferenceUpdateReport>> update)
    {
        if (!EngineTelemetry.IsSupported)
        {
            return await update().ConfigureAwait(false);
        }
        long start = Stopwatch.GetTimestamp();
        using Activity? activity = EngineTelemetry.Start("update");
        activity?.SetTag("checkpoint", name).SetTag("engine", options.Engine.ToString());
        string outcome = Outcomes.Ok;
        try
        {
            InferenceUpdateReport report = await update().ConfigureAwait(false);
            activity?.SetTag("bytes", report.Bytes).SetTag(EngineMetrics.Outcome, outcome);
            return report;
        }
        catch (Exception failure)
        {
            outcome = Outcomes.Of(failure);
            Outcomes.Fail(activity, failure);
            throw;
        }
        finally
        {
            var tag = new KeyValuePair<string, object?>(EngineMetrics.Outcome, outcome);
            EngineMetrics.Updates.Add(1, tag);
            EngineMetrics.UpdateDuration.Record(Stopwatch.GetElapsedTime(start).TotalSeconds, tag);
        }
    }
}
