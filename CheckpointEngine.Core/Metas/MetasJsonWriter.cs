using System.Buffers;
using System.Text;
using System.Text.Unicode;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Metas;

/// <summary>
/// Writes metas as JSON: compact, members in upstream's order, those that this engine adds behind them, owners by rank. Text outside
/// ASCII is written as it is. Equal metas give equal bytes.
/// </summary>
/// <remarks>
/// Numbers, texts and punctuation go straight from the columns into the output. Allocates nothing per tensor. Any number of threads.
/// </remarks>
public static class MetasJsonWriter
{
    private const string What = "metas JSON";

    // RFC 8259: quotation mark, reverse solidus and the control characters; nothing else needs an escape.
    private static readonly SearchValues<byte> s_escaped = SearchValues.Create(
        [.. Enumerable.Range(0, 0x20).Select(code => (byte)code), (byte)'"', (byte)'\\']);

    /// <summary>Writes <paramref name="metas"/>.</summary>
    /// <param name="metas">What is written.</param>
    /// <param name="output">Receives UTF-8 without a byte order mark.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: a tensor's name is not UTF-8.</exception>
    public static void Write(CheckpointMetas metas, IBufferWriter<byte> output)
    {
        ArgumentNullException.ThrowIfNull(metas);
        ArgumentNullException.ThrowIfNull(output);
        var cursor = new BufferCursor(output);
        cursor.Write((byte)'{');
        bool isFirst = true;
        foreach (MetasOwner owner in metas.Owners)
        {
            cursor.Write(isFirst ? "\""u8 : ",\""u8);
            isFirst = false;
            cursor.WriteDecimal((ulong)owner.Rank);
            cursor.Write("\":{\"p2p_store_addr\":"u8);
            WriteText(ref cursor, owner.P2pStoreAddress);
            cursor.Write(",\"memory_buffer_metas_list\":["u8);
            for (int buffer = 0; buffer < owner.Buffers.Length; buffer++)
            {
                cursor.Write(buffer == 0 ? default : ","u8);
                WriteBuffer(ref cursor, metas, owner.Buffers[buffer]);
            }
            cursor.Write("],\"rdma_device\":"u8);
            WriteText(ref cursor, owner.RdmaDevice);
            if (owner.Epoch.Length != 0)
            {
                cursor.Write(",\"epoch\":"u8);
                WriteText(ref cursor, owner.Epoch);
            }
            if (owner.Generation != 0)
            {
                cursor.Write(",\"generation\":"u8);
                cursor.WriteDecimal((ulong)owner.Generation);
            }
            cursor.Write((byte)'}');
        }
        cursor.Write((byte)'}');
        cursor.Flush();
    }

    private static void WriteBuffer(ref BufferCursor cursor, CheckpointMetas metas, in MetasBuffer buffer)
    {
        cursor.Write("{\"metas\":["u8);
        for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
        {
            cursor.Write(tensor == buffer.FirstTensor ? default : ","u8);
            WriteTensor(ref cursor, metas, tensor);
        }
        cursor.Write("],\"ptr\":"u8);
        cursor.WriteDecimal(buffer.Address);
        cursor.Write(",\"size\":"u8);
        cursor.WriteDecimal((ulong)buffer.SizeBytes);
        cursor.Write((byte)'}');
    }

    private static void WriteTensor(ref BufferCursor cursor, CheckpointMetas metas, int tensor)
    {
        TensorTable tensors = metas.Tensors;
        TensorDtype dtype = tensors.GetDtype(tensor);
        bool isForeign = dtype != TensorDtype.Unknown && dtype.TorchNameUtf8().IsEmpty;    // torch lacks it: uint8 bytes to Python readers

        cursor.Write("{\"name\":\""u8);
        ReadOnlySpan<byte> name = tensors.GetNameUtf8(tensor);
        if (!Utf8.IsValid(name))
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, $"{What}: the name {MessageText.Quote(name)} of tensor {tensor} is not UTF-8");
        }
        WriteEscaped(ref cursor, name);
        cursor.Write("\",\"dtype\":"u8);
        if (dtype == TensorDtype.Unknown)
        {
            WriteText(ref cursor, tensors.GetDtypeName(tensor));
        }
        else
        {
            cursor.Write((byte)'"');
            cursor.Write(isForeign ? TensorDtype.U8.TorchNameUtf8() : dtype.TorchNameUtf8());
            cursor.Write((byte)'"');
        }
        cursor.Write(",\"shape\":"u8);
        WriteShape(ref cursor, isForeign ? [tensors.GetByteLength(tensor)] : tensors.GetShape(tensor));
        cursor.Write(",\"aligned_size\":"u8);
        cursor.WriteDecimal((ulong)tensors.GetSlotBytes(tensor));
        if (metas.GetDigestAlgorithm(tensor) != DigestAlgorithm.None)
        {
            WriteDigest(ref cursor, metas.GetDigestAlgorithm(tensor), metas.GetDigest(tensor));
        }
        if (isForeign)
        {
            cursor.Write(",\"safetensors_dtype\":"u8);
            WriteText(ref cursor, dtype.SafetensorsName());
            cursor.Write(",\"safetensors_shape\":"u8);
            WriteShape(ref cursor, tensors.GetShape(tensor));
        }
        cursor.Write((byte)'}');
    }

    private static void WriteShape(ref BufferCursor cursor, scoped ReadOnlySpan<long> shape)
    {
        cursor.Write((byte)'[');
        for (int i = 0; i < shape.Length; i++)
        {
            cursor.Write(i == 0 ? default : ","u8);
            cursor.WriteDecimal((ulong)shape[i]);
        }
        cursor.Write((byte)']');
    }

    private static void WriteDigest(ref BufferCursor cursor, DigestAlgorithm algorithm, ReadOnlySpan<byte> digest)
    {
        Span<byte> hex = stackalloc byte[TensorDigest.MaxDigestBytes * 2];
        _ = Convert.TryToHexStringLower(digest, hex, out int length);
        cursor.Write(",\"digest\":\""u8);
        cursor.Write(algorithm.PrefixUtf8());
        cursor.Write(hex[..length]);
        cursor.Write((byte)'"');
    }

    private static void WriteText(ref BufferCursor cursor, string? text)
    {
        if (text is null)
        {
            cursor.Write("null"u8);
            return;
        }
        int maxBytes = Encoding.UTF8.GetMaxByteCount(text.Length);
        byte[]? rented = maxBytes <= 512 ? null : ArrayPool<byte>.Shared.Rent(maxBytes);
        Span<byte> utf8 = rented ?? stackalloc byte[512];
        cursor.Write((byte)'"');
        WriteEscaped(ref cursor, utf8[..Encoding.UTF8.GetBytes(text, utf8)]);
        cursor.Write((byte)'"');
        if (rented is not null)
        {
            ArrayPool<byte>.Shared.Return(rented);
        }
    }

    private static void WriteEscaped(ref BufferCursor cursor, scoped ReadOnlySpan<byte> text)
    {
        int plain;
        while ((plain = text.IndexOfAny(s_escaped)) >= 0)
        {
            cursor.Write(text[..plain]);
            byte escaped = text[plain];
            if (escaped is (byte)'"' or (byte)'\\')
            {
                cursor.Write((byte)'\\');
                cursor.Write(escaped);
            }
            else
            {
                cursor.Write(escaped < 0x10 ? "\\u000"u8 : "\\u001"u8);
                cursor.Write("0123456789abcdef"u8[escaped & 0xF]);
            }
            text = text[(plain + 1)..];
        }
        cursor.Write(text);
    }
}
