using System.Buffers.Binary;
using System.Net;
using CheckpointEngine.Relay;

namespace CheckpointEngine.Peers;

// A joiner's questions to the owner of its swarm, and to the others in it.
internal sealed partial class PeerClient
{
    /// <summary>This end of the conversation.</summary>
    internal IPAddress LocalAddress => (_socket.LocalEndPoint as IPEndPoint)?.Address ?? IPAddress.Loopback;

    /// <summary>Tells the owner what is here, and asks what to read next.</summary>
    internal async Task<SwarmAnswer> AskSwarmAsync(SwarmRequest request, CancellationToken cancellationToken)
    {
        byte[] payload = await AskAsync(PeerMessage.Swarm, request.ToBytes(), SwarmAnswer.MaxSize, "ask what to read", cancellationToken).ConfigureAwait(false);
        return SwarmAnswer.TryDecode(payload, request.Units, out SwarmAnswer answer) ? answer : Violated<SwarmAnswer>("its answer about the swarm is malformed");
    }

    /// <summary>Asks a joiner where the units lie that it offers.</summary>
    /// <returns>The address of each; 0 for one that it never offers.</returns>
    internal async Task<ulong[]> GetOfferAsync(UInt128 layout, int units, CancellationToken cancellationToken)
    {
        byte[] request = new byte[PeerSession.LayoutBytes];
        BinaryPrimitives.WriteUInt128LittleEndian(request, layout);
        byte[] payload = await AskAsync(PeerMessage.Offer, request, 8 * units, "ask what it offers", cancellationToken).ConfigureAwait(false);
        if (payload.Length != 8 * units)
        {
            Violated("it offers another number of units");
        }
        ulong[] addresses = new ulong[units];
        for (int unit = 0; unit < units; unit++)
        {
            addresses[unit] = BinaryPrimitives.ReadUInt64LittleEndian(payload.AsSpan(8 * unit));
        }
        return addresses;
    }

    /// <summary>Asks a joiner what has come since it had <paramref name="known"/> units, and waits for more if nothing has.</summary>
    /// <returns>The units; none when nothing came while it waited.</returns>
    internal async Task<int[]> GetHaveAsync(UInt128 layout, int known, TimeSpan wait, CancellationToken cancellationToken)
    {
        byte[] request = new byte[PeerSession.HaveRequestBytes];
        BinaryPrimitives.WriteUInt128LittleEndian(request, layout);
        BinaryPrimitives.WriteInt32LittleEndian(request.AsSpan(PeerSession.LayoutBytes), known);
        BinaryPrimitives.WriteUInt32LittleEndian(request.AsSpan(PeerSession.LayoutBytes + 4), (uint)Math.Clamp(wait.TotalMilliseconds, 0, PeerSession.MaxHaveMs));
        byte[] payload = await AskAsync(PeerMessage.Have, request, 4 * PeerSession.MaxUnitsPerAnswer, "ask what it has", cancellationToken, 1 + (int)Math.Ceiling(wait / _timeout)).ConfigureAwait(false);
        if (payload.Length % 4 != 0)
        {
            Violated("what it has is malformed");
        }
        int[] units = new int[payload.Length / 4];
        for (int i = 0; i < units.Length; i++)
        {
            units[i] = BinaryPrimitives.ReadInt32LittleEndian(payload.AsSpan(4 * i));
        }
        return units;
    }
}
