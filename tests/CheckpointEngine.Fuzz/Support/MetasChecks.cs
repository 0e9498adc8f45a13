using System.Buffers;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Fuzz.Support;

/// <summary>What both formats of metas promise of a value that was read.</summary>
internal static class MetasChecks
{
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

    /// <summary>A few words on the value.</summary>
    internal static string Describe(CheckpointMetas metas)
    {
        bool hasDigest = false;
        for (int tensor = 0; tensor < metas.Tensors.Count && !hasDigest; tensor++)
        {
            hasDigest = metas.GetDigestAlgorithm(tensor) != Checkpoints.DigestAlgorithm.None;
        }
        return $"{Math.Min(metas.Owners.Length, 4)} owners, {Math.Min(metas.Tensors.Count, 8)} tensors, {metas.Tensors.Count > 0 && hasDigest} digests";
    }
}
