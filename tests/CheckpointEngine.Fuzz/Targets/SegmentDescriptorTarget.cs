using System.Buffers;
using CheckpointEngine.Fuzz.Support;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>A peer's description of itself. What is read and written once is read and written the same from then on.</summary>
internal sealed class SegmentDescriptorTarget : FuzzTarget
{
    internal override string Name => "segment-descriptor";

    internal override string Folder => "handshake";

    internal override string SeedPattern => "descriptor-*";

    internal override IReadOnlyList<byte[]> Tokens { get; } = Support.Tokens.Json(
        "\"buffers\":[", "\"addr\":1,", "\"length\":1,", "\"lkey\":[1],", "\"rkey\":[1],", "\"devices\":[", "\"gid\":\"00:11\",", "\"lid\":0,", "\"name\":\"a\",", "\"priority_matrix\":{\"*\":[[\"a\"],[]]},",
        "\"protocol\":\"rdma\",", "\"protocol\":\"tcp\",", "\"tcp_data_port\":1,", "\"tcp_proto_version\":2,", "\"timestamp\":\"x\",", "\"rdma_server_name\":\"a:1\",",
        "\"checkpoint_engine\":{\"protocol\":1},", "\"transports\":[\"tcp\"],", "\"token_required\":true,", "\"host_id\":\"h\",", "\"peer\":\"h:1\",", "\"version\":\"1\",");

    internal override string Run(byte[] input)
    {
        SegmentDescriptor descriptor = SegmentDescriptorReader.Read(input);
        byte[] written = Write(descriptor);
        CheckSame(written, Write(SegmentDescriptorReader.Read(written)), "written once and twice");
        string usable = "usable";
        try
        {
            descriptor.Validate();
            Check(descriptor.Protocol is SegmentDescriptor.TcpProtocol or SegmentDescriptor.RdmaProtocol, "an unknown protocol passes");
            Check(Array.TrueForAll(descriptor.Buffers, buffer => buffer.Address != 0 && buffer.LengthBytes != 0), "an empty buffer passes");
        }
        catch (CheckpointEngineException refused)
        {
            usable = refused.Error.ToString();
        }
        return $"{usable}, {Math.Min(descriptor.Buffers.Length, 3)} buffers, {Math.Min(descriptor.Devices.Length, 3)} devices, {Math.Min(descriptor.PriorityMatrix.Length, 3)} places, {descriptor.Engine is not null}";
    }

    private static byte[] Write(SegmentDescriptor descriptor)
    {
        var output = new ArrayBufferWriter<byte>();
        SegmentDescriptorWriter.Write(output, descriptor);
        return output.WrittenSpan.ToArray();
    }
}
