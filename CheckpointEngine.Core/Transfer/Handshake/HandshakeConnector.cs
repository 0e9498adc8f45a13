using System.Net;
using System.Net.Sockets;
using System.Text;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Transfer.Handshake;

/// <summary>Turns an endpoint's name into a connected socket: each of its addresses in turn.</summary>
internal static class HandshakeConnector
{
    // Names have one or two addresses in practice; a resolver's answer should not be able to keep us busy for hours.
    private const int MaxAddresses = 16;

    /// <summary>Connects, with TCP_NODELAY.</summary>
    /// <param name="target">Where to.</param>
    /// <param name="operation">What for; begins the message of an error.</param>
    /// <param name="options">The timeout holds for each address, and for resolving.</param>
    /// <param name="cancellationToken">The caller's; ends the call with <see cref="OperationCanceledException"/>.</param>
    /// <exception cref="CheckpointEngineException">
    /// <see cref="CheckpointError.Timeout"/> when no address answered in time, else <see cref="CheckpointError.Unreachable"/> with the errno of
    /// the last address; the message tells what was tried.
    /// </exception>
    internal static async ValueTask<Socket> ConnectAsync(
        EndpointName target, string operation, HandshakeClientOptions options, CancellationToken cancellationToken)
    {
        IPAddress[] addresses = await ResolveAsync(target, operation, options, cancellationToken).ConfigureAwait(false);
        var tried = new StringBuilder();
        bool onlyTimeouts = true;
        int nativeCode = 0;
        foreach (IPAddress address in addresses.Take(MaxAddresses))
        {
            Socket? socket = null;
            using var deadline = new Deadline(options.ConnectTimeout, options.TimeProvider, cancellationToken);
            try
            {
                socket = new Socket(address.AddressFamily, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
                await socket.ConnectAsync(new IPEndPoint(address, target.Port), deadline.Token).ConfigureAwait(false);
                return socket;
            }
            catch (SocketException e)
            {
                socket?.Dispose();
                onlyTimeouts &= e.SocketErrorCode == SocketError.TimedOut;
                nativeCode = e.NativeErrorCode;
                AppendTry(tried, address, target.Port, e.Message);
            }
            catch (OperationCanceledException)
            {
                socket?.Dispose();
                cancellationToken.ThrowIfCancellationRequested();
                AppendTry(tried, address, target.Port, $"no answer in {options.ConnectTimeout.TotalSeconds} s");
            }
        }
        throw new CheckpointEngineException(onlyTimeouts ? CheckpointError.Timeout : CheckpointError.Unreachable,
            $"{operation} {target}: tried {tried}; check that the owner still runs and that its port can be reached from this host", nativeCode);
    }

    private static void AppendTry(StringBuilder tried, IPAddress address, int port, string outcome)
        => tried.Append(tried.Length == 0 ? "" : ", ").Append(new IPEndPoint(address, port)).Append(" (").Append(outcome).Append(')');

    private static async ValueTask<IPAddress[]> ResolveAsync(
        EndpointName target, string operation, HandshakeClientOptions options, CancellationToken cancellationToken)
    {
        if (IPAddress.TryParse(target.Host, out IPAddress? address))
        {
            return [address];
        }
        using var deadline = new Deadline(options.ConnectTimeout, options.TimeProvider, cancellationToken);
        try
        {
            IPAddress[] addresses = await Dns.GetHostAddressesAsync(target.Host, deadline.Token).ConfigureAwait(false);
            return addresses.Length != 0
                ? addresses
                : ThrowHelper.Throw<IPAddress[]>(CheckpointError.Unreachable, $"{operation} {target}: the name has no address");
        }
        catch (SocketException e)
        {
            return ThrowHelper.Throw<IPAddress[]>(CheckpointError.Unreachable,
                $"{operation} {target}: the name does not resolve ({e.Message}); check it, or give the owner's address", e);
        }
        catch (OperationCanceledException e)
        {
            cancellationToken.ThrowIfCancellationRequested();
            return ThrowHelper.Throw<IPAddress[]>(CheckpointError.Timeout,
                $"{operation} {target}: the name did not resolve in {options.ConnectTimeout.TotalSeconds} s; give the owner's address", e);
        }
    }
}
