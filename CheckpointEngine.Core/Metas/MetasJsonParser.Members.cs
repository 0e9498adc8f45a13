using System.Buffers;
using System.Diagnostics.CodeAnalysis;
using System.Text;
using System.Text.Json;
using System.Text.Unicode;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Metas;

// The objects of the document: which members they have, and what is told to the builder at their end; and how single values are read.
internal sealed partial class MetasJsonParser
{
    private void AcceptMember(ref Utf8JsonReader reader)
    {
        if (reader.ValueIsEscaped)
        {
            Unescape(ref reader);
        }
        ReadOnlySpan<byte> name = reader.ValueIsEscaped ? _text.Span : reader.ValueSpan;
        if (_state == State.Owners)
        {
            _rank = ParseRank(ref reader, name);
            _state = State.OwnerStart;
            return;
        }
        (Members member, State next) = _state switch
        {
            State.Tensor => FindTensorMember(name),
            State.Buffer => FindBufferMember(name),
            _ => FindOwnerMember(name),
        };
        if (member == Members.None)
        {
            (_stateAfterSkip, _skipDepth, _state) = (_state, 0, State.Skip);
            return;
        }
        if ((_members & member) != 0)
        {
            ThrowWrong(ref reader, $"{MessageText.Quote(name)} is told twice");
        }
        _members |= member;
        _state = next;
    }

    private static (Members Member, State Next) FindTensorMember(ReadOnlySpan<byte> name) => name.Length switch
    {
        4 when name.SequenceEqual("name"u8) => (Members.Name, State.TensorName),
        5 when name.SequenceEqual("dtype"u8) => (Members.Dtype, State.TensorDtype),
        5 when name.SequenceEqual("shape"u8) => (Members.Shape, State.ShapeStart),
        12 when name.SequenceEqual("aligned_size"u8) => (Members.Slot, State.TensorSlot),
        6 when name.SequenceEqual("digest"u8) => (Members.Digest, State.TensorDigest),
        17 when name.SequenceEqual("safetensors_dtype"u8) => (Members.SafetensorsDtype, State.TensorSafetensorsDtype),
        17 when name.SequenceEqual("safetensors_shape"u8) => (Members.SafetensorsShape, State.SafetensorsShapeStart),
        _ => default,
    };

    private static (Members Member, State Next) FindBufferMember(ReadOnlySpan<byte> name)
        => name.SequenceEqual("metas"u8) ? (Members.Tensors, State.TensorsStart)
            : name.SequenceEqual("ptr"u8) ? (Members.Pointer, State.BufferAddress)
            : name.SequenceEqual("size"u8) ? (Members.Size, State.BufferSize)
            : default;

    private static (Members Member, State Next) FindOwnerMember(ReadOnlySpan<byte> name)
        => name.SequenceEqual("p2p_store_addr"u8) ? (Members.Address, State.OwnerAddress)
            : name.SequenceEqual("memory_buffer_metas_list"u8) ? (Members.Buffers, State.BuffersStart)
            : name.SequenceEqual("rdma_device"u8) ? (Members.Device, State.OwnerDevice)
            : name.SequenceEqual("epoch"u8) ? (Members.Epoch, State.OwnerEpoch)
            : name.SequenceEqual("generation"u8) ? (Members.Generation, State.OwnerGeneration)
            : default;

    private void AcceptEnd(ref Utf8JsonReader reader)
    {
        switch (_state)
        {
            case State.Owners:
                _state = State.End;
                break;
            case State.Owner:
                Require(ref reader, Members.Buffers, "the owner", "memory_buffer_metas_list");
                _builder.EndOwner(_rank, _address, _device, _epoch, _generation);
                _state = State.Owners;
                break;
            case State.Buffer:
                Require(ref reader, Members.Tensors, "the buffer", "metas");
                Require(ref reader, Members.Pointer, "the buffer", "ptr");
                Require(ref reader, Members.Size, "the buffer", "size");
                _builder.EndBuffer(_bufferAddress, _bufferSizeBytes);
                _state = State.Buffers;
                break;
            default:
                Require(ref reader, Members.Name, "the tensor", "name");
                Require(ref reader, Members.Dtype, "the tensor", "dtype");
                Require(ref reader, Members.Shape, "the tensor", "shape");
                AddTensor(ref reader);
                _state = State.Tensors;
                break;
        }
    }

    private void Require(ref Utf8JsonReader reader, Members member, string subject, string name)
    {
        if ((_members & member) == 0)
        {
            ThrowWrong(ref reader, $"{subject} that ends here has no '{name}'");
        }
    }

    private void AddTensor(ref Utf8JsonReader reader)
    {
        if (!_dtype.Span.StartsWith("torch."u8))
        {
            ThrowWrong(ref reader, $"tensor {MessageText.Quote(_name.Span)}: {MessageText.Quote(_dtype.Span)} is no torch dtype");
        }
        const Members SafetensorsMembers = Members.SafetensorsDtype | Members.SafetensorsShape;
        Members given = _members & SafetensorsMembers;
        if (given == Members.None)
        {
            _builder.AddTensor(_name.Span, _dtype.Span, _shape.Span, SlotBytes(ref reader));
        }
        else if (given != SafetensorsMembers)
        {
            ThrowWrong(ref reader, $"tensor {MessageText.Quote(_name.Span)} has only one of 'safetensors_dtype' and 'safetensors_shape'");
        }
        else if (TensorDtypes.TryParseSafetensors(_safetensorsDtype.Span, out TensorDtype dtype))
        {
            long lengthBytes = dtype.ByteLength(_safetensorsShape.Span);
            bool isUInt8 = TensorDtypes.TryParseTorch(_dtype.Span, out TensorDtype carrier) && carrier == TensorDtype.U8;
            if (!isUInt8 || lengthBytes < 0 || lengthBytes != TensorDtype.U8.ByteLength(_shape.Span))
            {
                ThrowWrong(ref reader, $"tensor {MessageText.Quote(_name.Span)}: "
                    + "'safetensors_dtype' and 'safetensors_shape' do not have as many bytes as its torch.uint8 'shape'");
            }
            _builder.AddTensor(_name.Span, dtype, _safetensorsShape.Span, SlotBytes(ref reader));
        }
        else
        {
            // A type that a later version knows: its bytes can be moved all the same.
            _builder.AddTensor(_name.Span, _dtype.Span, _shape.Span, SlotBytes(ref reader));
        }
        if ((_members & Members.Digest) != 0)
        {
            AddDigest(ref reader);
        }
    }

    private void AddDigest(ref Utf8JsonReader reader)
    {
        Span<byte> digest = stackalloc byte[TensorDigest.MaxDigestBytes];
        if (TensorDigest.TryParse(_digest.Span, out DigestAlgorithm algorithm, digest))
        {
            _builder.SetDigest(algorithm, digest[..algorithm.DigestBytes()]);
        }
        else if (algorithm != DigestAlgorithm.None)
        {
            ThrowWrong(ref reader, $"tensor {MessageText.Quote(_name.Span)}: "
                + $"its digest {MessageText.Quote(_digest.Span)} is not {algorithm.DigestBytes() * 2} hex digits");
        }
    }

    private long SlotBytes(ref Utf8JsonReader reader)
    {
        if ((_members & Members.Slot) != 0)
        {
            return _slotBytes;
        }
        _ = TensorDtypes.TryParseTorch(_dtype.Span, out TensorDtype dtype);
        long lengthBytes = dtype == TensorDtype.Unknown ? -1 : dtype.ByteLength(_shape.Span);
        long slotBytes = lengthBytes < 0 ? -1 : MetasLimits.DefaultSlotBytes(lengthBytes);
        if (slotBytes < 0)
        {
            ThrowWrong(ref reader, $"tensor {MessageText.Quote(_name.Span)} has no 'aligned_size', and its type and shape do not give its size");
        }
        return slotBytes;
    }

    private int ParseRank(ref Utf8JsonReader reader, ReadOnlySpan<byte> text)
    {
        bool isRank = text.Length is > 0 and <= 10 && (text[0] != '0' || text.Length == 1);
        long rank = 0;
        foreach (byte digit in isRank ? text : default)
        {
            isRank &= digit is >= (byte)'0' and <= (byte)'9';
            rank = rank * 10 + (digit - '0');
        }
        if (!isRank || rank > int.MaxValue)
        {
            ThrowWrong(ref reader, $"{MessageText.Quote(text)} is no rank: a decimal number below 2^31");
        }
        if (_builder.HasOwner((int)rank))
        {
            ThrowWrong(ref reader, $"rank {rank} is told twice");
        }
        if (_builder.OwnerCount == MetasLimits.MaxOwners)
        {
            ThrowWrong(ref reader, $"more than {MetasLimits.MaxOwners:N0} owners");
        }
        return (int)rank;
    }

    private void Expect(ref Utf8JsonReader reader, JsonTokenType token, string what)
    {
        if (reader.TokenType != token)
        {
            ThrowWrong(ref reader, $"expected {what}, found {Describe(reader.TokenType)}");
        }
    }

    private string? ReadTextOrNull(ref Utf8JsonReader reader, string member)
    {
        if (reader.TokenType == JsonTokenType.Null)
        {
            return null;
        }
        ReadText(ref reader, _text, member);
        return Encoding.UTF8.GetString(_text.Span);
    }

    private void ReadText(ref Utf8JsonReader reader, TextBuffer destination, string member)
    {
        if (reader.TokenType != JsonTokenType.String)
        {
            ThrowWrong(ref reader, $"{member}: expected a string, found {Describe(reader.TokenType)}");
        }
        if (reader.ValueIsEscaped)
        {
            Unescape(ref reader);
            destination.Set(_text.Span);
        }
        else
        {
            if (!Utf8.IsValid(reader.ValueSpan))
            {
                ThrowHelper.ThrowInvalidData(What, _fedBytes + reader.TokenStartIndex, $"{member} is not UTF-8");
            }
            destination.Set(reader.ValueSpan);
        }
        if (destination.Span.Length > MetasLimits.MaxTextBytes)
        {
            ThrowWrong(ref reader, $"{member} of {destination.Span.Length:N0} bytes, more than the {MetasLimits.MaxTextBytes:N0} that are read");
        }
    }

    private void Unescape(ref Utf8JsonReader reader)
    {
        byte[] unescaped = ArrayPool<byte>.Shared.Rent(reader.ValueSpan.Length);
        try
        {
            int length = reader.CopyString(unescaped);
            _text.Set(unescaped.AsSpan(0, length));
        }
        catch (InvalidOperationException failure)
        {
            // How Utf8JsonReader tells that bytes are not UTF-8 or that an escape is half of a surrogate pair.
            ThrowHelper.Throw(CheckpointError.WrongShape, $"{What}: {failure.Message} (at byte {_fedBytes + reader.TokenStartIndex})", failure);
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(unescaped);
        }
    }

    private long ReadInt64(ref Utf8JsonReader reader, string member)
    {
        long value = 0;
        if (reader.TokenType != JsonTokenType.Number || !reader.TryGetInt64(out value) || value < 0)
        {
            ThrowWrong(ref reader, $"{member}: expected a whole number from 0 below 2^63, found {DescribeNumber(ref reader)}");
        }
        return value;
    }

    private ulong ReadUInt64(ref Utf8JsonReader reader, string member)
    {
        ulong value = 0;
        if (reader.TokenType != JsonTokenType.Number || !reader.TryGetUInt64(out value))
        {
            ThrowWrong(ref reader, $"{member}: expected a whole number from 0 below 2^64, found {DescribeNumber(ref reader)}");
        }
        return value;
    }

    [DoesNotReturn]
    private void ThrowWrong(ref Utf8JsonReader reader, string reason)
        => ThrowHelper.ThrowWrongShape(What, _fedBytes + reader.TokenStartIndex, reason);

    private static string DescribeNumber(ref Utf8JsonReader reader)
        => reader.TokenType == JsonTokenType.Number ? MessageText.Quote(reader.ValueSpan) : Describe(reader.TokenType);

    private static string Describe(JsonTokenType token) => token switch
    {
        JsonTokenType.StartObject => "an object",
        JsonTokenType.StartArray => "an array",
        JsonTokenType.String => "a string",
        JsonTokenType.Number => "a number",
        JsonTokenType.True or JsonTokenType.False => "a boolean",
        JsonTokenType.Null => "null",
        _ => "an end",
    };
}
