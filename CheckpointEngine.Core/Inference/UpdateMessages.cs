using System.Buffers;
using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas.Pickle;

namespace CheckpointEngine.Inference;

/// <summary>What workers are sent: pickles of plain objects, written and never read here.</summary>
internal static class UpdateMessages
{
    // What pyzmq's send_pyobj writes at the time of the oldest workers; every Python 3.8 and later reads it.
    private const int Protocol = 4;

    /// <summary>The buffer, as a function and its arguments.</summary>
    internal static void WriteHandle(IBufferWriter<byte> output, IUpdateBuffer buffer)
    {
        using var pickle = new PickleWriter(output, Protocol);
        buffer.WriteHandle(pickle);
        pickle.Stop();
    }

    /// <summary>The end.</summary>
    internal static void WriteNone(IBufferWriter<byte> output)
    {
        using var pickle = new PickleWriter(output, Protocol);
        pickle.None();
        pickle.Stop();
    }

    /// <summary>An exception that the worker raises.</summary>
    internal static void WriteException(IBufferWriter<byte> output, string text)
    {
        using var pickle = new PickleWriter(output, Protocol);
        pickle.StackGlobal("builtins"u8, "RuntimeError"u8);
        pickle.String(Encoding.UTF8.GetBytes(text));
        pickle.Tuple(1);
        pickle.Reduce();
        pickle.Stop();
    }

    /// <summary>The tensors of a bucket: name, type, shape, and where from the buffer's start.</summary>
    /// <param name="output">Receives the pickle.</param>
    /// <param name="tensors">All tensors.</param>
    /// <param name="layout">Which of them, and where in their half.</param>
    /// <param name="bucket">The bucket.</param>
    /// <param name="halfOffset">Bytes from the buffer's start to the half it lies in.</param>
    internal static void WriteBucket(IBufferWriter<byte> output, TensorTable tensors, BucketLayout layout, int bucket, long halfOffset)
    {
        using var pickle = new PickleWriter(output, Protocol);
        Span<int> keys = stackalloc int[4];
        keys.Fill(-1);
        Span<int> dtypes = stackalloc int[32];
        dtypes.Fill(-1);
        int size = -1;
        pickle.EmptyList();
        pickle.Mark();
        int first = layout.FirstTensor(bucket);
        for (int tensor = first; tensor < first + layout.TensorCount(bucket); tensor++)
        {
            pickle.EmptyDict();
            pickle.Mark();
            WriteOnce(pickle, "name"u8, ref keys[0]);
            pickle.String(tensors.GetNameUtf8(tensor));
            WriteOnce(pickle, "dtype"u8, ref keys[1]);
            bool flat = WriteDtype(pickle, tensors, tensor, dtypes, out bool isPacked);
            WriteOnce(pickle, "shape"u8, ref keys[2]);
            WriteShape(pickle, tensors, tensor, flat, isPacked, ref size);
            WriteOnce(pickle, "offset"u8, ref keys[3]);
            pickle.Integer((ulong)(halfOffset + layout.OffsetOf(tensor)));
            pickle.SetItems();
        }
        pickle.Appends();
        pickle.Stop();
    }

    private static void WriteOnce(PickleWriter pickle, ReadOnlySpan<byte> key, ref int entry)
    {
        if (entry >= 0)
        {
            pickle.Get(entry);
            return;
        }
        pickle.String(key);
        entry = pickle.Memoize();
    }

    // Types that torch lacks travel as their bytes; two elements of 4 bits are one, as files of such models count them elsewhere.
    private static bool WriteDtype(PickleWriter pickle, TensorTable tensors, int tensor, Span<int> entries, out bool isPacked)
    {
        TensorDtype dtype = tensors.GetDtype(tensor);
        ReadOnlySpan<byte> name = dtype.TorchNameUtf8();
        ReadOnlySpan<long> shape = tensors.GetShape(tensor);
        isPacked = dtype == TensorDtype.F4 && shape.Length != 0 && shape[^1] % 2 == 0;
        Span<byte> unknown = stackalloc byte[64];
        if (dtype == TensorDtype.Unknown && UnknownTorchName(tensors.GetDtypeName(tensor), unknown) is > 0 and int length)
        {
            pickle.StackGlobal("torch"u8, unknown[..length]);     // rare: not worth an entry
            return false;
        }
        bool flat = name.Length == 0 && !isPacked;
        if (name.Length == 0)
        {
            dtype = TensorDtype.U8;
            name = dtype.TorchNameUtf8();
        }
        ref int entry = ref entries[(int)dtype];
        if (entry >= 0)
        {
            pickle.Get(entry);
        }
        else
        {
            pickle.StackGlobal("torch"u8, name["torch."u8.Length..]);
            entry = pickle.Memoize();
        }
        return flat;
    }

    // A name that came with metas goes into a pickle as a global of torch: only one that can be a type's.
    private static int UnknownTorchName(string name, Span<byte> utf8)
    {
        const string Prefix = "torch.";
        return name.StartsWith(Prefix, StringComparison.Ordinal) && Encoding.UTF8.TryGetBytes(name.AsSpan(Prefix.Length), utf8, out int length) && PickleGlobals.IsDtypeName(utf8[..length])
            ? length
            : 0;
    }

    private static void WriteShape(PickleWriter pickle, TensorTable tensors, int tensor, bool flat, bool isPacked, ref int size)
    {
        if (size >= 0)
        {
            pickle.Get(size);
        }
        else
        {
            pickle.StackGlobal("torch"u8, "Size"u8);
            size = pickle.Memoize();
        }
        ReadOnlySpan<long> shape = tensors.GetShape(tensor);
        if (flat)
        {
            pickle.Integer((ulong)tensors.GetByteLength(tensor));
            pickle.Tuple(1);
        }
        else if (shape.Length == 0)
        {
            pickle.EmptyTuple();
        }
        else
        {
            if (shape.Length > 3)
            {
                pickle.Mark();
            }
            for (int i = 0; i < shape.Length; i++)
            {
                pickle.Integer((ulong)(isPacked && i == shape.Length - 1 ? shape[i] / 2 : shape[i]));
            }
            pickle.Tuple(shape.Length);
        }
        pickle.Tuple(1);
        pickle.Reduce();
    }
}
