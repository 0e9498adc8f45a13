using Microsoft.Extensions.Logging;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>Registrations that are kept complete: with a device that becomes usable later they are caught up in the background.</summary>
/// <remarks>Any number of threads; no lock is held while memory is registered, but the one of what is registered.</remarks>
internal sealed partial class RdmaRegistrations : IDisposable
{
    private readonly IRdmaRegistrar _registrar;
    private readonly ILogger _logger;
    private readonly Lock _lock = new();
    private RdmaRegistration[] _all = [];
    private Task _catchingUp = Task.CompletedTask;
    private int _changes = 1;                // of the devices
    private bool _disposed;

    internal RdmaRegistrations(IRdmaRegistrar registrar, ILogger logger)
    {
        _registrar = registrar;
        _logger = logger;
    }

    /// <summary>Takes one over.</summary>
    /// <exception cref="ObjectDisposedException">It is disposed of.</exception>
    internal void Add(RdmaRegistration registration)
    {
        lock (_lock)
        {
            if (!_disposed)
            {
                _all = [.. _all, registration];
                CatchUp();              // with a device that became usable meanwhile
                return;
            }
        }
        registration.Dispose();
        throw new ObjectDisposedException(nameof(RdmaRegistrations));
    }

    /// <summary>Ends one; nothing of it is registered when this returns.</summary>
    internal void Remove(RdmaRegistration registration)
    {
        lock (_lock)
        {
            _all = Array.FindAll(_all, other => other != registration);
        }
        lock (registration)         // who catches up is done with it, or finds it gone
        {
            registration.Dispose();
        }
    }

    /// <summary>Whether a device is usable and everything is registered with it.</summary>
    internal bool IsReady(int device)
    {
        if (!_registrar.IsUsable(device))
        {
            return false;
        }
        foreach (RdmaRegistration registration in Volatile.Read(ref _all))
        {
            if (!registration.IsWith(device))
            {
                return false;
            }
        }
        return true;
    }

    /// <summary>Says that a device may have become usable.</summary>
    internal void DevicesChanged()
    {
        lock (_lock)
        {
            _changes++;
            CatchUp();
        }
    }

    public void Dispose()
    {
        Task catchingUp;
        lock (_lock)
        {
            _disposed = true;
            catchingUp = _catchingUp;
        }
        Array.ForEach(Volatile.Read(ref _all), Remove);
        catchingUp.GetAwaiter().GetResult();
    }

    // Under the lock.
    private void CatchUp()
    {
        if (_catchingUp.IsCompleted && !_disposed && FindBehind(out _) is not null)
        {
            _catchingUp = Task.Factory.StartNew(CatchUpAll, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        }
    }

    private void CatchUpAll()
    {
        while (true)
        {
            RdmaRegistration behind;
            int device;
            int change;
            lock (_lock)
            {
                if (_disposed || FindBehind(out device) is not RdmaRegistration found)
                {
                    _catchingUp = Task.CompletedTask;       // a change from here on starts another
                    return;
                }
                behind = found;
                change = _changes;
            }
            try
            {
                lock (behind)
                {
                    if (Array.IndexOf(Volatile.Read(ref _all), behind) >= 0)
                    {
                        behind.Extend(device);
                    }
                }
            }
            catch (Exception refusal) when (refusal is CheckpointEngineException or ObjectDisposedException)
            {
                behind.RefusedAt[device] = change;
                LogRefused(refusal.Message);
            }
        }
    }

    private RdmaRegistration? FindBehind(out int device)
    {
        foreach (RdmaRegistration registration in _all)
        {
            for (device = 0; device < _registrar.Devices; device++)
            {
                if (_registrar.IsUsable(device) && registration.RefusedAt[device] != _changes && !registration.IsWith(device))
                {
                    return registration;
                }
            }
        }
        device = -1;
        return null;
    }

    [LoggerMessage(EventId = 2321, Level = LogLevel.Warning, Message = "rdma: a device that came up is not used: {Reason}")]
    private partial void LogRefused(string reason);
}
