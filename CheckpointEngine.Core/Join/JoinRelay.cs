using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Planning;
using CheckpointEngine.Relay;

namespace CheckpointEngine.Join;

/// <summary>A join's part in the swarms of its owners, for as long as others may need what it has.</summary>
/// <remarks>Whoever frees the memory that is offered disposes of it before; any number of times, from any thread.</remarks>
internal sealed class JoinRelay : IAsyncDisposable
{
    private readonly Lock _lock = new();
    private readonly List<(SwarmMember Member, SharedUnits Shared)> _members = [];
    private Task? _disposing;

    private JoinRelay(int owners) => Works = new SwarmWork?[owners];

    /// <summary>By owner what is read of it together with others; null where it is read alone.</summary>
    internal SwarmWork?[] Works { get; }

    /// <summary>Whether anybody could still need what is offered here.</summary>
    internal bool IsNeeded => !IsDisposed && _members.Exists(static entry => entry.Member.IsNeeded);

    /// <summary>Whether it was ended.</summary>
    internal bool IsDisposed => Volatile.Read(ref _disposing) is not null;

    /// <summary>Relays that sent something else than they should, one line each.</summary>
    internal IEnumerable<string> Wrong => _members.SelectMany(static entry => entry.Member.Wrong);

    /// <summary>Comes to the swarms of those owners that are read over a network and have digests, and begins to offer.</summary>
    /// <param name="plan">What is read.</param>
    /// <param name="links">The owners.</param>
    /// <param name="isRead">Whether anything of an owner is read.</param>
    /// <param name="destination">Where it goes.</param>
    /// <param name="verifier">Knows the owners' digests, or will.</param>
    /// <param name="token">The token, if one is demanded.</param>
    /// <param name="terms">How others are met, and may come.</param>
    /// <param name="warn">Told why an owner is read alone, or nothing is offered.</param>
    /// <param name="cancellationToken">Ends it.</param>
    internal static async Task<JoinRelay> EnterAsync(TransferPlan plan, OwnerLink?[] links, Predicate<int> isRead, IJoinDestination destination, DigestVerifier verifier, AccessToken? token,
        RelayTerms terms, Action<string> warn, CancellationToken cancellationToken)
    {
        var relay = new JoinRelay(links.Length);
        try
        {
            for (int owner = 0; owner < links.Length; owner++)
            {
                if (links[owner] is OwnerLink link && plan.OwnerBytes[owner] != 0 && isRead(owner))
                {
                    try
                    {
                        await relay.EnterAsync(plan, owner, link, destination, verifier, token, link.IsEncrypted ? terms.Encrypted() : terms, warn, cancellationToken).ConfigureAwait(false);
                    }
                    catch (CheckpointEngineException reason)
                    {
                        warn($"{link.Name} is read without relay: {reason.Message}");
                    }
                }
            }
            return relay;
        }
        catch
        {
            await relay.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>Takes what is here from the start, which nobody needs to read: all units but those that are left.</summary>
    internal void TakePresent(ReadUnit[]?[] left)
    {
        foreach (SwarmWork work in Works.OfType<SwarmWork>())
        {
            if (left[work.Owner] is ReadUnit[] missing)
            {
                var isMissing = new HashSet<ReadUnit>(missing);
                for (int unit = 0; unit < work.Units.Length; unit++)
                {
                    if (!isMissing.Contains(work.Units[unit]))
                    {
                        work.Arrived(unit);
                    }
                }
            }
        }
    }

    /// <summary>Begins to ask and to read.</summary>
    internal void Start(TransferRun run) => _members.ForEach(entry => entry.Member.Start(run));

    /// <summary>Reads from nobody any more; every lane of the run has ended.</summary>
    internal Task StopReadingAsync() => Task.WhenAll(_members.Select(static entry => entry.Member.StopReadingAsync()));

    /// <summary>Lets the memory be sealed: it is not read meanwhile.</summary>
    internal Task TakeOutAsync() => Task.WhenAll(_members.Select(static entry => entry.Member.TakeOutAsync()));

    /// <summary>And lets it be read again.</summary>
    internal void PutIn() => _members.ForEach(static entry => entry.Member.PutIn(entry.Shared.Buffers));

    public async ValueTask DisposeAsync()
    {
        Task disposing;
        lock (_lock)
        {
            disposing = _disposing ??= EndAsync();
        }
        await disposing.ConfigureAwait(false);
    }

    private async Task EndAsync()
    {
        await Task.Yield();                 // away from the lock
        await Task.WhenAll(_members.Select(static entry => entry.Member.DisposeAsync().AsTask())).ConfigureAwait(false);
        _members.ForEach(static entry => entry.Shared.Dispose());
    }

    private async Task EnterAsync(TransferPlan plan, int owner, OwnerLink link, IJoinDestination destination, DigestVerifier verifier, AccessToken? token, RelayTerms terms, Action<string> warn, CancellationToken cancellationToken)
    {
        if (link.Peer is null || link.Digest == DigestAlgorithm.None)
        {
            throw new CheckpointEngineException(CheckpointError.NotSupported, link.Peer is null ? "it is no CheckpointEngine" : "it makes no digests, and without them nobody can tell what others send");
        }
        if (link.Local is not null)
        {
            throw new CheckpointEngineException(CheckpointError.NotSupported, "it runs on this host");
        }
        ReadUnit[] units = SwarmUnits.Cut(plan, owner)
            ?? throw new CheckpointEngineException(CheckpointError.NotSupported, $"it has more than {SwarmRequest.MostUnits:N0} pieces");
        var work = new SwarmWork(plan, owner, units, destination, verifier);
        SharedUnits shared = destination.Share(owner)
            ?? throw new CheckpointEngineException(CheckpointError.NotSupported, "what is read stays nowhere from where others could have it");
        SwarmMember? member = null;
        try
        {
            member = await SwarmMember.EnterAsync(work, link, token, plan.Ranges[units[0].Range].RemoteAddress, terms, cancellationToken).ConfigureAwait(false);
            if (terms.Speaks >= terms.Demands)
            {
                member.Offer([.. units.Select(unit => shared.PlaceOf(unit))], shared.Buffers);
            }
            else
            {
                warn($"what is read of {link.Name} is offered to no other: it would have to be within TLS, as it is read, and there is no certificate to do that with (--tls-cert and --tls-key)");
            }
        }
        catch
        {
            if (member is not null)
            {
                await member.DisposeAsync().ConfigureAwait(false);
            }
            shared.Dispose();
            throw;
        }
        _members.Add((member, shared));
        Works[owner] = work;
    }
}
