using System.Buffers;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Metas.Pickle;

/// <summary>The globals that a pickle of metas may name, and how its writer names them.</summary>
internal static class PickleGlobals
{
    private static readonly PickleModel[] s_models = [PickleModel.ParameterMeta, PickleModel.MemoryBufferMetas, PickleModel.MemoryBufferMetaList];

    private static readonly SearchValues<byte> s_dtypeLetters = SearchValues.Create("abcdefghijklmnopqrstuvwxyz0123456789_"u8);

    /// <summary>Where upstream's model classes are.</summary>
    internal static ReadOnlySpan<byte> ModelsModule => "checkpoint_engine.data_types"u8;

    /// <summary>Finds a global; false for every one that is not of metas.</summary>
    internal static bool TryFind(ReadOnlySpan<byte> module, ReadOnlySpan<byte> name, out PickleValue value)
    {
        if (module.SequenceEqual(ModelsModule))
        {
            foreach (PickleModel model in s_models)
            {
                if (name.SequenceEqual(NameOf(model)))
                {
                    value = new PickleValue(PickleKind.Model, (long)model);
                    return true;
                }
            }
        }
        else if (module.SequenceEqual("torch"u8))
        {
            value = name.SequenceEqual("Size"u8) ? new PickleValue(PickleKind.SizeClass)
                : TryFindDtype(name, out TensorDtype dtype) ? new PickleValue(PickleKind.Dtype, (long)dtype)
                : new PickleValue(PickleKind.OtherDtype);
            return value.Kind != PickleKind.OtherDtype || IsDtypeName(name);
        }
        else if (name.SequenceEqual("set"u8) && (module.SequenceEqual("builtins"u8) || module.SequenceEqual("__builtin__"u8)))
        {
            value = new PickleValue(PickleKind.SetClass);
            return true;
        }
        value = default;
        return false;
    }

    /// <summary>The name of a model class.</summary>
    internal static ReadOnlySpan<byte> NameOf(PickleModel model) => model switch
    {
        PickleModel.MemoryBufferMetaList => "MemoryBufferMetaList"u8,
        PickleModel.MemoryBufferMetas => "MemoryBufferMetas"u8,
        _ => "ParameterMeta"u8,
    };

    /// <summary>
    /// Whether torch would give a dtype this name: a family, its width in bits, and what tells it from others of that width. Everything
    /// else in torch is a function, a module or a class, which no pickle that this engine reads or writes may name.
    /// </summary>
    internal static bool IsDtypeName(ReadOnlySpan<byte> name)
    {
        int family = name.IndexOfAnyInRange((byte)'0', (byte)'9');
        if (family <= 0 || name.Length > 64 || name.ContainsAnyExcept(s_dtypeLetters))
        {
            return false;
        }
        ReadOnlySpan<byte> word = name[..family];
        return word.SequenceEqual("float"u8) || word.SequenceEqual("bfloat"u8) || word.SequenceEqual("int"u8) || word.SequenceEqual("uint"u8)
            || word.SequenceEqual("complex"u8) || word.SequenceEqual("bits"u8) || word.SequenceEqual("qint"u8) || word.SequenceEqual("quint"u8);
    }

    private static bool TryFindDtype(ReadOnlySpan<byte> name, out TensorDtype dtype)
    {
        Span<byte> full = stackalloc byte[32];
        if (name.Length > full.Length - "torch."u8.Length)
        {
            dtype = TensorDtype.Unknown;
            return false;
        }
        "torch."u8.CopyTo(full);
        name.CopyTo(full["torch."u8.Length..]);
        return TensorDtypes.TryParseTorch(full[..("torch."u8.Length + name.Length)], out dtype);
    }
}
