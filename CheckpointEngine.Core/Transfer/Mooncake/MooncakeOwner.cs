using System.Net;
using CheckpointEngine.Internal;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Transfer.Mooncake;

/// <summary>An owner that is read through Mooncake's library: its segment, open.</summary>
/// <param name="Engine">Ours.</param>
/// <param name="Name">What was opened.</param>
/// <param name="Segment">The library's number for it.</param>
/// <param name="StallTimeout">The longest time without a byte.</param>
internal sealed record MooncakeOwner(MooncakeEngine Engine, EndpointName Name, int Segment, TimeSpan StallTimeout)
{
    /// <summary>
    /// Asks for the owner's descriptor and looks at it before the library does, which would end the process over one that is ill-formed, and would go
    /// wherever it points.
    /// </summary>
    /// <param name="engine">Ours.</param>
    /// <param name="name">The owner's name.</param>
    /// <param name="runs">What is to be read: address and length.</param>
    /// <param name="options">Limits of the question.</param>
    /// <param name="stallTimeout">For a lane.</param>
    /// <param name="cancellationToken">Ends the question; the library's own cannot be ended.</param>
    /// <exception cref="CheckpointEngineException">The descriptor is ill-formed, leads elsewhere, is of another transport, or does not hold what is to be read.</exception>
    internal static async Task<MooncakeOwner> OpenAsync(MooncakeEngine engine, EndpointName name, IEnumerable<(ulong Address, ulong LengthBytes)> runs,
        HandshakeClientOptions options, TimeSpan stallTimeout, CancellationToken cancellationToken)
    {
        // By the transport that the library will name in its own question, so that the answer is the same.
        byte[] asks = [.. "{\"protocol\":\""u8, .. System.Text.Encoding.UTF8.GetBytes(engine.Protocol), .. "\"}\n"u8];
        SegmentDescriptor descriptor = await HandshakeClient.FetchDescriptorAsync(name, asks, options, cancellationToken).ConfigureAwait(false);
        descriptor.Validate(anyProtocol: true);
        if (descriptor.Protocol != engine.Protocol)
        {
            ThrowHelper.Throw(CheckpointError.NotSupported, $"it offers {HandshakeJson.Printable(descriptor.Protocol)}, and the library here has installed {engine.Protocol}: "
                + "both sides need the same (MC_FORCE_TCP=1 makes it tcp)");
        }
        await ThrowIfElsewhereAsync(name, descriptor.Name, cancellationToken).ConfigureAwait(false);
        ThrowIfNotHeld(descriptor, runs);
        return new MooncakeOwner(engine, name, engine.OpenSegment(name), stallTimeout);
    }

    // The library connects to the host of the name in the descriptor, whatever host was opened.
    private static async Task ThrowIfElsewhereAsync(EndpointName opened, string claimed, CancellationToken cancellationToken)
    {
        EndpointName name = EndpointName.Parse(claimed);
        if (name.Host.Equals(opened.Host, StringComparison.OrdinalIgnoreCase))
        {
            return;
        }
        if (IPAddress.TryParse(name.Host, out IPAddress? address))
        {
            IPAddress[] own = IPAddress.TryParse(opened.Host, out IPAddress? literal) ? [literal] : await Dns.GetHostAddressesAsync(opened.Host, cancellationToken).ConfigureAwait(false);
            if (own.Contains(address))
            {
                return;
            }
        }
        ThrowHelper.Throw(CheckpointError.Refused, $"it calls itself {HandshakeJson.Printable(claimed)}, and the library would go there and not to {opened.Host}: "
            + "the metas must name the host that the owner's engine was started with");
    }

    private static void ThrowIfNotHeld(SegmentDescriptor descriptor, IEnumerable<(ulong Address, ulong LengthBytes)> runs)
    {
        SegmentBuffer[] buffers = [.. descriptor.Buffers];
        Array.Sort(buffers, static (a, b) => a.Address.CompareTo(b.Address));
        foreach ((ulong address, ulong lengthBytes) in runs)
        {
            ulong at = address;
            ulong left = lengthBytes;
            foreach (SegmentBuffer buffer in buffers)
            {
                if (left != 0 && at >= buffer.Address && at - buffer.Address < buffer.LengthBytes)
                {
                    ulong here = Math.Min(left, buffer.LengthBytes - (at - buffer.Address));
                    at += here;
                    left -= here;
                    if (descriptor.Protocol == SegmentDescriptor.TcpProtocol)
                    {
                        break;      // a target over TCP takes no request that lies in two buffers
                    }
                }
            }
            if (left != 0)
            {
                ThrowHelper.Throw(CheckpointError.Refused, descriptor.Buffers.Length == 0 && descriptor.Engine is { TokenRequired: true }
                    ? "it demands a token, and Mooncake knows none: read it with --transport tcp, or let this host read plainly there (--plain-peers)"
                    : $"{lengthBytes:N0} bytes at 0x{address:x} are in none of the {descriptor.Buffers.Length:N0} buffers that it publishes; fetch the metas anew");
            }
        }
    }
}
