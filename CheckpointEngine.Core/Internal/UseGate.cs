namespace CheckpointEngine.Internal;

/// <summary>Counts who uses something that another may want to take away: that one waits, then has them cut short, then waits for them to be gone.</summary>
/// <remarks>Any number of threads; disposed of when it is closed for good.</remarks>
internal sealed class UseGate : IDisposable
{
    private readonly Lock _lock = new();
    private CancellationTokenSource _cut = new();
    private TaskCompletionSource? _idle;
    private int _users;
    private bool _closed;

    /// <summary>Those that are inside.</summary>
    internal int Count
    {
        get
        {
            lock (_lock)
            {
                return _users;
            }
        }
    }

    /// <summary>Comes in, if it is open.</summary>
    /// <param name="cut">Cancelled when the user is to end.</param>
    internal bool TryEnter(out CancellationToken cut)
    {
        lock (_lock)
        {
            cut = _cut.Token;
            _users += _closed ? 0 : 1;
            return !_closed;
        }
    }

    /// <summary>Goes out; once for each <see cref="TryEnter"/> that was let in.</summary>
    internal void Leave()
    {
        lock (_lock)
        {
            if (--_users == 0)
            {
                _idle?.TrySetResult();
            }
        }
    }

    /// <summary>Lets nobody in any more, and completes when nobody is inside.</summary>
    /// <param name="patience">How long users may go on before they are cut.</param>
    internal async Task CloseAsync(TimeSpan patience)
    {
        Task idle;
        lock (_lock)
        {
            _closed = true;
            if (_users == 0)
            {
                return;
            }
            idle = (_idle ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously)).Task;
        }
        try
        {
            await idle.WaitAsync(patience).ConfigureAwait(false);
        }
        catch (TimeoutException)
        {
            await _cut.CancelAsync().ConfigureAwait(false);
            await idle.ConfigureAwait(false);
        }
    }

    /// <summary>Lets users in again.</summary>
    internal void Open()
    {
        lock (_lock)
        {
            _closed = false;
            _idle = null;
            if (_cut.IsCancellationRequested)
            {
                _cut.Dispose();
                _cut = new CancellationTokenSource();
            }
        }
    }

    public void Dispose() => _cut.Dispose();
}
