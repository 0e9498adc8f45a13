using System.Buffers;
using System.Text;
using System.Text.Unicode;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Metas.Pickle;

/// <summary>Emits metas through a <see cref="PickleWriter"/> in the order in which CPython walks upstream's objects.</summary>
internal sealed class PickleMetasEmitter(PickleWriter pickle, CheckpointMetas metas)
{
    // _pickle.c: BATCHSIZE, the items that one APPENDS or SETITEMS takes.
    private const int BatchItems = 1000;
    private const int NotEmitted = -1;

    // Strings and globals that come again and again, by their place in the memo.
    private enum Shared : byte
    {
        ModelsModule, TorchModule, SizeModule, Size, Set, Dict, Extra, FieldsSet, Private,
        Address, Buffers, Device, Tensors, Pointer, LengthBytes, Name, Dtype, Shape, Slot, Count,
    }

    private readonly int[] _shared = NewTable((int)Shared.Count);
    private readonly int[] _models = NewTable(3);
    private readonly int[] _dtypes = NewTable((int)TensorDtype.F6E3M2 + 1);
    private readonly Dictionary<string, int> _otherDtypes = [];

    internal void Emit()
    {
        pickle.EmptyDict();
        _ = pickle.Memoize();
        ReadOnlySpan<MetasOwner> owners = metas.Owners;
        if (owners.Length == 1)
        {
            EmitOwner(owners[0]);
            pickle.SetItem();
            return;
        }

        // As _pickle.c does: a last batch may be empty.
        int emitted = 0;
        while (owners.Length != 0)
        {
            int batch = Math.Min(BatchItems, owners.Length - emitted);
            pickle.Mark();
            foreach (MetasOwner owner in owners.Slice(emitted, batch))
            {
                EmitOwner(owner);
            }
            pickle.SetItems();
            emitted += batch;
            if (batch < BatchItems)
            {
                return;
            }
        }
    }

    private void EmitOwner(MetasOwner owner)
    {
        pickle.Integer((ulong)owner.Rank);
        BeginObject(PickleModel.MemoryBufferMetaList);
        Share(Shared.Address);
        Text(owner.P2pStoreAddress);
        Share(Shared.Buffers);
        pickle.EmptyList();
        _ = pickle.Memoize();
        if (owner.Buffers.Length == 1)
        {
            EmitBuffer(owner.Buffers[0]);
            pickle.Append();
        }
        for (int first = 0; owner.Buffers.Length > 1 && first < owner.Buffers.Length; first += BatchItems)
        {
            pickle.Mark();
            foreach (MetasBuffer buffer in owner.Buffers.Slice(first, Math.Min(BatchItems, owner.Buffers.Length - first)))
            {
                EmitBuffer(buffer);
            }
            pickle.Appends();
        }
        Share(Shared.Device);
        Text(owner.RdmaDevice);
        EndObject([Shared.Device, Shared.Address, Shared.Buffers]);
    }

    private void EmitBuffer(in MetasBuffer buffer)
    {
        BeginObject(PickleModel.MemoryBufferMetas);
        Share(Shared.Tensors);
        pickle.EmptyList();
        _ = pickle.Memoize();
        int end = buffer.FirstTensor + buffer.TensorCount;
        if (buffer.TensorCount == 1)
        {
            EmitTensor(buffer.FirstTensor);
            pickle.Append();
        }
        for (int first = buffer.FirstTensor; buffer.TensorCount > 1 && first < end; first += BatchItems)
        {
            pickle.Mark();
            for (int tensor = first; tensor < Math.Min(end, first + BatchItems); tensor++)
            {
                EmitTensor(tensor);
            }
            pickle.Appends();
        }
        Share(Shared.Pointer);
        pickle.Integer(buffer.Address);
        Share(Shared.LengthBytes);
        pickle.Integer((ulong)buffer.SizeBytes);
        EndObject([Shared.LengthBytes, Shared.Tensors, Shared.Pointer]);
    }

    private void EmitTensor(int tensor)
    {
        TensorTable tensors = metas.Tensors;
        BeginObject(PickleModel.ParameterMeta);
        Share(Shared.Name);
        ReadOnlySpan<byte> name = tensors.GetNameUtf8(tensor);
        if (!Utf8.IsValid(name))
        {
            ThrowHelper.Throw(CheckpointError.InvalidData,
                $"{PickleInterpreter.What}: the name {MessageText.Quote(name)} of tensor {tensor} is not UTF-8");
        }
        pickle.String(name);
        _ = pickle.Memoize();
        Share(Shared.Dtype);
        bool isBytes = EmitDtype(tensors, tensor);
        Share(Shared.Shape);
        long lengthBytes = tensors.GetByteLength(tensor);
        EmitShape(isBytes ? new ReadOnlySpan<long>(in lengthBytes) : tensors.GetShape(tensor));
        Share(Shared.Slot);
        pickle.Integer((ulong)tensors.GetSlotBytes(tensor));
        EndObject([Shared.Shape, Shared.Dtype, Shared.Name, Shared.Slot]);
    }

    /// <summary>Emits a tensor's type; whether it is emitted as bytes.</summary>
    private bool EmitDtype(TensorTable tensors, int tensor)
    {
        TensorDtype dtype = tensors.GetDtype(tensor);
        ReadOnlySpan<byte> name = dtype.TorchNameUtf8();
        if (dtype == TensorDtype.Unknown)
        {
            string fullName = tensors.GetDtypeName(tensor);
            if (_otherDtypes.TryGetValue(fullName, out int entry))
            {
                pickle.Get(entry);
                return false;
            }

            // The name may be a stranger's, and who loads this pickle imports what it says.
            byte[] utf8 = Encoding.UTF8.GetBytes(fullName);
            if (utf8.AsSpan().StartsWith("torch."u8) && PickleGlobals.IsDtypeName(utf8.AsSpan("torch."u8.Length)))
            {
                EmitGlobal(Shared.TorchModule, utf8.AsSpan("torch."u8.Length));
                _otherDtypes[fullName] = pickle.Memoize();
                return false;
            }
        }
        bool isBytes = name.IsEmpty;
        ref int known = ref _dtypes[(int)(isBytes ? TensorDtype.U8 : dtype)];
        if (known != NotEmitted)
        {
            pickle.Get(known);
            return isBytes;
        }
        EmitGlobal(Shared.TorchModule, (isBytes ? TensorDtype.U8.TorchNameUtf8() : name)["torch."u8.Length..]);
        known = pickle.Memoize();
        return isBytes;
    }

    private void EmitShape(ReadOnlySpan<long> shape)
    {
        ref int size = ref _shared[(int)Shared.Size];
        if (size != NotEmitted)
        {
            pickle.Get(size);
        }
        else
        {
            EmitGlobal(Shared.SizeModule, "Size"u8);
            size = pickle.Memoize();
        }
        if (shape.IsEmpty)
        {
            pickle.EmptyTuple();
        }
        else
        {
            if (shape.Length > 3)
            {
                pickle.Mark();
            }
            foreach (long dimension in shape)
            {
                pickle.Integer((ulong)dimension);
            }
            pickle.Tuple(shape.Length);
            _ = pickle.Memoize();
        }
        pickle.Tuple(1);
        _ = pickle.Memoize();
        pickle.Reduce();
        _ = pickle.Memoize();
    }

    /// <summary>Emits an object of a model class up to the first of its fields.</summary>
    private void BeginObject(PickleModel model)
    {
        ref int known = ref _models[(int)model];
        if (known != NotEmitted)
        {
            pickle.Get(known);
        }
        else
        {
            EmitGlobal(Shared.ModelsModule, PickleGlobals.NameOf(model));
            known = pickle.Memoize();
        }
        pickle.EmptyTuple();
        pickle.NewObject();
        _ = pickle.Memoize();
        pickle.EmptyDict();
        _ = pickle.Memoize();
        pickle.Mark();
        Share(Shared.Dict);
        pickle.EmptyDict();
        _ = pickle.Memoize();
        pickle.Mark();
    }

    /// <summary>Emits what follows the fields of an object. A set has no order; these are written in that of the golden files.</summary>
    private void EndObject(ReadOnlySpan<Shared> fields)
    {
        pickle.SetItems();
        Share(Shared.Extra);
        pickle.None();
        Share(Shared.FieldsSet);
        if (pickle.Protocol >= 4)
        {
            pickle.EmptySet();
            _ = pickle.Memoize();
            pickle.Mark();
            ShareAll(fields);
            pickle.AddItems();
        }
        else
        {
            ref int set = ref _shared[(int)Shared.Set];
            if (set != NotEmitted)
            {
                pickle.Get(set);
            }
            else
            {
                pickle.Global(pickle.Protocol == 2 ? "__builtin__"u8 : "builtins"u8, "set"u8);
                set = pickle.Memoize();
            }
            pickle.EmptyList();
            _ = pickle.Memoize();
            pickle.Mark();
            ShareAll(fields);
            pickle.Appends();
            pickle.Tuple(1);
            _ = pickle.Memoize();
            pickle.Reduce();
            _ = pickle.Memoize();
        }
        Share(Shared.Private);
        pickle.None();
        pickle.SetItems();
        pickle.Build();
    }

    private void EmitGlobal(Shared module, ReadOnlySpan<byte> name)
    {
        if (pickle.Protocol < 4)
        {
            pickle.Global(TextOf(module), name);
            return;
        }
        Share(module);
        pickle.String(name);
        _ = pickle.Memoize();
        pickle.StackGlobal();
    }

    private void ShareAll(ReadOnlySpan<Shared> strings)
    {
        foreach (Shared shared in strings)
        {
            Share(shared);
        }
    }

    private void Share(Shared shared)
    {
        ref int known = ref _shared[(int)shared];
        if (known != NotEmitted)
        {
            pickle.Get(known);
            return;
        }
        pickle.String(TextOf(shared));
        known = pickle.Memoize();
    }

    private void Text(string? text)
    {
        if (text is null)
        {
            pickle.None();
            return;
        }
        pickle.String(Encoding.UTF8.GetBytes(text));
        _ = pickle.Memoize();
    }

    // Torch's name is there twice, as in CPython: the module that a dtype is found in and the one that torch.Size names are different
    // strings.
    private static ReadOnlySpan<byte> TextOf(Shared shared) => shared switch
    {
        Shared.ModelsModule => PickleGlobals.ModelsModule,
        Shared.TorchModule or Shared.SizeModule => "torch"u8,
        Shared.Dict => "__dict__"u8,
        Shared.Extra => "__pydantic_extra__"u8,
        Shared.FieldsSet => "__pydantic_fields_set__"u8,
        Shared.Private => "__pydantic_private__"u8,
        Shared.Address => "p2p_store_addr"u8,
        Shared.Buffers => "memory_buffer_metas_list"u8,
        Shared.Device => "rdma_device"u8,
        Shared.Tensors => "metas"u8,
        Shared.Pointer => "ptr"u8,
        Shared.LengthBytes => "size"u8,
        Shared.Name => "name"u8,
        Shared.Dtype => "dtype"u8,
        Shared.Shape => "shape"u8,
        Shared.Slot => "aligned_size"u8,
        _ => throw new ArgumentOutOfRangeException(nameof(shared)),
    };

    private static int[] NewTable(int length)
    {
        int[] table = new int[length];
        Array.Fill(table, NotEmitted);
        return table;
    }
}
