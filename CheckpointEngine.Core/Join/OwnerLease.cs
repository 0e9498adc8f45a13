using CheckpointEngine.Internal;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Rdma;

namespace CheckpointEngine.Join;

/// <summary>A join's side of the lease on one owner's generation: taken before the first read, renewed while reads go on, given back after the last.</summary>
/// <remarks>Dispose ends the renewing; the owner learns it with the end of the conversation, which is the link's.</remarks>
internal sealed class OwnerLease : IDisposable
{
    // So that two renewals may be late before the lease is.
    private const int RenewalsInLifetime = 3;

    // Of many who begin at once the first do not see the others yet.
    private static readonly TimeSpan s_firstRenewal = TimeSpan.FromMilliseconds(250);

    private readonly PeerClient _peer;
    private readonly string _owner;
    private readonly ulong _address;
    private readonly PeriodicTimer _timer;      // its end is the renewing's, without an exception: the first trace of one costs a process compiled ahead of time 4 ms
    private readonly Task _renewing;
    private volatile bool _stopping;
    private Exception? _lost;
    private uint _readers;
    private Action<Exception>? _whenLost;

    private OwnerLease(PeerClient peer, string owner, ulong address, in LeaseAnswer taken)
    {
        _peer = peer;
        _owner = owner;
        _address = address;
        Generation = taken.Generation;
        LaneKey = taken.LaneKey;
        _readers = taken.Readers;
        var interval = TimeSpan.FromMilliseconds(Math.Max(1, taken.LifetimeMs / RenewalsInLifetime));
        _timer = new PeriodicTimer(interval < s_firstRenewal ? interval : s_firstRenewal);
        _renewing = RenewAsync(interval);
    }

    /// <summary>The generation that it is for.</summary>
    internal long Generation { get; }

    /// <summary>How many leases the owner had out, this one among them, when it was last asked.</summary>
    internal int Readers => (int)Math.Min(Volatile.Read(ref _readers), int.MaxValue);

    /// <summary>What data connections prove instead of the token; null when the owner does not ask for it.</summary>
    internal byte[]? LaneKey { get; }

    /// <summary>Takes it.</summary>
    /// <param name="peer">The conversation with the owner.</param>
    /// <param name="owner">What the metas say of it.</param>
    /// <param name="name">The owner, for messages.</param>
    /// <param name="address">An address of the checkpoint in its memory.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Superseded"/>: it holds another generation than the metas tell, or is another process. <see cref="CheckpointError.Refused"/>: it holds nothing there.</exception>
    internal static async Task<OwnerLease> TakeAsync(PeerClient peer, MetasOwner owner, string name, ulong address, CancellationToken cancellationToken)
    {
        if (owner.Epoch.Length != 0 && owner.Epoch != peer.Server.Instance)
        {
            ThrowHelper.Throw(CheckpointError.Superseded, $"read from {name}: it was restarted since the metas were made, or another process has its address; fetch the metas anew");
        }
        LeaseAnswer taken = await peer.LeaseAsync(address, cancellationToken).ConfigureAwait(false);
        if (taken.Generation == 0)
        {
            ThrowHelper.Throw(CheckpointError.Refused, $"read from {name}: it does not hold what the metas say, or is changing it; fetch the metas anew");
        }
        if (owner.Generation != 0 && owner.Generation != taken.Generation)
        {
            ThrowHelper.Throw(CheckpointError.Superseded, $"read from {name}: generation {owner.Generation} of the metas is superseded by generation {taken.Generation}; fetch the metas anew");
        }
        return new OwnerLease(peer, name, address, taken);
    }

    /// <summary>What queue pairs are connected with for it, and where the segment lies for RDMA.</summary>
    /// <param name="maxBytes">Of the descriptor.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="CheckpointEngineException">NotSupported: the owner has none. Else as of every question.</exception>
    internal Task<(RdmaKey Key, SegmentDescriptor Descriptor)> GetRdmaAsync(int maxBytes, CancellationToken cancellationToken) => _peer.GetRdmaAsync(_address, maxBytes, cancellationToken);

    /// <summary>Who is told as soon as it is known that the lease is lost; of one that is lost already, at once.</summary>
    internal void WhenLost(Action<Exception> whenLost)
    {
        Volatile.Write(ref _whenLost, whenLost);
        if (Volatile.Read(ref _lost) is Exception lost)
        {
            whenLost(lost);
        }
    }

    /// <summary>Asks whether it is alive.</summary>
    /// <returns>Null when it is; else why not, which may be that the owner does not answer.</returns>
    internal async Task<CheckpointEngineException?> WhyLostAsync()
    {
        try
        {
            ThrowIfRevoked(await _peer.LeaseAsync(_address, CancellationToken.None).ConfigureAwait(false));
            return null;
        }
        catch (CheckpointEngineException lost)
        {
            return lost;
        }
    }

    /// <summary>Gives it back.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Superseded"/>: it was revoked before.</exception>
    internal async Task ReleaseAsync(CancellationToken cancellationToken)
    {
        Stop();
        await _renewing.ConfigureAwait(false);
        if (_lost is not null)
        {
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(_lost);
        }
        ThrowIfRevoked(await _peer.ReleaseAsync(_address, cancellationToken).ConfigureAwait(false));
    }

    public void Dispose() => Stop();

    private void Stop()
    {
        _stopping = true;
        _timer.Dispose();
    }

    private async Task RenewAsync(TimeSpan interval)
    {
        try
        {
            while (await _timer.WaitForNextTickAsync(CancellationToken.None).ConfigureAwait(false))
            {
                // Not cancelled on the way: the conversation would be of no more use.
                LeaseAnswer renewed = await _peer.LeaseAsync(_address, CancellationToken.None).ConfigureAwait(false);
                ThrowIfRevoked(renewed);
                Volatile.Write(ref _readers, renewed.Readers);
                if (_timer.Period != interval && !_stopping)
                {
                    _timer.Period = interval;
                }
            }
        }
        catch (ObjectDisposedException) when (_stopping)
        {
            // It was not needed any more when it was to be set to its later pace.
        }
        catch (CheckpointEngineException) when (_stopping)
        {
            // The join is over, and the conversation with it.
        }
        catch (CheckpointEngineException failure)
        {
            CheckpointEngineException lost = failure.Error == CheckpointError.Superseded ? failure
                : new CheckpointEngineException(failure.Error, $"read from {_owner}: its lease cannot be renewed: {failure.Message}; check that the owner still runs, then join again", failure.NativeCode, failure);
            Volatile.Write(ref _lost, lost);
            Volatile.Read(ref _whenLost)?.Invoke(lost);
        }
    }

    private void ThrowIfRevoked(in LeaseAnswer answer)
    {
        if (answer.Generation != Generation)
        {
            string now = answer.SupersededBy == 0 ? "was taken away or is being changed" : $"is superseded by generation {answer.SupersededBy}";
            ThrowHelper.Throw(CheckpointError.Superseded, $"read from {_owner}: generation {Generation} {now}, and its owner waited no longer (--drain-timeout); fetch the metas anew and join again");
        }
    }
}
