using System.Buffers;
using System.Text;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Tests;

public class SafetensorsWriterTests
{
    [Fact]
    public void WriteHeader_Bytes_AreWhatTheReferenceWrites()
    {
        TensorTable tensors = Sample.Table(new("b", TensorDtype.BF16, [2, 3]), new("slot", TensorDtype.U8, [1]), new("a", TensorDtype.F32, []));
        var header = new ArrayBufferWriter<byte>();
        SafetensorsWriter.WriteHeader(header, tensors, [2, 0]);
        string json = """{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]}}""";
        Assert.Equal(0, header.WrittenCount % 8);
        Assert.Equal(header.WrittenCount - 8, BitConverter.ToInt64(header.WrittenSpan));
        Assert.Equal(json.PadRight(header.WrittenCount - 8), Encoding.UTF8.GetString(header.WrittenSpan[8..]));
    }

    [Fact]
    public void Sort_MixedTypes_IsWideFirstThenByName()
    {
        TensorTable tensors = Sample.Table(new("z", TensorDtype.U8, [1]), new("y", TensorDtype.F32, [1]), new("x", TensorDtype.BF16, [1]), new("b", TensorDtype.F32, [1]));
        int[] order = [0, 1, 2, 3];
        SafetensorsWriter.Sort(tensors, order);
        Assert.Equal([3, 1, 2, 0], order);
    }

    [Fact]
    public void Plan_Offsets_AreWhereTheParserFindsTheTensors()
    {
        TensorTable tensors = Sample.Table(new("a", TensorDtype.U8, [5]), new("e", TensorDtype.U8, [0]), new("b", TensorDtype.F64, [2]));
        SafetensorsLayout layout = SafetensorsWriter.Plan(tensors, [2, 1, 0]);
        byte[] file = new byte[layout.FileBytes];
        layout.Header.Span.CopyTo(file);
        SafetensorsHeader header = SafetensorsHeader.ParseFile(file, "f");
        for (int i = 0; i < layout.Tensors.Length; i++)
        {
            int parsed = header.Tensors.IndexOf(tensors.GetNameUtf8(layout.Tensors[i]));
            Assert.Equal(layout.FileOffsets[i], layout.Header.Length + header.Tensors.GetOffset(parsed));
        }
    }

    [Fact]
    public void WriteHeader_WhatTheFormatCannotSay_IsRefused()
    {
        static CheckpointError Refused(TensorTable tensors, params int[] selection)
            => Assert.Throws<CheckpointEngineException>(() => SafetensorsWriter.WriteHeader(new ArrayBufferWriter<byte>(), tensors, selection)).Error;
        Assert.Equal(CheckpointError.NotSupported, Refused(Sample.Table(new Sample.Tensor("a", TensorDtype.C128, [1])), 0));
        Assert.Equal(CheckpointError.InvalidData, Refused(Sample.Table(new Sample.Tensor("__metadata__", TensorDtype.U8, [1])), 0));
        Assert.Equal(CheckpointError.InvalidData, Refused(Sample.Table(new("a", TensorDtype.U8, [1]), new("a", TensorDtype.U8, [1])), 0, 1));
        using var builder = new TensorTableBuilder();
        builder.Add([0xFF], TensorDtype.U8, [1], 1, 0);
        Assert.Equal(CheckpointError.InvalidData, Refused(builder.Build(), 0));
    }

    [Fact]
    public void Write_ContentOfAnotherLength_IsRefused()
    {
        TensorTable tensors = Sample.Table(new Sample.Tensor("a", TensorDtype.U8, [5]));
        Assert.Throws<CheckpointEngineException>(() => SafetensorsWriter.Write(new MemoryStream(), tensors, [0], (_, to) => to.Write(new byte[4])));
    }
}
