using CheckpointEngine.Metas;

namespace CheckpointEngine.Join;

// When an owner is lost, or holds another generation: who is asked, and what is gone on with.
internal sealed partial class JoinOperation
{
    // Each time an owner was lost while it was read, or another generation was there: who changes faster than it can be read is not joined.
    private const int MostAttempts = 5;

    // Timers take no more than 49 days.
    private static readonly TimeSpan s_forEver = TimeSpan.FromDays(40);

    private static readonly TimeSpan s_askPause = TimeSpan.FromMilliseconds(250);

    // What is kept of an attempt that failed is believed only as far as the next owner's digests say that it is right.
    private bool MayAskAgain(CheckpointEngineException lost)
        => _options is { AskForMetas: not null, Verify: true, Destination: JoinDestinationKind.Memory or JoinDestinationKind.Directory or JoinDestinationKind.Tensors or JoinDestinationKind.Null } && _arrival?.Begin is null
            && lost.Error is CheckpointError.Unreachable or CheckpointError.Timeout or CheckpointError.Superseded or CheckpointError.Refused;

    // The metas of now, which are those of before where an owner may be reached again; null: nothing can be gone on with.
    private async Task<CheckpointMetas?> AskAgainAsync(CheckpointMetas known, CheckpointEngineException lost, TimeSpan timeLeft, CancellationToken cancellationToken)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        if (timeLeft < s_forEver)
        {
            patience.CancelAfter(timeLeft > TimeSpan.Zero ? timeLeft : TimeSpan.Zero);
        }
        try
        {
            while (true)
            {
                try
                {
                    CheckpointMetas now = (await _options.AskForMetas!(patience.Token).ConfigureAwait(false)).WithoutEmptyOwners();
                    if (!now.HasSameOwners(known))
                    {
                        return now;
                    }
                    if (lost.Error is CheckpointError.Unreachable or CheckpointError.Timeout)
                    {
                        await Task.Delay(s_askPause, patience.Token).ConfigureAwait(false);       // a cut that heals
                        return now;
                    }
                    if (lost.Error == CheckpointError.Refused && _isConnected)
                    {
                        return null;    // by who still holds it; one that does not may be told of in other metas yet
                    }
                }
                catch (CheckpointEngineException)
                {
                    // Not up again, or not yet done with its update.
                }
                await Task.Delay(s_askPause, patience.Token).ConfigureAwait(false);
            }
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            return null;
        }
    }

    // Other bytes than those that were vouched for may be those of the next generation, at the same place.
    private static async Task<Exception?> WhySupersededAsync(OwnerLink?[] links, OwnerReplicas? replicas)
    {
        for (int owner = 0; owner < links.Length; owner++)
        {
            if (links[owner]?.Lease is OwnerLease lease && replicas?.IsLive(owner) != false && await lease.WhyLostAsync().ConfigureAwait(false) is { Error: CheckpointError.Superseded } lost)
            {
                return lost;
            }
        }
        return null;
    }
}
