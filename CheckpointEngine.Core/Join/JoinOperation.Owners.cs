using CheckpointEngine.Checkpoints;
using CheckpointEngine.Peers;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

// The owners: how they are connected to, and what is asked of them beside their bytes.
internal sealed partial class JoinOperation
{
    // Handshakes and hellos are short; more at a time would only queue at owners that answer one by one.
    private const int ParallelConnects = 32;

    /// <summary>Connects to the owners, and reads nothing; one that cannot be reached says why.</summary>
    internal async Task<IReadOnlyList<OwnerPlane>> ProbeAsync(CancellationToken cancellationToken)
    {
        TransferPlan plan = MakePlan(_metas.WithoutEmptyOwners());
        using var gate = new SemaphoreSlim(ParallelConnects, ParallelConnects);
        return await Task.WhenAll(Enumerable.Range(0, plan.Metas.Owners.Length).Where(owner => plan.OwnerBytes[owner] != 0).Select(ProbeOneAsync)).ConfigureAwait(false);

        async Task<OwnerPlane> ProbeOneAsync(int owner)
        {
            await gate.WaitAsync(cancellationToken).ConfigureAwait(false);
            try
            {
                using OwnerLink link = await OpenAsync(plan, null, owner, cancellationToken).ConfigureAwait(false);
                return link.Plane;
            }
            catch (CheckpointEngineException failure)
            {
                return new OwnerPlane(plan.Metas.Owners[owner].Rank, plan.Metas.Owners[owner].P2pStoreAddress ?? "", "none", false, failure.Message);
            }
            finally
            {
                gate.Release();
            }
        }
    }

    private async Task<OwnerLink> OpenAsync(TransferPlan plan, ReplicaTable? table, int owner, CancellationToken cancellationToken)
    {
        TimeSpan stallTimeout = table is not null && _options.StallTimeout > OwnerReplicas.StallTimeout ? OwnerReplicas.StallTimeout : _options.StallTimeout;
        OwnerLink link = await OwnerLink.ConnectAsync(plan.Metas.Owners[owner], _token, _options.Transport, stallTimeout, cancellationToken, _tls).ConfigureAwait(false);
        try
        {
            (ulong Address, ulong LengthBytes)[] runs = table is not null ? [.. table.RunsOf(owner)] : [.. plan.Ranges.ToArray().Where(range => range.Owner == owner).Select(range => (range.RemoteAddress, (ulong)range.LengthBytes))];
            await link.BeginAsync(runs[0].Address, cancellationToken).ConfigureAwait(false);
            bool attach = table is null && _options is { Destination: JoinDestinationKind.Memory, Copy: false };
            await link.OpenLocalAsync(runs, _options.Transport, attach, _options.AttachFiles, _token, _localPeers, stallTimeout, cancellationToken).ConfigureAwait(false);
            await link.OpenRdmaAsync(runs, _options.Transport, _rdma, stallTimeout, _logger, cancellationToken).ConfigureAwait(false);
            await link.OpenMooncakeAsync(runs, _options.Transport, _mooncake, stallTimeout, cancellationToken).ConfigureAwait(false);
            return link;
        }
        catch
        {
            link.Dispose();
            throw;
        }
    }

    // One that cannot be reached is an error, unless another stands in for it: then it is noted.
    private async Task ConnectAsync(TransferPlan plan, ReplicaTable? table, OwnerLink?[] links, Exception?[] failures, CancellationToken cancellationToken)
    {
        using var gate = new SemaphoreSlim(ParallelConnects, ParallelConnects);
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        await Task.WhenAll(Enumerable.Range(0, links.Length).Where(owner => plan.OwnerBytes[owner] != 0 || table?.StandsIn(owner) == true).Select(ConnectOneAsync)).ConfigureAwait(false);
        for (int owner = 0; owner < failures.Length; owner++)
        {
            // Not if those that could stand in for it cannot be reached either.
            if (failures[owner] is Exception failure && !Array.Exists(table!.StandInsOf(owner).ToArray(), other => failures[other] is null))
            {
                System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(failure);
            }
        }

        async Task ConnectOneAsync(int owner)
        {
            await gate.WaitAsync(stop.Token).ConfigureAwait(false);
            try
            {
                links[owner] = await OpenAsync(plan, table, owner, stop.Token).ConfigureAwait(false);
            }
            catch (CheckpointEngineException failure) when (table is not null && table.StandInsOf(owner).Length != 0)
            {
                failures[owner] = failure;
            }
            catch
            {
                await stop.CancelAsync().ConfigureAwait(false);
                throw;
            }
            finally
            {
                gate.Release();
            }
        }
    }

    private async Task<IReadOnlyList<SideFile>> FetchSideFilesAsync(TransferPlan plan, OwnerReplicas? replicas, OwnerLink?[] links, Task after, CancellationToken cancellationToken)
    {
        if (_options.WeightsOnly || _options.Destination is not (JoinDestinationKind.Memory or JoinDestinationKind.Directory))
        {
            return [];
        }
        await after.ConfigureAwait(false);          // one conversation with each owner: digests are what lanes wait for
        var files = new SortedDictionary<string, SideFile>(StringComparer.Ordinal);
        bool asked = false;
        for (int owner = 0; owner < links.Length; owner++)
        {
            if (links[owner] is not { Peer: PeerClient peer } || plan.OwnerBytes[owner] == 0 || replicas?.IsLive(owner) == false)
            {
                continue;
            }
            try
            {
                foreach (SideFile file in await peer.GetSideFilesAsync(FirstAddress(plan, owner), cancellationToken).ConfigureAwait(false))
                {
                    files.TryAdd(file.Name, file);
                }
                asked = true;
            }
            catch (CheckpointEngineException failure) when (replicas?.TryDrop(owner, failure) == true)
            {
                // The others have them too.
            }
        }
        if (!asked && _options.Destination == JoinDestinationKind.Directory)
        {
            _warnings.Add("no side files (config, tokenizer): none of the owners is a CheckpointEngine, and Mooncake has no way to ask for them");
        }
        return [.. files.Values];
    }

    private static ulong FirstAddress(TransferPlan plan, int owner)
    {
        int range = 0;
        while (plan.Ranges[range].Owner != owner)
        {
            range++;
        }
        return plan.Ranges[range].RemoteAddress;
    }

    private static string NameOf(TransferPlan plan, int owner) => $"rank {plan.Metas.Owners[owner].Rank} at {plan.Metas.Owners[owner].P2pStoreAddress}";
}
