using System.Buffers;
using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CsCheck;

namespace CheckpointEngine.Tests;

/// <summary>Metas for tests: golden files, random ones, one of the size of Kimi-K2; and how two are compared.</summary>
internal static class MetasSamples
{
    internal static readonly string[] GoldenNames = ["empty", "two-ranks", "no-p2p-store"];

    internal static readonly int[] Protocols = [2, 3, 4, 5];

    internal static byte[] Golden(string file) => File.ReadAllBytes(Path.Combine(AppContext.BaseDirectory, "Data", "metas", file));

    internal static byte[] Json(CheckpointMetas metas)
    {
        var output = new ArrayBufferWriter<byte>();
        MetasJsonWriter.Write(metas, output);
        return output.WrittenSpan.ToArray();
    }

    internal static byte[] Pickle(CheckpointMetas metas, int protocol)
    {
        var output = new ArrayBufferWriter<byte>();
        MetasPickleWriter.Write(metas, output, protocol);
        return output.WrittenSpan.ToArray();
    }

    internal static void AssertEqual(CheckpointMetas expected, CheckpointMetas actual) => Assert.Equal(Describe(expected), Describe(actual));

    /// <summary>All that metas say, as text; <paramref name="asPickled"/>: without what a pickle cannot say.</summary>
    internal static string Describe(CheckpointMetas metas, bool asPickled = false)
    {
        var text = new StringBuilder();
        foreach (MetasOwner owner in metas.Owners)
        {
            text.AppendLine($"rank {owner.Rank} {owner.P2pStoreAddress ?? "null"} {owner.RdmaDevice ?? "null"}");
            foreach (MetasBuffer buffer in owner.Buffers)
            {
                text.AppendLine($" buffer {buffer.Address:x} {buffer.SizeBytes}");
                for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
                {
                    TensorTable tensors = metas.Tensors;
                    bool isBytes = asPickled && tensors.GetDtype(tensor) is TensorDtype.F4 or TensorDtype.F6E2M3 or TensorDtype.F6E3M2;
                    string dtype = isBytes ? "torch.uint8" : tensors.GetDtypeName(tensor);
                    string shape = string.Join(',', isBytes ? [tensors.GetByteLength(tensor)] : tensors.GetShape(tensor).ToArray());
                    string digest = asPickled ? "" : metas.GetDigestAlgorithm(tensor) + Convert.ToHexString(metas.GetDigest(tensor));
                    text.AppendLine($"  {tensors.GetName(tensor)} {dtype} [{shape}] {tensors.GetSlotBytes(tensor)} at {tensors.GetOffset(tensor)} {digest}");
                }
            }
        }
        return text.ToString();
    }

    private static readonly Gen<string> s_name = Gen.OneOf(
        Gen.String[Gen.Char['a', 'z'], 0, 40],
        Gen.Int[0, 8].Select(i => new[] { "モデル.重み", "", "\"\\\u0001\n\t/<>&'", "😀.weight", "\u007f\u0080\u2028", "torch", new string('x', 255), new string('y', 256), new string('z', 70 << 8) }[i]),
        Gen.String.Select(text => new string([.. text.Where(c => !char.IsSurrogate(c))])));

    private static readonly Gen<(TensorDtype Dtype, long[] Shape)> s_type = Gen.OneOf(
        Gen.Select(Gen.Int[(int)TensorDtype.Bool, (int)TensorDtype.F8E8M0], Gen.Long[0, 70_000].Array[0, 3], (dtype, shape) => ((TensorDtype)dtype, shape)),
        Gen.Select(Gen.Int[(int)TensorDtype.F4, (int)TensorDtype.F6E3M2], Gen.Long[0, 100].Array[0, 3], (dtype, shape) => ((TensorDtype)dtype, (long[])[.. shape, 4])),
        Gen.Long[0, 1].Array[4, 64].Select(shape => (TensorDtype.BF16, shape)),
        Gen.Long[0, 5].Array[0, 3].Select(shape => (TensorDtype.Unknown, shape)));

    private static readonly Gen<(string Name, (TensorDtype Dtype, long[] Shape) Type, long Slack, DigestAlgorithm Digest, byte Seed)> s_tensor = Gen.Select(
        s_name, s_type, Gen.Long[0, 300], Gen.Enum<DigestAlgorithm>(), Gen.Byte);

    private static readonly Gen<(int Rank, int Address, int Device, (string, (TensorDtype, long[]), long, DigestAlgorithm, byte)[][] Buffers)> s_owner = Gen.Select(
        Gen.OneOf(Gen.Int[0, 300], Gen.Int[0, int.MaxValue]), Gen.Int[0, 3], Gen.Int[0, 3], s_tensor.Array[0, 6].Array[0, 4]);

    /// <summary>
    /// Random metas: text outside ASCII, empty shapes, addresses beyond 2^63, types that torch lacks or that nobody knows, digests.
    /// </summary>
    internal static readonly Gen<CheckpointMetas> Random = Gen.Select(s_owner.Array[0, 5], Gen.Bool, (owners, hasDigests) =>
    {
        using var builder = new CheckpointMetasBuilder();
        foreach ((int rank, int address, int device, var buffers) in owners.DistinctBy(owner => owner.Rank))
        {
            ulong at = rank % 2 == 0 ? 0xffff_0000_0000_0000 : 4096;
            foreach (var tensors in buffers)
            {
                long size = 0;
                foreach ((string name, (TensorDtype dtype, long[] shape), long slack, DigestAlgorithm digest, byte seed) in tensors)
                {
                    long slot = (dtype == TensorDtype.Unknown ? 0 : dtype.ByteLength(shape)) + slack;
                    if (slot > 1L << 40)
                    {
                        continue;
                    }
                    size += slot;
                    if (dtype == TensorDtype.Unknown)
                    {
                        builder.AddTensor(Encoding.UTF8.GetBytes(name), seed % 2 == 0 ? "torch.float4_e2m1fn_x2"u8 : "torch.int3"u8, shape, slot);
                    }
                    else
                    {
                        builder.AddTensor(Encoding.UTF8.GetBytes(name), dtype, shape, slot);
                    }
                    if (hasDigests)
                    {
                        builder.SetDigest(digest, Enumerable.Range(seed, digest.DigestBytes()).Select(value => (byte)value).ToArray());
                    }
                }
                builder.EndBuffer(at, size);
                at += (ulong)size;
            }
            string?[] texts = [null, "", "[fe80::1]:15301", "mlx5_0,mlx5_é"];
            builder.EndOwner(rank, texts[address], texts[device]);
        }
        return builder.Build();
    });

    /// <summary>As many tensors as Kimi-K2 has in FP8, named as they are, over <paramref name="ownerCount"/> owners.</summary>
    internal static CheckpointMetas KimiK2(int tensorCount = 139_600, int ownerCount = 256)
    {
        using var builder = new CheckpointMetasBuilder();
        int tensor = 0;
        for (int rank = 0; rank < ownerCount; rank++)
        {
            long size = 0;
            for (; tensor < (long)tensorCount * (rank + 1) / ownerCount; tensor++)
            {
                bool isScale = tensor % 2 != 0;
                string projection = (tensor / 2 % 3) switch { 0 => "gate", 1 => "up", _ => "down" };
                string name = $"model.layers.{tensor / 2304}.mlp.experts.{tensor / 6 % 384}.{projection}_proj.weight{(isScale ? "_scale_inv" : "")}";
                long slot = isScale ? 3584 : 14_680_064;
                builder.AddTensor(Encoding.UTF8.GetBytes(name), isScale ? TensorDtype.F32 : TensorDtype.F8E4M3, isScale ? [16, 56] : [2048, 7168], slot);
                size += slot;
            }
            builder.EndBuffer(0x7f00_0000_0000 + ((ulong)rank << 36), size);
            builder.EndOwner(rank, $"10.0.{rank / 8}.{rank % 8}:15301", "mlx5_" + rank % 8);
        }
        return builder.Build();
    }
}
