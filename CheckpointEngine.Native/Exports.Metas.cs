using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Security.Cryptography.X509Certificates;
using CheckpointEngine.Access;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Native;

/// <summary>Metas.</summary>
internal static unsafe partial class Exports
{
    [UnmanagedCallersOnly(EntryPoint = "ce_metas_parse", CallConvs = [typeof(CallConvCdecl)])]
    public static int MetasParse(byte* data, nuint size, nint* metas)
    {
        try
        {
            Begin(metas, "metas");
            Call.NotNull(data, "data");
            if (size > int.MaxValue)
            {
                throw new CallException(Status.Argument, $"a document of {size:N0} bytes is larger than metas can be");
            }
            *metas = Handles.Add(new NativeMetas(MetasDocument.Read(new ReadOnlySpan<byte>(data, (int)size))));
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_metas_fetch", CallConvs = [typeof(CallConvCdecl)])]
    public static int MetasFetch(byte* url, CeFetchOptions* options, nint cancel, nint* metas)
    {
        try
        {
            Begin(metas, "metas");
            string target = Call.Text(url, "url");
            CancellationToken token = NativeCancel.Token(cancel);
            using var source = new MetasSource([target], FetchOptions(options, null));
            CheckpointMetas fetched = Task.Run(() => source.FetchAsync(token), token).GetAwaiter().GetResult();
            *metas = Handles.Add(new NativeMetas(fetched));
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_metas_follow", CallConvs = [typeof(CallConvCdecl)])]
    public static int MetasFollow(byte* url, CeFetchOptions* options, nint known, ulong waitMs, nint cancel, nint* metas)
    {
        try
        {
            Begin(metas, "metas");
            string target = Call.Text(url, "url");
            string? entityTag = known == 0 ? null
                : Handles.Get<NativeMetas>(known).EntityTag ?? throw new CallException(Status.Argument, "the metas that are known did not come from ce_metas_follow");
            if (target.StartsWith("file:", StringComparison.OrdinalIgnoreCase))
            {
                throw new CallException(Status.Argument, $"'{target}' is a file, and nobody tells when it changes");
            }
            CancellationToken token = NativeCancel.Token(cancel);
            using var source = new MetasSource([target], FetchOptions(options, null));
            PublishedMetas? told = Task.Run(() => source.FollowAsync(entityTag, waitMs, token), token).GetAwaiter().GetResult();
            if (told is null)
            {
                return Call.Fail(Status.Pending, $"{target} tells the same metas still");
            }
            *metas = Handles.Add(new NativeMetas(told.Metas, told.EntityTag));
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_metas_write", CallConvs = [typeof(CallConvCdecl)])]
    public static int MetasWrite(nint metas, uint format, void** data, nuint* size)
    {
        try
        {
            Call.Enter();
            NativeMetas found = Handles.Get<NativeMetas>(metas);
            Call.NotNull(data, "data");
            Call.NotNull(size, "size");
            (nint address, int bytes) = found.Write(Choose(format, "format", MetasFormat.Json, MetasFormat.Pickle));
            *data = (void*)address;
            *size = (nuint)bytes;
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_metas_tensor_count", CallConvs = [typeof(CallConvCdecl)])]
    public static ulong MetasTensorCount(nint metas) => (ulong)((Handles.Find(metas) as NativeMetas)?.Metas.Tensors.Count ?? 0);

    [UnmanagedCallersOnly(EntryPoint = "ce_metas_tensor", CallConvs = [typeof(CallConvCdecl)])]
    public static int MetasTensor(nint metas, ulong index, CeTensor* tensor, int* ownerRank)
    {
        try
        {
            Call.Enter();
            NativeMetas found = Handles.Get<NativeMetas>(metas);
            Call.NotNull(tensor, "tensor");
            int number = Index(index, found.Metas.Tensors.Count, "tensor");
            CeTensor.Fill(tensor, found.Metas.Tensors, number, 0);
            if (ownerRank != null)
            {
                *ownerRank = found.RankOf(number);
            }
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_metas_owner_count", CallConvs = [typeof(CallConvCdecl)])]
    public static ulong MetasOwnerCount(nint metas) => (ulong)((Handles.Find(metas) as NativeMetas)?.Metas.Owners.Length ?? 0);

    [UnmanagedCallersOnly(EntryPoint = "ce_metas_owner", CallConvs = [typeof(CallConvCdecl)])]
    public static int MetasOwnerExport(nint metas, ulong index, int* rank, byte* address, nuint* size)
    {
        try
        {
            Call.Enter();
            NativeMetas found = Handles.Get<NativeMetas>(metas);
            MetasOwner owner = found.Metas.Owners[Index(index, found.Metas.Owners.Length, "owner")];
            int status = address == null && size == null ? Ok : Call.Give(owner.P2pStoreAddress ?? "", address, size);
            if (rank != null && status == Ok)
            {
                *rank = owner.Rank;
            }
            return status;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_metas_destroy", CallConvs = [typeof(CallConvCdecl)])]
    public static int MetasDestroy(nint metas)
    {
        try
        {
            Call.Enter();
            if (metas != 0)
            {
                Handles.Remove<NativeMetas>(metas).Dispose();
            }
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    // What is not said is as of the server that joins.
    private static MetasClientOptions FetchOptions(CeFetchOptions* given, ParameterServerOptions? server)
    {
        CeFetchOptions options = Call.Options(given, "ce_fetch_options");
        return new MetasClientOptions
        {
            Token = Call.OptionalText(options.Token, "token") is string token ? AccessToken.FromText(token) : server?.Token,
            CaFile = Call.OptionalText(options.CaFile, "ca_file") ?? server?.ClientTls.CaFile,
            ClientCertificate = ServerGuards.Certificate(options.CertFile, options.KeyFile) ?? (server?.ClientTls.Certificate is { } shown ? new X509Certificate2(shown) : null),
            Timeout = options.TimeoutMs == 0 ? new MetasClientOptions().Timeout : Milliseconds(options.TimeoutMs),
        };
    }

    // A timer holds no more than 49 days; who gives more means "none".
    private static TimeSpan Milliseconds(ulong milliseconds) => milliseconds > int.MaxValue ? Timeout.InfiniteTimeSpan : TimeSpan.FromMilliseconds(milliseconds);

    private static int Index(ulong index, int count, string what)
        => index < (ulong)count ? (int)index : throw new CallException(Status.Argument, $"{what} {index:N0} of {count:N0} is none");

    private static T Choose<T>(uint value, string what, params ReadOnlySpan<T> choices)
        => value < (uint)choices.Length ? choices[(int)value] : throw new CallException(Status.Argument, $"{what} is {value}, and there are 0 to {choices.Length - 1}");
}
