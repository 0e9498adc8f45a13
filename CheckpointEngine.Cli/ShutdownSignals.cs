using System.Runtime.InteropServices;

namespace CheckpointEngine.Cli;

/// <summary>Turns the first SIGINT or SIGTERM into a cancellation; the second ends the process at once.</summary>
internal sealed class ShutdownSignals : IDisposable
{
    private const int SigInt = 2;
    private const int SigTerm = 15;

    private readonly CancellationTokenSource _stop = new();
    private readonly PosixSignalRegistration _interrupt;
    private readonly PosixSignalRegistration _terminate;
    private int _received;   // the first signal's number

    public ShutdownSignals()
    {
        _interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, context => OnSignal(context, SigInt));
        _terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, context => OnSignal(context, SigTerm));
    }

    /// <summary>Cancelled by the first signal.</summary>
    public CancellationToken Token => _stop.Token;

    /// <summary>Whether a signal came.</summary>
    public bool Received => Volatile.Read(ref _received) != 0;

    /// <summary>The exit status of a command that the signal interrupted: 130 or 143.</summary>
    public int InterruptedExitCode => ExitCode.SignalBase + Volatile.Read(ref _received);

    public void Dispose()
    {
        _interrupt.Dispose();
        _terminate.Dispose();
        _stop.Dispose();
    }

    private void OnSignal(PosixSignalContext context, int number)
    {
        context.Cancel = true;
        if (Interlocked.CompareExchange(ref _received, number, 0) != 0)
        {
            Environment.Exit(ExitCode.SignalBase + number);
        }
        // Off the signal thread: what a cancellation runs inline may take long, and the second signal must still be heard.
        _ = Task.Run(Cancel);
    }

    private void Cancel()
    {
        try
        {
            _stop.Cancel();
        }
        catch (ObjectDisposedException)
        {
            // The command ended by itself in this moment.
        }
    }
}
