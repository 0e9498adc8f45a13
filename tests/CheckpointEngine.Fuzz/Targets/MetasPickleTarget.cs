using CheckpointEngine.Fuzz.Support;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>Metas as a pickle: what is read can be written in every protocol and as JSON, and read again.</summary>
internal sealed class MetasPickleTarget : FuzzTarget
{
    internal override string Name => "metas-pickle";

    // Opcodes of protocols 0 to 5, what they are followed by in pickles of metas, and globals that must not be found.
    internal override IReadOnlyList<byte[]> Tokens { get; } =
    [
        .. "(.0128abcdeghijlopqrstuPFGIJKLMNQRSTUVXBC)}]"u8.ToArray().Select(opcode => new[] { opcode }), .. Enumerable.Range(0x80, 0x19).Select(opcode => new[] { (byte)opcode }),
        .. Support.Tokens.Text("q\0", "r\0\0\0\0", "h\0", "j\0\0\0\0", "\u0000N", "K\u0001", "M\0\u0001", "J\0\0\0\u0080", "ctorch\nuint8\n", "ctorch\nSize\n", "cbuiltins\nset\n",
            "ccheckpoint_engine.data_types\nParameterMeta\n", "ccheckpoint_engine.data_types\nMemoryBufferMetaList\n", "cos\nsystem\n", "cbuiltins\neval\n", "__dict__", "__pydantic_fields_set__",
            "p2p_store_addr", "memory_buffer_metas_list", "metas", "ptr", "size", "name", "dtype", "shape", "aligned_size", "rdma_device"),
        [0x8A, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], [0x8A, 9, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0], [0x95, 0, 0, 0, 0, 0, 0, 0, 0], [0x94, 0x8C], [0x80, 2], [0x80, 5],
    ];

    internal override string Run(byte[] input)
    {
        CheckpointMetas metas = MetasPickleReader.Read(input);
        byte[] json = MetasChecks.Json(metas);
        CheckSame(json, MetasChecks.Json(MetasJsonReader.Read(json)), "as JSON once and twice");
        for (int protocol = 2; protocol <= 5; protocol++)
        {
            byte[] pickle = MetasChecks.Pickle(metas, protocol);
            CheckSame(json, MetasChecks.Json(MetasPickleReader.Read(pickle)), $"as read and by way of protocol {protocol}");
        }
        return MetasChecks.Describe(metas);
    }
}
