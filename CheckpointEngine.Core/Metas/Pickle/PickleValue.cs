using System.Buffers.Binary;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Metas.Pickle;

/// <summary>What kind of thing a <see cref="PickleValue"/> is.</summary>
internal enum PickleKind : byte
{
    /// <summary>Python's None.</summary>
    None,

    /// <summary>True or False; nothing in metas is one, but a later field may be.</summary>
    Bool,

    /// <summary>An integer of at most 56 bits: itself.</summary>
    Int,

    /// <summary>A longer integer: the range of its little-endian two's complement in the input.</summary>
    BigInt,

    /// <summary>A string: the range of its UTF-8 in the input.</summary>
    String,

    /// <summary>A tuple: a range of the items.</summary>
    Tuple,

    /// <summary>A <c>torch.Size</c>: a range of the items.</summary>
    Size,

    /// <summary>
    /// A set of strings. Its elements were checked and dropped: metas have none that says more than the fields beside it.
    /// </summary>
    Set,

    /// <summary>A list: its node.</summary>
    List,

    /// <summary>A dict: its node.</summary>
    Dict,

    /// <summary>An object of a model class: its node.</summary>
    Object,

    /// <summary>A model class: a <see cref="PickleModel"/>.</summary>
    Model,

    /// <summary>The class <c>torch.Size</c>.</summary>
    SizeClass,

    /// <summary>The class <c>set</c>.</summary>
    SetClass,

    /// <summary>A <c>torch.dtype</c> that this engine knows: a <see cref="TensorDtype"/>.</summary>
    Dtype,

    /// <summary>Another <c>torch.dtype</c>: the range of its name, without <c>torch.</c>, in the input.</summary>
    OtherDtype,
}

/// <summary>Words for messages.</summary>
internal static class PickleKinds
{
    internal static string InWords(this PickleKind kind) => kind switch
    {
        PickleKind.None => "None",
        PickleKind.Bool => "a bool",
        PickleKind.Int or PickleKind.BigInt => "an integer",
        PickleKind.String => "a string",
        PickleKind.Object => "an object",
        PickleKind.Model => "a model class",
        PickleKind.SizeClass => "the class torch.Size",
        PickleKind.SetClass => "the class set",
        PickleKind.Size => "a torch.Size",
        PickleKind.Dtype or PickleKind.OtherDtype => "a torch.dtype",
        PickleKind.Tuple => "a tuple",
        PickleKind.Set => "a set",
        PickleKind.List => "a list",
        _ => "a dict",
    };
}

/// <summary>The classes of upstream's <c>checkpoint_engine.data_types</c>.</summary>
internal enum PickleModel : byte
{
    MemoryBufferMetaList,
    MemoryBufferMetas,
    ParameterMeta,
}

/// <summary>
/// A Python object in 8 bytes: its kind, and 56 bits that are a number, the index of a node, or a range of at most 2^24 - 1 entries.
/// </summary>
/// <remarks>Copying one shares the object, as in Python: what a memo entry is used for a thousand times over exists once.</remarks>
internal readonly struct PickleValue
{
    internal const int MaxRangeLength = (1 << 24) - 1;

    private readonly long _bits;

    internal PickleValue(PickleKind kind, long payload = 0) => _bits = payload << 8 | (byte)kind;

    internal PickleValue(PickleKind kind, int start, int length) => _bits = (long)start << 32 | (long)length << 8 | (byte)kind;

    internal PickleKind Kind => (PickleKind)(byte)_bits;

    internal long Number => _bits >> 8;

    internal int Node => (int)(_bits >> 8);

    internal int Start => (int)(_bits >> 32);

    internal int Length => (int)(_bits >> 8) & MaxRangeLength;

    /// <summary>The UTF-8 of a string or of a dtype's name; not checked.</summary>
    internal ReadOnlySpan<byte> TextIn(ReadOnlySpan<byte> input) => input.Slice(Start, Length);

    /// <summary>Reads an integer that is not negative and below 2^64; false for everything else.</summary>
    internal bool TryGetNumber(ReadOnlySpan<byte> input, out ulong number)
    {
        if (Kind == PickleKind.Int)
        {
            number = (ulong)Number;
            return Number >= 0;
        }
        if (Kind != PickleKind.BigInt)
        {
            number = 0;
            return false;
        }
        ReadOnlySpan<byte> bytes = input.Slice(Start, Length);
        number = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
        return bytes.Length == 8 ? (long)number >= 0 : bytes[8] == 0;
    }
}
