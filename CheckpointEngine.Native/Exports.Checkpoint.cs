using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Native;

/// <summary>Checkpoints in this process's memory.</summary>
internal static unsafe partial class Exports
{
    [UnmanagedCallersOnly(EntryPoint = "ce_checkpoint_tensor_count", CallConvs = [typeof(CallConvCdecl)])]
    public static ulong CheckpointTensorCount(nint checkpoint) => (ulong)((Handles.Find(checkpoint) as NativeCheckpoint)?.Tensors.Count ?? 0);

    [UnmanagedCallersOnly(EntryPoint = "ce_checkpoint_size", CallConvs = [typeof(CallConvCdecl)])]
    public static ulong CheckpointSize(nint checkpoint) => (ulong)((Handles.Find(checkpoint) as NativeCheckpoint)?.DataBytes ?? 0);

    [UnmanagedCallersOnly(EntryPoint = "ce_checkpoint_tensor", CallConvs = [typeof(CallConvCdecl)])]
    public static int CheckpointTensor(nint checkpoint, ulong index, CeTensor* tensor)
    {
        try
        {
            Call.Enter();
            NativeCheckpoint found = Handles.Get<NativeCheckpoint>(checkpoint);
            Call.NotNull(tensor, "tensor");
            int number = Index(index, found.Tensors.Count, "tensor");
            CeTensor.Fill(tensor, found.Tensors, number, found.AddressOf(number));
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_checkpoint_find", CallConvs = [typeof(CallConvCdecl)])]
    public static int CheckpointFind(nint checkpoint, byte* name, CeTensor* tensor)
    {
        try
        {
            Call.Enter();
            NativeCheckpoint found = Handles.Get<NativeCheckpoint>(checkpoint);
            Call.NotNull(name, "name");
            Call.NotNull(tensor, "tensor");
            ReadOnlySpan<byte> utf8 = MemoryMarshal.CreateReadOnlySpanFromNullTerminated(name);
            int number = found.Tensors.IndexOf(utf8);
            if (number < 0)
            {
                _ = Call.Text(name, "name");
                throw new CheckpointEngineException(CheckpointError.NotFound, $"the checkpoint has no tensor {TensorNames.Quote(utf8)}");
            }
            CeTensor.Fill(tensor, found.Tensors, number, found.AddressOf(number));
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_checkpoint_side_file_count", CallConvs = [typeof(CallConvCdecl)])]
    public static ulong CheckpointSideFileCount(nint checkpoint) => (ulong)((Handles.Find(checkpoint) as NativeCheckpoint)?.SideFiles.Count ?? 0);

    [UnmanagedCallersOnly(EntryPoint = "ce_checkpoint_side_file", CallConvs = [typeof(CallConvCdecl)])]
    public static int CheckpointSideFile(nint checkpoint, ulong index, byte* name, nuint* size, void** data, nuint* dataSize)
    {
        try
        {
            Call.Enter();
            NativeCheckpoint found = Handles.Get<NativeCheckpoint>(checkpoint);
            int number = Index(index, found.SideFiles.Count, "side file");
            SideFile file = found.SideFiles[number];
            int status = name == null && size == null ? Ok : Call.Give(file.Name, name, size);
            if (data != null && status == Ok)
            {
                *data = found.SideFileAddress(number);
            }
            if (dataSize != null && status == Ok)
            {
                *dataSize = (nuint)file.Bytes.Length;
            }
            return status;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_checkpoint_destroy", CallConvs = [typeof(CallConvCdecl)])]
    public static int CheckpointDestroy(nint checkpoint)
    {
        try
        {
            Call.Enter();
            if (checkpoint != 0)
            {
                Handles.Remove<NativeCheckpoint>(checkpoint).Destroy();
            }
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    private static nint OpenCheckpoint(ParameterServer server, string name)
    {
        HeldCheckpoint held = server.FindCheckpoint(name)
            ?? throw new CheckpointEngineException(CheckpointError.NotFound, $"checkpoint '{name}' is not held here");
        NativeCheckpoint opened;
        try
        {
            opened = new NativeCheckpoint(held);
        }
        catch (ObjectDisposedException)
        {
            throw new CheckpointEngineException(CheckpointError.NotFound, $"checkpoint '{name}' was just unregistered");
        }
        return Handles.Add(opened);
    }
}
