using System.Collections.Concurrent;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Native;

/// <summary>The functions of checkpoint_engine.h. This part: versions, errors, names, cancelling.</summary>
/// <remarks>Each one catches everything: no exception crosses into the caller.</remarks>
internal static unsafe partial class Exports
{
    private const uint AbiVersion = (0 << 8) | 3;   // 0.3: major in the high 24 bits, minor in the low 8; as in checkpoint_engine.h
    private const int Ok = (int)Status.Ok;

    [UnmanagedCallersOnly(EntryPoint = "ce_abi_version", CallConvs = [typeof(CallConvCdecl)])]
    public static uint AbiVersionExport() => AbiVersion;

    [UnmanagedCallersOnly(EntryPoint = "ce_version", CallConvs = [typeof(CallConvCdecl)])]
    public static byte* VersionExport() => Static(EngineVersion.Utf8);

    [UnmanagedCallersOnly(EntryPoint = "ce_status_name", CallConvs = [typeof(CallConvCdecl)])]
    public static byte* StatusName(int status) => Static(status switch
    {
        0 => "CE_OK"u8,
        -1 => "CE_E_ARGUMENT"u8,
        -2 => "CE_E_HANDLE"u8,
        -3 => "CE_E_STATE"u8,
        -4 => "CE_E_BUFFER_TOO_SMALL"u8,
        -5 => "CE_E_PENDING"u8,
        -6 => "CE_E_CANCELLED"u8,
        -7 => "CE_E_CALLBACK"u8,
        -8 => "CE_E_FORKED"u8,
        -9 => "CE_E_INTERNAL"u8,
        -101 => "CE_E_INVALID_DATA"u8,
        -102 => "CE_E_NOT_FOUND"u8,
        -103 => "CE_E_ALREADY_EXISTS"u8,
        -104 => "CE_E_UNREACHABLE"u8,
        -105 => "CE_E_TIMEOUT"u8,
        -106 => "CE_E_REFUSED"u8,
        -107 => "CE_E_PROTOCOL"u8,
        -108 => "CE_E_DIGEST_MISMATCH"u8,
        -109 => "CE_E_OUT_OF_MEMORY"u8,
        -110 => "CE_E_IO"u8,
        -111 => "CE_E_NOT_SUPPORTED"u8,
        -112 => "CE_E_NATIVE"u8,
        -113 => "CE_E_WRONG_SHAPE"u8,
        -114 => "CE_E_BUSY"u8,
        -115 => "CE_E_SUPERSEDED"u8,
        _ => "CE_E_UNKNOWN"u8,
    });

    [UnmanagedCallersOnly(EntryPoint = "ce_last_error", CallConvs = [typeof(CallConvCdecl)])]
    public static int LastError(byte* buffer, nuint* size)
    {
        string text = Call.LastError;
        try
        {
            int status = Call.Give(text, buffer, size);
            Call.Fail(Status.Ok, text);         // this call does not count as one that failed
            return status;
        }
        catch (CallException failure)
        {
            return (int)failure.Status;
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_dtype_name", CallConvs = [typeof(CallConvCdecl)])]
    public static byte* DtypeName(uint dtype) => (byte*)s_dtypeNames[dtype < (uint)s_dtypeNames.Length ? dtype : 0];

    [UnmanagedCallersOnly(EntryPoint = "ce_dtype_bits", CallConvs = [typeof(CallConvCdecl)])]
    public static uint DtypeBits(uint dtype) => dtype < (uint)s_dtypeNames.Length ? (uint)((TensorDtype)dtype).BitsPerElement() : 0;

    [UnmanagedCallersOnly(EntryPoint = "ce_cancel_create", CallConvs = [typeof(CallConvCdecl)])]
    public static int CancelCreate(nint* cancel)
    {
        try
        {
            Begin(cancel, "cancel");
            *cancel = Handles.Add(new NativeCancel());
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_cancel_trigger", CallConvs = [typeof(CallConvCdecl)])]
    public static int CancelTrigger(nint cancel)
    {
        try
        {
            Call.Enter();
            Handles.Get<NativeCancel>(cancel).Trigger();
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "ce_cancel_destroy", CallConvs = [typeof(CallConvCdecl)])]
    public static int CancelDestroy(nint cancel)
    {
        try
        {
            Call.Enter();
            if (cancel != 0)
            {
                Handles.Remove<NativeCancel>(cancel);
            }
            return Ok;
        }
        catch (Exception failure)
        {
            return Call.Fail(failure);
        }
    }

    // Every call that makes a handle begins so: after a failure it is NULL.
    private static void Begin(nint* handle, string what)
    {
        Call.NotNull(handle, what);
        *handle = 0;
        Call.Enter();
    }

    // Literal data: lives as long as the library, and ends with NUL.
    private static byte* Static(ReadOnlySpan<byte> literal) => (byte*)Unsafe.AsPointer(ref MemoryMarshal.GetReference(literal));

    private static readonly nint[] s_dtypeNames = [.. Enum.GetValues<TensorDtype>().Select(dtype => Keep(dtype.SafetensorsName()))];

    // For text that is made once and never freed.
    private static nint Keep(string text)
    {
        int bytes = Encoding.UTF8.GetByteCount(text);
        byte* kept = (byte*)NativeMemory.AllocZeroed((nuint)bytes + 1);
        Encoding.UTF8.GetBytes(text, new Span<byte>(kept, bytes));
        return (nint)kept;
    }

    private static readonly ConcurrentDictionary<string, nint> s_reasons = new();

    /// <summary>A reason out of a small set, as static text.</summary>
    private static byte* Reason(string? reason) => reason is null ? null : (byte*)s_reasons.GetOrAdd(reason, Keep);
}
