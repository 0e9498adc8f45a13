using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace CheckpointEngine.Native;

/// <summary>The header's section "Version".</summary>
internal static unsafe partial class Exports
{
    private const uint AbiVersion = (0 << 8) | 1;   // 0.1: major in the high 24 bits, minor in the low 8; as in checkpoint_engine.h

    [UnmanagedCallersOnly(EntryPoint = "ce_abi_version", CallConvs = [typeof(CallConvCdecl)])]
    public static uint AbiVersionExport() => AbiVersion;

    [UnmanagedCallersOnly(EntryPoint = "ce_version", CallConvs = [typeof(CallConvCdecl)])]
    public static byte* VersionExport()
        => (byte*)Unsafe.AsPointer(ref MemoryMarshal.GetReference(EngineVersion.Utf8));   // literal data: lives as long as the library
}
