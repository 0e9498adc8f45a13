using System.Buffers;
using CheckpointEngine.Metas.Pickle;

namespace CheckpointEngine.Metas;

/// <summary>
/// Writes metas as a pickle of upstream's model objects, which <c>pickle.loads</c> turns into them where checkpoint-engine and torch are
/// installed.
/// </summary>
/// <remarks>
/// The bytes are those that CPython's pickler writes for the objects. Digests have no place in them, and a type that torch lacks travels as
/// <c>torch.uint8</c>. Allocates nothing per tensor. Any number of threads.
/// </remarks>
public static class MetasPickleWriter
{
    /// <summary>Writes <paramref name="metas"/>.</summary>
    /// <param name="metas">What is written.</param>
    /// <param name="output">Receives the pickle.</param>
    /// <param name="protocol">2 to 5; 4 and 5 differ in one byte, 2 and 3 are half as long again.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: a tensor's name is not UTF-8.</exception>
    public static void Write(CheckpointMetas metas, IBufferWriter<byte> output, int protocol = 4)
    {
        ArgumentNullException.ThrowIfNull(metas);
        ArgumentNullException.ThrowIfNull(output);
        using var pickle = new PickleWriter(output, protocol);
        new PickleMetasEmitter(pickle, metas).Emit();
        pickle.Stop();
    }
}
