using CheckpointEngine.Join;
using CheckpointEngine.Relay;

namespace CheckpointEngine;

// What joins have brought is offered to others that read the same, after they have ended too.
public sealed partial class ParameterServer
{
    private static readonly TimeSpan s_relayLook = TimeSpan.FromMilliseconds(100);

    /// <summary>
    /// Waits while other joiners are in the middle of what joins of this server with <see cref="JoinOptions.Relay"/> have brought, so that they need not read it from its
    /// owner again; then offers it no more. Without this it is offered until it is taken away, or the server is disposed of, which waits for nobody.
    /// </summary>
    /// <param name="patience">How long at most.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <returns>Whether everybody was done.</returns>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    /// <exception cref="ObjectDisposedException">The server was disposed of, before or meanwhile.</exception>
    public async Task<bool> FinishRelaysAsync(TimeSpan patience, CancellationToken cancellationToken = default)
    {
        using var time = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        time.CancelAfter(patience);
        JoinRelay[] relays;
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            relays = [.. _relays];
        }
        try
        {
            cancellationToken.ThrowIfCancellationRequested();
            while (Array.Exists(relays, static relay => relay.IsNeeded))
            {
                await Task.Delay(s_relayLook, time.Token).ConfigureAwait(false);
            }
            ObjectDisposedException.ThrowIf(Volatile.Read(ref _disposed), this);     // they were ended, and nobody was asked
            return true;
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            return false;
        }
        finally
        {
            await Task.WhenAll(relays.Select(static relay => relay.DisposeAsync().AsTask())).ConfigureAwait(false);
        }
    }

    private RelayTerms MakeRelayTerms() => new()
    {
        Logging = Options.LoggerFactory,
        Client = Options.ClientTls,
        Security = OpenSecurity(),
        Encrypts = Options.EncryptData,
        Limits = Options.Limits,
        Audit = _audit,
    };

    private async Task KeepAsync(JoinRelay relay)
    {
        lock (_lock)
        {
            if (!_disposed)
            {
                _relays.RemoveWhere(static ended => ended.IsDisposed);
                _relays.Add(relay);
                return;
            }
        }
        await relay.DisposeAsync().ConfigureAwait(false);
    }
}
