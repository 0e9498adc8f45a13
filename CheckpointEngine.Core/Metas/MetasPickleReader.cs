using CheckpointEngine.Metas.Pickle;

namespace CheckpointEngine.Metas;

/// <summary>
/// Reads metas from a pickle of upstream's model objects, protocols 2 to 5, as <c>--save-metas-file</c> and the seed's endpoint write it.
/// </summary>
/// <remarks>
/// A pickle is a program; this is a closed interpreter of just what CPython writes for metas. Nothing is executed, and time and memory
/// are linear in the input, also where the pickle uses an object many times over. Any number of threads.
/// </remarks>
public static class MetasPickleReader
{
    /// <summary>Reads a whole pickle.</summary>
    /// <param name="pickle">From its PROTO opcode to its STOP.</param>
    /// <exception cref="CheckpointEngineException">
    /// <see cref="CheckpointError.InvalidData"/>: no pickle, cut short, or with an opcode or global that metas do not have;
    /// <see cref="CheckpointError.WrongShape"/>: a pickle of other objects, or of metas that break a rule. The message gives the byte
    /// offset.
    /// </exception>
    public static CheckpointMetas Read(ReadOnlySpan<byte> pickle)
    {
        var interpreter = new PickleInterpreter(pickle);
        try
        {
            PickleValue root = interpreter.Run();
            using var builder = new CheckpointMetasBuilder();
            new PickleMetasWalk(in interpreter.Heap, pickle, builder).AddOwners(root);
            return builder.Build();
        }
        finally
        {
            interpreter.Dispose();
        }
    }
}
