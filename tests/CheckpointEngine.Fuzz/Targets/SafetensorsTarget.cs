using System.Buffers;
using System.Buffers.Binary;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Fuzz.Support;

namespace CheckpointEngine.Fuzz.Targets;

/// <summary>A whole safetensors file: header length, header, data section. What is read can be written and read again.</summary>
internal sealed class SafetensorsTarget : FuzzTarget
{
    private const int PrefixBytes = 8;

    internal override string Name => "safetensors";

    internal override IReadOnlyList<byte[]> Tokens { get; } = Support.Tokens.Json(
        "\"dtype\":\"U8\"", "\"shape\":[0]", "\"data_offsets\":[0,0]", "\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]},", "\"__metadata__\":{}", "\\u005f_metadata__",
        "\"BF16\"", "\"F32\"", "\"F6_E2M3\"", "\"C64\"", "\"BOOL\"");

    internal override byte[] Mutate(Mutator mutator, byte[] input)
    {
        if (input.Length < PrefixBytes || mutator.Chance(4))
        {
            return mutator.Mutate(input);
        }
        int jsonBytes = (int)Math.Min(BinaryPrimitives.ReadUInt64LittleEndian(input), (ulong)(input.Length - PrefixBytes));
        byte[] json = mutator.Mutate(input.AsSpan(PrefixBytes, jsonBytes));
        int dataBytes = mutator.Chance(8) ? mutator.Next(4096) : input.Length - PrefixBytes - jsonBytes;
        byte[] file = new byte[PrefixBytes + json.Length + dataBytes];
        BinaryPrimitives.WriteInt64LittleEndian(file, json.Length);
        json.CopyTo(file, PrefixBytes);
        return file;
    }

    internal override string Run(byte[] input)
    {
        SafetensorsHeader header = SafetensorsHeader.ParseFile(input, "fuzz");
        TensorTable tensors = header.Tensors;
        long covered = 0;
        for (int tensor = 0; tensor < tensors.Count; tensor++)
        {
            Check(tensors.GetOffset(tensor) == covered, $"tensor {tensor} does not begin where the one before it ends");
            Check(tensors.GetByteLength(tensor) == tensors.GetSlotBytes(tensor), $"tensor {tensor} has another length than its slot");
            Check(tensors.IndexOf(tensors.GetNameUtf8(tensor)) == tensor, $"tensor {tensor} is not found by its name");
            covered += tensors.GetByteLength(tensor);
        }
        Check(covered == header.DataBytes && covered <= input.Length, "the tensors do not cover the data section");

        var written = new ArrayBufferWriter<byte>();
        SafetensorsWriter.WriteHeader(written, tensors, [.. Enumerable.Range(0, tensors.Count)]);
        SafetensorsHeader again = SafetensorsHeader.Parse(written.WrittenSpan[PrefixBytes..], header.DataBytes, "fuzz, written");
        Check(again.Tensors.Count == tensors.Count, "another number of tensors once written");
        for (int tensor = 0; tensor < tensors.Count; tensor++)
        {
            Check(again.Tensors.GetNameUtf8(tensor).SequenceEqual(tensors.GetNameUtf8(tensor)) && again.Tensors.GetDtype(tensor) == tensors.GetDtype(tensor)
                && again.Tensors.GetShape(tensor).SequenceEqual(tensors.GetShape(tensor)) && again.Tensors.GetOffset(tensor) == tensors.GetOffset(tensor),
                $"tensor {tensor} is another once written");
        }
        return $"{Math.Min(tensors.Count, 8)} tensors, {header.Metadata.Count > 0} metadata";
    }
}
