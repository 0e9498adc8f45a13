using System.Buffers;
using System.Text;
using CheckpointEngine.Fuzz.Support;
using CheckpointEngine.Transfer.Rdma;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>What a peer says to connect queue pairs: bounded, and the same once it was written.</summary>
internal sealed class RdmaHandshakeTarget : FuzzTarget
{
    private const int MaxPathLength = 1024;

    internal override string Name => "rdma-handshake";

    internal override string Folder => "handshake";

    internal override string SeedPattern => "connection-*";

    internal override IReadOnlyList<byte[]> Tokens { get; } = Support.Tokens.Json(
        "\"local_gid\":", "\"local_lid\":", "\"local_nic_path\":", "\"payload\":\"\",", "\"peer_nic_path\":", "\"qp_num\":[", "\"qp_num\":[1,2],", "\"ready_ack\":true,", "\"ready_ack\":false,", "\"reply_msg\":",
        "\"checkpoint_engine_end\":true,", "\"checkpoint_engine_proof\":", $"\"{new string('0', 112)}\",", "\"qp\\u005fnum\":", "\"127.0.0.1:1@mlx5_0\",", "\"00:00:00:00:00:00:00:00:00:00:ff:ff:0a:00:00:01\",", ":ff", "4294967295", "4294967296", "1,1,1,1,1,1,1,1,");

    internal override string Run(byte[] input)
    {
        RdmaHandshake handshake = RdmaHandshake.Read(input);
        Check(handshake.QueuePairs.Length <= RdmaHandshake.MaxQueuePairs, $"{handshake.QueuePairs.Length} queue pairs");
        Check(handshake.LocalNicPath.Length <= MaxPathLength && handshake.PeerNicPath.Length <= MaxPathLength, "a longer path than there may be");
        byte[] written = Write(handshake);
        RdmaHandshake again = RdmaHandshake.Read(written);
        Check(again.QueuePairs.AsSpan().SequenceEqual(handshake.QueuePairs) && (again with { QueuePairs = handshake.QueuePairs }) == handshake, "a handshake is another once written");
        CheckSame(written, Write(again), "written once and twice");
        Check(handshake.Proof is null || RdmaProof.TryParse(handshake.Proof.ToWireText(), out RdmaProof? proof) && proof == handshake.Proof && proof.Sum.Length == 32, "a proof is another once written");
        Span<byte> gid = stackalloc byte[16];
        bool hasGid = RdmaHandshake.TryParseGid(handshake.LocalGid, gid);
        if (hasGid)
        {
            Check(string.Equals(WireText(gid), handshake.LocalGid, StringComparison.OrdinalIgnoreCase), "a GID's text is another once written");
        }
        return $"{Math.Min(handshake.QueuePairs.Length, 3)} numbers, {handshake.LocalNicPath.Length != 0} {handshake.PeerNicPath.Length != 0}, gid {hasGid} {handshake.LocalGid.Length != 0}, "
            + $"lid {handshake.LocalLid != 0}, ack {handshake.ReadyAck}, {handshake.ReplyMessage.Length != 0}, end {handshake.IsEnd}, proof {handshake.Proof is not null}";
    }

    private static string WireText(ReadOnlySpan<byte> gid)
    {
        var text = new StringBuilder();
        foreach (byte part in gid)
        {
            text.Append(text.Length == 0 ? "" : ":").Append(part.ToString("x2"));
        }
        return text.ToString();
    }

    private static byte[] Write(RdmaHandshake handshake)
    {
        var output = new ArrayBufferWriter<byte>();
        handshake.Write(output);
        return output.WrittenSpan.ToArray();
    }
}
