using CheckpointEngine.Checkpoints;
using CheckpointEngine.Planning;
using CheckpointEngine.Relay;

namespace CheckpointEngine.Join;

// Others that read the same: when they are joined, and what their reading asks of the end.
internal sealed partial class JoinOperation
{
    private async Task<JoinRelay?> TryEnterRelayAsync(TransferPlan plan, OwnerReplicas? replicas, OwnerLink?[] links, Predicate<int> isRead, IJoinDestination destination, DigestVerifier? verifier,
        CancellationToken cancellationToken)
    {
        if (!_options.Relay)
        {
            return null;
        }
        string? whyNot = verifier is null ? "it needs digests, and this join checks none"
            : replicas is not null ? "the owners stand in for each other, and are read together"
            : _options.Repeat > 1 ? "the same bytes are read several times"
            : null;
        if (whyNot is not null)
        {
            Warn($"without relay: {whyNot}");
            return null;
        }
        return await JoinRelay.EnterAsync(plan, links, isRead, destination, verifier!, _token, MakeRelayTerms?.Invoke() ?? new RelayTerms { Logging = _loggerFactory }, Warn, cancellationToken).ConfigureAwait(false);
    }

    // A memfd is sealed when it is whole, and is away for a moment for that.
    private async Task<HeldCheckpoint> ToCheckpointAsync(MemoryDestination memory, IReadOnlyList<SideFile> files, JoinRelay? relay)
    {
        bool isSealed = _hold == HoldMode.Memfd && relay is not null;
        if (isSealed)
        {
            await relay!.TakeOutAsync().ConfigureAwait(false);
        }
        HeldCheckpoint held = memory.ToCheckpoint(_options.CheckpointName, files, _pin, _warnings);
        if (isSealed)
        {
            relay!.PutIn();
        }
        return held;
    }
}
