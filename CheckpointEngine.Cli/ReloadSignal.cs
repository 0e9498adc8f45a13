using System.Runtime.InteropServices;

namespace CheckpointEngine.Cli;

/// <summary>Has files read again on each SIGHUP, which ends no process, one without such files included.</summary>
/// <remarks>Any number of threads; one signal after the other.</remarks>
internal sealed class ReloadSignal : IDisposable
{
    private readonly Lock _lock = new();
    private readonly List<Action> _reloads = [];
    private readonly List<IDisposable> _owned = [];
    private readonly PosixSignalRegistration _registration;

    public ReloadSignal() => _registration = PosixSignalRegistration.Create(PosixSignal.SIGHUP, context =>
    {
        context.Cancel = true;
        _ = Task.Run(Reload);       // off the signal thread
    });

    /// <summary>Has something read again from now on.</summary>
    /// <param name="reload">Reads it; logs failures itself.</param>
    /// <param name="owned">What is disposed of with the signal; null for nothing.</param>
    public void Add(Action reload, IDisposable? owned = null)
    {
        lock (_lock)
        {
            _reloads.Add(reload);
            if (owned is not null)
            {
                _owned.Add(owned);
            }
        }
    }

    public void Dispose()
    {
        lock (_lock)
        {
            _registration.Dispose();
            _owned.ForEach(owned => owned.Dispose());
            _reloads.Clear();
        }
    }

    private void Reload()
    {
        lock (_lock)
        {
            _reloads.ForEach(reload => reload());
        }
    }
}
