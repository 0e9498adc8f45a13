using System.Buffers;
using System.Buffers.Binary;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Unicode;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>Writes the data of a tensor.</summary>
/// <param name="tensor">Index in the table.</param>
/// <param name="destination">Receives exactly the tensor's bytes.</param>
public delegate void SafetensorsContent(int tensor, Stream destination);

/// <summary>Writes safetensors files.</summary>
/// <remarks>Headers are padded with blanks so that the data section starts at a multiple of 8; <c>__metadata__</c> is <c>{"format":"pt"}</c>, which transformers asks for.</remarks>
public static class SafetensorsWriter
{
    private const int Alignment = 8;

    /// <summary>
    /// The order that the reference implementation writes: wide elements first, then by name. Every tensor is then aligned for its own elements.
    /// </summary>
    /// <param name="tensors">The table.</param>
    /// <param name="selection">Indices in the table; sorted in place.</param>
    public static void Sort(TensorTable tensors, Span<int> selection)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        selection.Sort((a, b) =>
        {
            int order = tensors.GetDtype(b).BitsPerElement().CompareTo(tensors.GetDtype(a).BitsPerElement());
            return order != 0 ? order : tensors.GetNameUtf8(a).SequenceCompareTo(tensors.GetNameUtf8(b));
        });
    }

    /// <summary>Writes a file's head: the 8 bytes of length and the JSON, the tensors' data back to back in the order given.</summary>
    /// <param name="destination">Receives a multiple of 8 bytes; the data section starts behind them.</param>
    /// <param name="tensors">The table.</param>
    /// <param name="selection">Indices in the table, in the order of the data.</param>
    /// <exception cref="CheckpointEngineException">
    /// NotSupported: a type that safetensors lacks. InvalidData: a name twice, not UTF-8, or <c>__metadata__</c>; a header above <see cref="SafetensorsHeader.MaxHeaderBytes"/>.
    /// </exception>
    public static void WriteHeader(IBufferWriter<byte> destination, TensorTable tensors, ReadOnlySpan<int> selection)
    {
        ArgumentNullException.ThrowIfNull(destination);
        ArgumentNullException.ThrowIfNull(tensors);
        var body = new ArrayBufferWriter<byte>(Math.Max(256, (int)Math.Min(selection.Length * 128L, 1 << 24)));
        WriteJson(body, tensors, selection);
        int padded = (body.WrittenCount + Alignment - 1) & ~(Alignment - 1);
        if (padded > SafetensorsHeader.MaxHeaderBytes)
        {
            ThrowHelper.Throw(CheckpointError.InvalidData,
                $"write safetensors header: {selection.Length:N0} tensors make a header of {padded:N0} bytes, and the format allows {SafetensorsHeader.MaxHeaderBytes:N0}; use more shards");
        }
        BinaryPrimitives.WriteUInt64LittleEndian(destination.GetSpan(sizeof(ulong)), (ulong)padded);
        destination.Advance(sizeof(ulong));
        destination.Write(body.WrittenSpan);
        Span<byte> blanks = destination.GetSpan(Alignment)[..(padded - body.WrittenCount)];
        blanks.Fill((byte)' ');
        destination.Advance(blanks.Length);
    }

    /// <summary>Lays a file out before its data is there: for who writes tensors in whatever order they come.</summary>
    /// <inheritdoc cref="WriteHeader" path="/param[@name='tensors']|/param[@name='selection']|/exception"/>
    public static SafetensorsLayout Plan(TensorTable tensors, ReadOnlySpan<int> selection)
    {
        var header = new ArrayBufferWriter<byte>();
        WriteHeader(header, tensors, selection);
        long[] offsets = new long[selection.Length];
        long next = header.WrittenCount;
        for (int i = 0; i < offsets.Length; i++)
        {
            offsets[i] = next;
            next = checked(next + tensors.GetByteLength(selection[i]));
        }
        return new SafetensorsLayout(header.WrittenSpan.ToArray(), selection.ToArray(), offsets, next);
    }

    /// <summary>Writes a whole file.</summary>
    /// <param name="destination">Receives it.</param>
    /// <param name="tensors">The table.</param>
    /// <param name="selection">Indices in the table, in the order of the data.</param>
    /// <param name="content">Called once a tensor, in that order, not for empty ones.</param>
    /// <exception cref="CheckpointEngineException">As <see cref="WriteHeader"/>; InvalidData: <paramref name="content"/> wrote more or fewer bytes than the tensor has.</exception>
    public static void Write(Stream destination, TensorTable tensors, ReadOnlySpan<int> selection, SafetensorsContent content)
    {
        ArgumentNullException.ThrowIfNull(destination);
        ArgumentNullException.ThrowIfNull(content);
        SafetensorsLayout layout = Plan(tensors, selection);
        var counting = new CountingStream(destination);
        counting.Write(layout.Header.Span);
        for (int i = 0; i < selection.Length; i++)
        {
            long bytes = tensors.GetByteLength(selection[i]);
            if (bytes == 0)
            {
                continue;
            }
            content(selection[i], counting);
            if (counting.Written != layout.FileOffsets[i] + bytes)
            {
                ThrowHelper.Throw(CheckpointError.InvalidData,
                    $"write tensor {TensorNames.Quote(tensors, selection[i])}: {counting.Written - layout.FileOffsets[i]:N0} bytes came and it has {bytes:N0}");
            }
        }
        counting.Flush();
    }

    /// <summary>Refuses a name that JSON cannot hold or that the format keeps for itself.</summary>
    internal static void CheckName(TensorTable tensors, int tensor)
    {
        ReadOnlySpan<byte> name = tensors.GetNameUtf8(tensor);
        if (!Utf8.IsValid(name) || name.SequenceEqual("__metadata__"u8))
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, $"write safetensors: a tensor cannot be called {TensorNames.Quote(name)}");
        }
    }

    private static void WriteJson(ArrayBufferWriter<byte> destination, TensorTable tensors, ReadOnlySpan<int> selection)
    {
        var seen = new HashSet<int>();
        using var json = new Utf8JsonWriter(destination, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping, SkipValidation = true });
        json.WriteStartObject();
        json.WriteStartObject("__metadata__"u8);
        json.WriteString("format"u8, "pt"u8);
        json.WriteEndObject();
        long offset = 0;
        foreach (int tensor in selection)
        {
            CheckName(tensors, tensor);
            if (!seen.Add(tensors.IndexOf(tensors.GetNameUtf8(tensor))))
            {
                ThrowHelper.Throw(CheckpointError.InvalidData, $"write safetensors: two tensors are called {TensorNames.Quote(tensors, tensor)}");
            }
            string dtype = tensors.GetDtype(tensor).SafetensorsName();
            if (dtype.Length == 0)
            {
                ThrowHelper.Throw(CheckpointError.NotSupported,
                    $"write safetensors: tensor {TensorNames.Quote(tensors, tensor)} is {tensors.GetDtypeName(tensor)}, which the format has no name for");
            }
            json.WriteStartObject(tensors.GetNameUtf8(tensor));
            json.WriteString("dtype"u8, dtype);
            json.WriteStartArray("shape"u8);
            foreach (long dimension in tensors.GetShape(tensor))
            {
                json.WriteNumberValue(dimension);
            }
            json.WriteEndArray();
            long end = checked(offset + tensors.GetByteLength(tensor));
            json.WriteStartArray("data_offsets"u8);
            json.WriteNumberValue(offset);
            json.WriteNumberValue(end);
            json.WriteEndArray();
            json.WriteEndObject();
            offset = end;
        }
        json.WriteEndObject();
    }

    private sealed class CountingStream(Stream inner) : Stream
    {
        internal long Written { get; private set; }

        public override bool CanRead => false;

        public override bool CanSeek => false;

        public override bool CanWrite => true;

        public override long Length => throw new NotSupportedException();

        public override long Position { get => Written; set => throw new NotSupportedException(); }

        public override void Flush() => inner.Flush();

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

        public override void Write(ReadOnlySpan<byte> buffer)
        {
            inner.Write(buffer);
            Written += buffer.Length;
        }
    }
}
