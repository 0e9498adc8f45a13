using System.Text.Json;
using System.Text.Unicode;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>Reads the JSON of a safetensors header straight into a table's columns; no object and no string for each tensor.</summary>
/// <remarks>Total: any input gives a value or InvalidData, in time and memory linear in it.</remarks>
internal ref struct SafetensorsHeaderParser
{
    private const int MaxDepth = 16;   // the format needs 3; members that it may get later are skipped down to here

    private readonly ReadOnlySpan<byte> _json;
    private readonly long _dataBytes;
    private readonly string _fileName;
    private readonly TensorTableBuilder _builder;
    private Utf8JsonReader _reader;
    private byte[] _unescaped = [];

    internal SafetensorsHeaderParser(ReadOnlySpan<byte> json, long dataBytes, string fileName, TensorTableBuilder builder)
    {
        _json = json;
        _dataBytes = dataBytes;
        _fileName = fileName;
        _builder = builder;
        _reader = new Utf8JsonReader(json, new JsonReaderOptions { MaxDepth = MaxDepth });
    }

    /// <summary>Reads all tensors in the document's order, each checked by itself, and returns the metadata.</summary>
    internal Dictionary<string, string> Parse()
    {
        if (_json.Length > SafetensorsHeader.MaxHeaderBytes)
        {
            ThrowHelper.ThrowInvalidData(_fileName, 0, $"a header of {_json.Length:N0} bytes, and the format allows {SafetensorsHeader.MaxHeaderBytes:N0}");
        }
        if (_json.IsEmpty || _json[0] != (byte)'{')
        {
            ThrowHelper.ThrowInvalidData(_fileName, SafetensorsHeader.PrefixBytes, "the header does not begin with '{'; is it a safetensors file?");
        }
        if (!Utf8.IsValid(_json))
        {
            ThrowHelper.ThrowInvalidData(_fileName, SafetensorsHeader.PrefixBytes, "the header is not UTF-8");
        }
        try
        {
            return ParseDocument();
        }
        catch (JsonException e)
        {
            ThrowHelper.ThrowInvalidData(_fileName, Offset, $"the header is not JSON: {MessageText.Reason(e)}");
        }
        catch (InvalidOperationException)   // what the reader throws for half of a surrogate pair in an escape
        {
            ThrowHelper.ThrowInvalidData(_fileName, Offset, "a string of the header is not Unicode");
        }
        return null;
    }

    private readonly long Offset => SafetensorsHeader.PrefixBytes + _reader.BytesConsumed;

    private Dictionary<string, string> ParseDocument()
    {
        Dictionary<string, string>? metadata = null;
        _reader.Read();
        while (ReadMember())
        {
            if (_reader.ValueTextEquals("__metadata__"u8))
            {
                if (metadata is not null)
                {
                    ThrowHelper.ThrowInvalidData(_fileName, Offset, "__metadata__ is there twice");
                }
                metadata = ReadMetadata();
            }
            else
            {
                ReadTensor();
            }
        }
        if (_reader.Read())
        {
            ThrowHelper.ThrowInvalidData(_fileName, Offset, "more follows the header's object");
        }
        return metadata ?? [];
    }

    private Dictionary<string, string> ReadMetadata()
    {
        var metadata = new Dictionary<string, string>();
        _reader.Read();
        if (_reader.TokenType == JsonTokenType.Null)
        {
            return metadata;
        }
        Expect(JsonTokenType.StartObject, "__metadata__", "an object of strings");
        while (ReadMember())
        {
            string key = _reader.GetString()!;
            _reader.Read();
            Expect(JsonTokenType.String, "a value of __metadata__", "a string");
            metadata[key] = _reader.GetString()!;
        }
        return metadata;
    }

    private void ReadTensor()
    {
        ReadOnlySpan<byte> name = CurrentString(ref _unescaped);
        TensorDtype dtype = TensorDtype.Unknown;
        Span<long> dimensions = stackalloc long[SafetensorsHeader.MaxDimensions];
        Span<long> offsets = stackalloc long[2];
        int dimensionCount = -1;
        int offsetCount = -1;
        _reader.Read();
        if (_reader.TokenType != JsonTokenType.StartObject)
        {
            Refuse(name, "is not described by an object");
        }
        while (ReadMember())
        {
            if (_reader.ValueTextEquals("dtype"u8))
            {
                RefuseTwice(name, dtype != TensorDtype.Unknown, "dtype");
                dtype = ReadDtype(name);
            }
            else if (_reader.ValueTextEquals("shape"u8))
            {
                RefuseTwice(name, dimensionCount >= 0, "shape");
                dimensionCount = ReadIntegers(name, "shape", dimensions);
            }
            else if (_reader.ValueTextEquals("data_offsets"u8))
            {
                RefuseTwice(name, offsetCount >= 0, "data_offsets");
                offsetCount = ReadIntegers(name, "data_offsets", offsets);
            }
            else
            {
                _reader.Skip();
            }
        }
        if (dtype == TensorDtype.Unknown || dimensionCount < 0 || offsetCount < 0)
        {
            Refuse(name, $"has no {(dtype == TensorDtype.Unknown ? "dtype" : dimensionCount < 0 ? "shape" : "data_offsets")}");
        }
        AddTensor(name, dtype, dimensions[..dimensionCount], offsets[..offsetCount]);
    }

    private readonly void AddTensor(ReadOnlySpan<byte> name, TensorDtype dtype, scoped ReadOnlySpan<long> shape, scoped ReadOnlySpan<long> offsets)
    {
        if (offsets.Length != 2)
        {
            Refuse(name, $"has {offsets.Length} data_offsets instead of 2");
        }
        long begin = offsets[0], end = offsets[1];
        if (begin > end)
        {
            Refuse(name, $"begins at byte {begin:N0} of the data and ends before it, at {end:N0}");
        }
        if (end > _dataBytes)
        {
            Refuse(name, $"ends at byte {end:N0} of the data section, which has {_dataBytes:N0}; the file is truncated, or the header lies");
        }
        long needed = dtype.ByteLength(shape);
        if (needed != end - begin)
        {
            string bytes = needed < 0 ? "does not make whole bytes within 63 bits" : $"makes {needed:N0} bytes";
            Refuse(name, $"is {dtype.SafetensorsName()} [{string.Join(',', shape.ToArray())}], which {bytes}, and its data_offsets span {end - begin:N0}");
        }
        _builder.Add(name, dtype, shape, needed, begin);
    }

    private TensorDtype ReadDtype(ReadOnlySpan<byte> name)
    {
        _reader.Read();
        if (_reader.TokenType != JsonTokenType.String)
        {
            Refuse(name, "has a dtype that is no string");
        }
        byte[] unescaped = [];
        ReadOnlySpan<byte> text = CurrentString(ref unescaped);
        if (!TensorDtypes.TryParseSafetensors(text, out TensorDtype dtype))
        {
            Refuse(name, $"has the dtype {TensorNames.Quote(text)}, which this engine does not know");
        }
        return dtype;
    }

    private int ReadIntegers(ReadOnlySpan<byte> name, string member, scoped Span<long> destination)
    {
        _reader.Read();
        if (_reader.TokenType != JsonTokenType.StartArray)
        {
            Refuse(name, $"has a {member} that is no array");
        }
        int count = 0;
        while (_reader.Read() && _reader.TokenType != JsonTokenType.EndArray)
        {
            if (_reader.TokenType != JsonTokenType.Number || !_reader.TryGetInt64(out long value) || value < 0)
            {
                Refuse(name, $"has a {member} with an entry that is no integer from 0 to 2^63 - 1");
                return 0;
            }
            if (count == destination.Length)
            {
                Refuse(name, $"has a {member} of more than {destination.Length} entries");
            }
            destination[count++] = value;
        }
        return count;
    }

    // The reader itself sees to it that an object holds members only; false at its end.
    private bool ReadMember() => _reader.Read() && _reader.TokenType == JsonTokenType.PropertyName;

    private readonly ReadOnlySpan<byte> CurrentString(scoped ref byte[] scratch)
    {
        if (!_reader.ValueIsEscaped)
        {
            return _reader.ValueSpan;
        }
        if (scratch.Length < _reader.ValueSpan.Length)
        {
            scratch = new byte[_reader.ValueSpan.Length];   // unescaping never makes a string longer
        }
        return scratch.AsSpan(0, _reader.CopyString(scratch));
    }

    private readonly void Expect(JsonTokenType type, string what, string form)
    {
        if (_reader.TokenType != type)
        {
            ThrowHelper.ThrowInvalidData(_fileName, Offset, $"{what} is not {form}");
        }
    }

    private readonly void RefuseTwice(ReadOnlySpan<byte> name, bool seen, string member)
    {
        if (seen)
        {
            Refuse(name, $"has two members {member}");
        }
    }

    private readonly void Refuse(ReadOnlySpan<byte> name, string reason)
        => ThrowHelper.ThrowInvalidData(_fileName, Offset, $"tensor {TensorNames.Quote(name)} {reason}");
}
