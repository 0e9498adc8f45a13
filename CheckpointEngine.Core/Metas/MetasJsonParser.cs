using System.Runtime.CompilerServices;
using System.Text.Json;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Metas;

/// <summary>
/// The state machine behind <see cref="MetasJsonReader"/>: takes a document in pieces, token by token, and tells a
/// <see cref="CheckpointMetasBuilder"/> what it says.
/// </summary>
/// <remarks>
/// A tensor's texts are unescaped into buffers that the next tensor uses again, since its members come in any order and it can be added
/// only at its end. One thread at a time.
/// </remarks>
internal sealed partial class MetasJsonParser : IDisposable
{
    internal const string What = "metas JSON";

    /// <summary>
    /// The longest token: a name of <see cref="MetasLimits.MaxTextBytes"/>, each byte written as an escape of six, and its quotes.
    /// </summary>
    internal const int MaxTokenBytes = MetasLimits.MaxTextBytes * 6 + 2;

    private const int MaxDepth = 16;

    private readonly CheckpointMetasBuilder _builder = new();
    private JsonReaderState _json = new(new JsonReaderOptions { MaxDepth = MaxDepth });
    private long _fedBytes;          // consumed by earlier pieces
    private State _state;
    private State _stateAfterSkip;
    private int _skipDepth;
    private Members _members;        // seen in the innermost owner, buffer or tensor
    private Members _ownerMembers;   // of the owner while one of its buffers is read
    private Members _bufferMembers;  // of the buffer while one of its tensors is read

    private int _rank;
    private string? _address;
    private string? _device;
    private string _epoch = "";
    private long _generation;
    private ulong _bufferAddress;
    private long _bufferSizeBytes;
    private readonly TextBuffer _name = new();
    private readonly TextBuffer _dtype = new();
    private readonly TextBuffer _digest = new();
    private readonly TextBuffer _safetensorsDtype = new();
    private readonly TextBuffer _text = new();
    private readonly Dimensions _shape = new();
    private readonly Dimensions _safetensorsShape = new();
    private long _slotBytes;

    // What the next token must belong to.
    private enum State : byte
    {
        Document, Owners, OwnerStart, Owner, OwnerAddress, OwnerDevice, OwnerEpoch, OwnerGeneration, BuffersStart, Buffers, Buffer, BufferAddress, BufferSize, TensorsStart,
        Tensors, Tensor, TensorName, TensorDtype, TensorSlot, TensorDigest, TensorSafetensorsDtype, ShapeStart, Shape, SafetensorsShapeStart,
        SafetensorsShape, Skip, End,
    }

    [Flags]
    private enum Members : ushort
    {
        None = 0,
        Address = 1, Buffers = 2, Device = 4,                          // of an owner
        Tensors = 8, Pointer = 16, Size = 32,                          // of a buffer
        Name = 64, Dtype = 128, Shape = 256, Slot = 512, Digest = 1024, SafetensorsDtype = 2048, SafetensorsShape = 4096,
        Epoch = 8192, Generation = 16384,                              // of an owner
    }

    /// <summary>Takes the next piece of the document.</summary>
    /// <param name="utf8">What the last call left, and what follows it.</param>
    /// <param name="isFinal">Nothing follows this piece.</param>
    /// <returns>Bytes used; the rest belongs to a token that is not whole yet.</returns>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]    // a whole document is one call, and tiering up would come too late
    internal int Feed(ReadOnlySpan<byte> utf8, bool isFinal)
    {
        var reader = new Utf8JsonReader(utf8, isFinal, _json);
        try
        {
            while (reader.Read())
            {
                Accept(ref reader);
            }
        }
        catch (JsonException failure)
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, $"{What}: {MessageText.Reason(failure)} (at byte {_fedBytes + reader.BytesConsumed})", failure);
        }
        int consumed = (int)reader.BytesConsumed;
        _json = reader.CurrentState;
        _fedBytes += consumed;
        if (utf8.Length - consumed > MaxTokenBytes)
        {
            ThrowHelper.ThrowInvalidData(What, _fedBytes, $"a token of more than {MaxTokenBytes:N0} bytes");
        }
        return consumed;
    }

    /// <summary>Makes the metas after the final piece.</summary>
    internal CheckpointMetas Finish()
    {
        if (_state != State.End)
        {
            ThrowHelper.ThrowInvalidData(What, _fedBytes, "the document ends too early");
        }
        return _builder.Build();
    }

    public void Dispose() => _builder.Dispose();

    private void Accept(ref Utf8JsonReader reader)
    {
        if (reader.ValueSpan.Length > MaxTokenBytes - 2)
        {
            ThrowHelper.ThrowInvalidData(What, _fedBytes + reader.TokenStartIndex, $"a token of more than {MaxTokenBytes:N0} bytes");
        }
        switch (_state)
        {
            case State.Document:
                Expect(ref reader, JsonTokenType.StartObject, "an object of owners by rank");
                _state = State.Owners;
                break;
            case State.Owners or State.Owner or State.Buffer or State.Tensor:
                if (reader.TokenType == JsonTokenType.PropertyName)
                {
                    AcceptMember(ref reader);
                }
                else
                {
                    AcceptEnd(ref reader);    // the only other token that can follow in an object
                }
                break;
            case State.OwnerStart:
                Expect(ref reader, JsonTokenType.StartObject, "an owner: an object");
                (_members, _address, _device, _epoch, _generation) = (Members.None, null, null, "", 0);
                _state = State.Owner;
                break;
            case State.OwnerAddress:
                _address = ReadTextOrNull(ref reader, "p2p_store_addr");
                _state = State.Owner;
                break;
            case State.OwnerDevice:
                _device = ReadTextOrNull(ref reader, "rdma_device");
                _state = State.Owner;
                break;
            case State.OwnerEpoch:
                _epoch = ReadTextOrNull(ref reader, "epoch") ?? "";
                if (_epoch.Length > MetasLimits.MaxEpochChars)
                {
                    ThrowWrong(ref reader, $"epoch of {_epoch.Length:N0} characters, more than the {MetasLimits.MaxEpochChars} that are read");
                }
                _state = State.Owner;
                break;
            case State.OwnerGeneration:
                _generation = ReadInt64(ref reader, "generation");
                _state = State.Owner;
                break;
            case State.BuffersStart:
                Expect(ref reader, JsonTokenType.StartArray, "memory_buffer_metas_list: an array");
                _ownerMembers = _members;
                _state = State.Buffers;
                break;
            case State.Buffers when reader.TokenType == JsonTokenType.EndArray:
                _members = _ownerMembers;
                _state = State.Owner;
                break;
            case State.Buffers:
                Expect(ref reader, JsonTokenType.StartObject, "a buffer: an object");
                _members = Members.None;
                _state = State.Buffer;
                break;
            case State.BufferAddress:
                _bufferAddress = ReadUInt64(ref reader, "ptr");
                _state = State.Buffer;
                break;
            case State.BufferSize:
                _bufferSizeBytes = ReadInt64(ref reader, "size");
                _state = State.Buffer;
                break;
            case State.TensorsStart:
                Expect(ref reader, JsonTokenType.StartArray, "metas: an array");
                _bufferMembers = _members;
                _state = State.Tensors;
                break;
            case State.Tensors when reader.TokenType == JsonTokenType.EndArray:
                _members = _bufferMembers;
                _state = State.Buffer;
                break;
            case State.Tensors:
                Expect(ref reader, JsonTokenType.StartObject, "a tensor: an object");
                _members = Members.None;
                _state = State.Tensor;
                break;
            case State.Skip:
                AcceptSkipped(reader.TokenType);
                break;
            default:
                AcceptTensorValue(ref reader);
                break;
        }
    }

    private void AcceptTensorValue(ref Utf8JsonReader reader)
    {
        switch (_state)
        {
            case State.TensorName:
                ReadText(ref reader, _name, "name");
                _state = State.Tensor;
                break;
            case State.TensorDtype:
                ReadText(ref reader, _dtype, "dtype");
                _state = State.Tensor;
                break;
            case State.TensorSlot:
                _slotBytes = ReadInt64(ref reader, "aligned_size");
                _state = State.Tensor;
                break;
            case State.TensorDigest when reader.TokenType == JsonTokenType.Null:
                _members &= ~Members.Digest;
                _state = State.Tensor;
                break;
            case State.TensorDigest:
                ReadText(ref reader, _digest, "digest");
                _state = State.Tensor;
                break;
            case State.TensorSafetensorsDtype:
                ReadText(ref reader, _safetensorsDtype, "safetensors_dtype");
                _state = State.Tensor;
                break;
            case State.ShapeStart:
                Expect(ref reader, JsonTokenType.StartArray, "shape: an array");
                _shape.Clear();
                _state = State.Shape;
                break;
            case State.SafetensorsShapeStart:
                Expect(ref reader, JsonTokenType.StartArray, "safetensors_shape: an array");
                _safetensorsShape.Clear();
                _state = State.SafetensorsShape;
                break;
            case State.Shape or State.SafetensorsShape when reader.TokenType == JsonTokenType.EndArray:
                _state = State.Tensor;
                break;
            case State.Shape:
                AddDimension(ref reader, _shape);
                break;
            case State.SafetensorsShape:
                AddDimension(ref reader, _safetensorsShape);
                break;
        }
    }

    private void AcceptSkipped(JsonTokenType token)
    {
        switch (token)
        {
            case JsonTokenType.StartObject or JsonTokenType.StartArray:
                _skipDepth++;
                break;
            case JsonTokenType.EndObject or JsonTokenType.EndArray:
                _skipDepth--;
                break;
        }
        if (_skipDepth == 0)
        {
            _state = _stateAfterSkip;
        }
    }

    private void AddDimension(ref Utf8JsonReader reader, Dimensions shape)
    {
        if (!shape.TryAdd(ReadInt64(ref reader, "shape")))
        {
            ThrowWrong(ref reader, $"a shape of more than {MetasLimits.MaxDimensions} dimensions");
        }
    }

    /// <summary>UTF-8 text in memory that the next text of its kind uses again.</summary>
    private sealed class TextBuffer
    {
        private byte[] _bytes = new byte[128];
        private int _length;

        internal ReadOnlySpan<byte> Span => _bytes.AsSpan(0, _length);

        internal void Set(ReadOnlySpan<byte> text)
        {
            if (text.Length > _bytes.Length)
            {
                _bytes = new byte[text.Length * 2];
            }
            text.CopyTo(_bytes);
            _length = text.Length;
        }
    }

    private sealed class Dimensions
    {
        private readonly long[] _values = new long[MetasLimits.MaxDimensions];
        private int _count;

        internal ReadOnlySpan<long> Span => _values.AsSpan(0, _count);

        internal void Clear() => _count = 0;

        internal bool TryAdd(long value)
        {
            if (_count == _values.Length)
            {
                return false;
            }
            _values[_count++] = value;
            return true;
        }
    }
}
