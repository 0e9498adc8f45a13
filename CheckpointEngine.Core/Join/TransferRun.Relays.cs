namespace CheckpointEngine.Join;

// Relays: joiners that are read from beside the owners, and that come and go while lanes run.
internal sealed partial class TransferRun
{
    /// <summary>Bytes that came from other joiners.</summary>
    internal long RelayedBytes => _bytesRelayed.Value;

    /// <summary>The most bytes that a lane should have in flight with a source.</summary>
    internal int MostBytesInFlight(int source) => _works[source]!.MostBytesInFlight;

    private int LiveRelays
    {
        get
        {
            int live = 0;
            for (int source = _owners; source < _works.Length; source++)
            {
                live += IsLiveRelay(source) ? 1 : 0;
            }
            return live;
        }
    }

    /// <summary>Adds a relay.</summary>
    /// <param name="link">The way to it; the run's until <see cref="RemoveRelayAsync"/>.</param>
    /// <param name="work">What it has.</param>
    /// <returns>Its place; -1 when there is none free.</returns>
    internal int AddRelay(OwnerLink link, SourceWork work)
    {
        lock (_lock)
        {
            for (int source = _owners; source < _works.Length; source++)
            {
                if (_works[source] is null)
                {
                    _relayGone[source - _owners] = null;
                    _links[source] = link;
                    _works[source] = work;
                    return source;
                }
            }
            return -1;
        }
    }

    /// <summary>Reads a relay no more; its lanes leave it.</summary>
    internal void LoseRelay(int source, Exception reason)
    {
        Interlocked.CompareExchange(ref _relayGone[source - _owners], reason, null);
        RoomCame();
    }

    /// <summary>Why a relay is read no more; null while it is.</summary>
    internal Exception? WhyGone(int source) => Volatile.Read(ref _relayGone[source - _owners]);

    /// <summary>Forgets a relay that is read no more, as soon as no lane is there.</summary>
    internal Task RemoveRelayAsync(int source)
    {
        lock (_lock)
        {
            if (_works[source]!.Lanes == 0)
            {
                _works[source] = null;
                return Task.CompletedTask;
            }
            return (_relayLeft[source - _owners] = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously)).Task;
        }
    }

    // Under the lock, when a lane has left.
    private void RemoveIfLeft(int relay)
    {
        if (_relayLeft[relay] is TaskCompletionSource left && _works[_owners + relay]!.Lanes == 0)
        {
            _works[_owners + relay] = null;
            _relayLeft[relay] = null;
            left.SetResult();
        }
    }

    private bool IsLiveRelay(int source) => _works[source] is not null && Volatile.Read(ref _relayGone[source - _owners]) is null;
}
