using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Native;

/// <summary>What servers hold.</summary>
internal static unsafe partial class Exports
{
    [UnmanagedCallersOnly(EntryPoint = "ce_server_register_files", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerRegisterFiles(nint server, byte* name, byte** paths, nuint count, nint cancel)
    {
        try
        {
            RegisterFiles(server, name, paths, count, new RegistrationOptions(), cancel);
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_replace_files", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerReplaceFiles(nint server, byte* name, byte** paths, nuint count, nint cancel)
    {
        try
        {
            RegisterFiles(server, name, paths, count, new RegistrationOptions { Replace = true }, cancel);
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_register_files_with", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerRegisterFilesWith(nint server, byte* name, byte** paths, nuint count, CeRegisterOptions* options, nint cancel)
    {
        try
        {
            Call.Enter();
            CeRegisterOptions given = Call.Options(options, "ce_register_options");
            var parsed = new RegistrationOptions
            {
                Replace = given.Replace != 0,
                SharedPool = Choose<bool?>(given.SharedPool, "shared_pool", null, true, false),
            };
            RegisterFiles(server, name, paths, count, parsed, cancel);
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_register_tensors", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerRegisterTensors(nint server, byte* name, CeTensor* tensors, nuint count)
    {
        try
        {
            Call.Enter();
            ParameterServer found = Server(server);
            string text = Call.Text(name, "name");
            using CallerTensors callers = Tensors(tensors, count);
            found.RegisterTensors(text, callers);
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_begin_update", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerBeginUpdate(nint server, byte* name)
    {
        try
        {
            Call.Enter();
            Server(server).BeginUpdateAsync(Call.Text(name, "name")).GetAwaiter().GetResult();
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_commit_update", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerCommitUpdate(nint server, byte* name)
    {
        try
        {
            Call.Enter();
            Server(server).CommitUpdate(Call.Text(name, "name"));
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_unregister", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerUnregister(nint server, byte* name)
    {
        try
        {
            Unregister(server, name, freeSharedPool: false);
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_server_unregister_force", CallConvs = [typeof(CallConvCdecl)])]
    public static int ServerUnregisterForce(nint server, byte* name)
    {
        try
        {
            Unregister(server, name, freeSharedPool: true);
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    private static void RegisterFiles(nint server, byte* name, byte** paths, nuint count, RegistrationOptions options, nint cancel)
    {
        Call.Enter();
        ParameterServer found = Server(server);
        string text = Call.Text(name, "name");
        string[] files = Texts(paths, count, "paths");
        if (files.Length == 0)
        {
            throw new CallException(Status.Argument, "there are no paths");
        }
        found.RegisterAsync(text, files, options: options, cancellationToken: NativeCancel.Token(cancel)).GetAwaiter().GetResult();
    }

    private static void Unregister(nint server, byte* name, bool freeSharedPool)
    {
        Call.Enter();
        ParameterServer found = Server(server);
        string text = Call.Text(name, "name");
        if (!found.UnregisterAsync(text, freeSharedPool).GetAwaiter().GetResult())
        {
            throw new CheckpointEngineException(CheckpointError.NotFound, $"checkpoint '{text}' is not known here");
        }
    }

    private static CallerTensors Tensors(CeTensor* tensors, nuint count)
    {
        const int MostDimensions = 64;
        if (count == 0)
        {
            throw new CallException(Status.Argument, "there are no tensors");
        }
        Call.NotNull(tensors, "tensors");
        if (count > 1 << 24)
        {
            throw new CallException(Status.Argument, $"{count:N0} tensors are too many");
        }
        var read = new CallerTensors();
        try
        {
            for (nuint i = 0; i < count; i++)
            {
                CeTensor* tensor = tensors + i;
                if (tensor->Name == null)
                {
                    throw new CallException(Status.Argument, $"tensors[{i}].name is NULL");
                }
                ReadOnlySpan<byte> name = MemoryMarshal.CreateReadOnlySpanFromNullTerminated(tensor->Name);
                if (tensor->Rank > MostDimensions || (tensor->Rank != 0 && tensor->Shape == null))
                {
                    throw new CallException(Status.Argument, $"tensor {TensorNames.Quote(name)}: rank is {tensor->Rank}, {(tensor->Shape == null ? "and shape is NULL" : $"and no tensor has more than {MostDimensions}")}");
                }
                var shape = new ReadOnlySpan<long>(tensor->Shape, (int)tensor->Rank);
                read.Add(name, (TensorDtype)Math.Min(tensor->Dtype, byte.MaxValue), shape, (nint)tensor->Data);
                long bytes = ((TensorDtype)tensor->Dtype).ByteLength(shape);
                if (tensor->SizeBytes != 0 && tensor->SizeBytes != (ulong)bytes)
                {
                    throw new CallException(Status.Argument, $"tensor {TensorNames.Quote(name)}: size_bytes is {tensor->SizeBytes:N0}, and dtype and shape make {bytes:N0}");
                }
            }
            return read;
        }
        catch
        {
            read.Dispose();
            throw;
        }
    }
}
