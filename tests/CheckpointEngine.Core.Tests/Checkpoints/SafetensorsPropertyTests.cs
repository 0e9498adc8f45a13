using CheckpointEngine.Checkpoints;
using CsCheck;

namespace CheckpointEngine.Tests;

public class SafetensorsPropertyTests
{
    private static readonly TensorDtype[] s_dtypes = [.. Enum.GetValues<TensorDtype>().Where(dtype => dtype.SafetensorsName().Length != 0)];

    private static readonly Gen<Sample.Tensor> s_tensor = Gen.Select(
        Gen.String.Where(name => name != "__metadata__" && !name.Any(char.IsSurrogate)),
        Gen.OneOf(s_dtypes),
        Gen.Long[0, 5].Array[0, 4],
        (name, dtype, shape) => new Sample.Tensor(name, dtype, dtype.ByteLength(shape) < 0 ? [.. shape, 8] : shape));

    private static readonly Gen<Sample.Tensor[]> s_tensors = s_tensor.Array[0, 12].Select(tensors => tensors.DistinctBy(tensor => tensor.Name).ToArray());

    [Fact]
    public void Write_ThenParse_GivesTheSameTensors()
        => s_tensors.Sample(tensors =>
        {
            byte[] file = Sample.File(tensors);
            SafetensorsHeader header = SafetensorsHeader.ParseFile(file, "f");
            Assert.Equal("pt", header.Metadata["format"]);
            Assert.Equal(tensors.Length, header.Tensors.Count);
            Assert.Equal(0, (file.Length - header.DataBytes) % 8);
            foreach (Sample.Tensor tensor in tensors)
            {
                int index = header.Tensors.IndexOf(tensor.Name);
                Assert.Equal(tensor.Dtype, header.Tensors.GetDtype(index));
                Assert.Equal(tensor.Shape, header.Tensors.GetShape(index).ToArray());
                int start = (int)(file.Length - header.DataBytes + header.Tensors.GetOffset(index));
                Assert.Equal(tensor.Bytes(), file.AsSpan(start, (int)header.Tensors.GetByteLength(index)).ToArray());
            }
        }, iter: 500);

    [Fact]
    public void ParseFile_MutatedBytes_GivesValueOrInvalidData()
        => Gen.Select(s_tensors, Gen.Select(Gen.Int[0, 4096], Gen.Byte, (at, value) => (at, value)).Array[1, 6]).Sample((tensors, changes) =>
        {
            byte[] file = Sample.File(tensors);
            foreach ((int at, byte value) in changes)
            {
                file[at % file.Length] = value;
            }
            OnlyInvalidData(() => SafetensorsHeader.ParseFile(file, "f"));
        }, iter: 5000);

    [Fact]
    public void ParseFile_MutatedText_GivesValueOrInvalidData()
    {
        string[] words = ["{", "}", "[", "]", ",", ":", "\"", "0", "-1", "9223372036854775807", "1e9", "null", "true", "\"dtype\"", "\"shape\"",
            "\"data_offsets\"", "\"__metadata__\"", "\"U8\"", "\"F4\"", "\\ud800", " ", "\"a\"", "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}"];
        Gen.OneOf(words).Array[0, 30].Sample(parts => OnlyInvalidData(() => Sample.Parse("{" + string.Concat(parts), 0)), iter: 20_000);
    }

    [Fact]
    public void ParseIndex_MutatedText_GivesValueOrInvalidData()
    {
        string[] words = ["{", "}", "[", ",", ":", "\"weight_map\"", "\"metadata\"", "\"a\"", "\"../b\"", "\"c.safetensors\"", "1", "\\udc00", "\"x\":\"y\"", "{\"weight_map\":{"];
        Gen.OneOf(words).Array[0, 20].Sample(parts => OnlyInvalidData(
            () => SafetensorsIndex.Parse(System.Text.Encoding.UTF8.GetBytes("{\"weight_map\":{" + string.Concat(parts)), "i")), iter: 20_000);
    }

    private static void OnlyInvalidData(Action parse)
    {
        try
        {
            parse();
        }
        catch (CheckpointEngineException e) when (e.Error == CheckpointError.InvalidData)
        {
        }
    }
}
