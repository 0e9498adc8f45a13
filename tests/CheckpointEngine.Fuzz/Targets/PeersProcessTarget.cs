using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Access;
using CheckpointEngine.Fuzz.Support;
using CheckpointEngine.Peers;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>Conversations with the peer service; the first byte of an input as in <see cref="PeerSessionTarget"/>, but for the token.</summary>
internal sealed class PeersProcessTarget : HolderProcessTarget
{
    private const int HonestStart = 2;

    internal override string Name => "process-peers";

    internal override string Folder => "peer-session";

    internal override IReadOnlyList<byte[]> Tokens { get; } = [.. Support.Tokens.Json(PeerBytes.Words), PeerBytes.Frame(PeerMessage.Metas, "fuzz"u8)];

    internal override byte[] Mutate(Mutator mutator, byte[] input) => PeerBytes.Mutate(mutator, input);

    private protected override IPEndPoint PortOf(HolderProcess holder) => holder.Peers;

    private protected override string Converse(Socket client, HolderProcess holder, byte[] input)
    {
        if (input.Length != 0 && (input[0] & HonestStart) != 0)
        {
            PeerBytes.Send(client, PeerBytes.Hello(new byte[TokenChallenge.NonceBytes], tokenRequired: false, "none"));
            client.ReceiveTimeout = 0;
            Check(PeerBytes.Receive(client) is not null, "an honest hello is not answered");
        }
        return Classify(Exchange(client, input.AsSpan(Math.Min(1, input.Length))));
    }
}
