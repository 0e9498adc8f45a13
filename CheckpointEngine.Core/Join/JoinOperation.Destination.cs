using CheckpointEngine.Checkpoints;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

// Where the bytes go, and what may be there already.
internal sealed partial class JoinOperation
{
    // What was found in the partial directory is in its place already, and goes before an earlier version.
    private IJoinSeed? MakeSeed(TransferPlan plan, IJoinDestination destination)
        => destination is DirectoryDestination { HasFound: true } found ? found
            : destination is MemoryDestination { GoesOn: true } before ? before
            : destination is MemoryDestination or DirectoryDestination && _earlier?.Checkpoint is HeldCheckpoint earlier ? new HeldSeed(plan, earlier)
            : null;

    private void RegisterWithDevices(IJoinDestination destination, OwnerLink?[] links)
    {
        try
        {
            _rdma.Register(destination);
        }
        catch (CheckpointEngineException reason)
        {
            foreach (OwnerLink? link in links)
            {
                link?.LeaveRdma(reason);
            }
            _warnings.Add($"not over RDMA: {reason.Message}");
        }
    }

    // Memory is gone on with as it is; a directory is opened anew, and its shards looked through.
    private MemoryDestination? TakeKept(TransferPlan plan, OwnerLink?[] links)
    {
        IJoinDestination? kept = _kept;
        _kept = null;
        if (kept is MemoryDestination memory && memory.TryGoOn(plan, links))
        {
            return memory;
        }
        (kept as DirectoryDestination)?.Keep();
        kept?.Dispose();
        return null;
    }

    private IJoinDestination MakeDestination(TransferPlan plan, OwnerLink?[] links, DigestVerifier? verifier) => _options.Destination switch
    {
        JoinDestinationKind.Memory => TakeKept(plan, links) ?? new MemoryDestination(plan, links, _hold),
        JoinDestinationKind.Tensors => _tensors!,
        JoinDestinationKind.Buckets => new BucketDestination(_buckets!, _options.OnBucket!, verifier, _options.RequireVerify),
        JoinDestinationKind.Null => new NullDestination(),
        _ => MakeDirectory(plan, links),
    };

    private DirectoryDestination MakeDirectory(TransferPlan plan, OwnerLink?[] links)
    {
        TakeKept(plan, links);
        return new DirectoryDestination(plan, _options.DirectoryPath ?? throw new InvalidOperationException("JoinOptions.DirectoryPath is not set"), _options.KeepPartial,
            takeEarlier: _options is { Replace: true, Verify: true });
    }
}
