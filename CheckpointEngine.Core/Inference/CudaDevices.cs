using System.Buffers.Binary;
using System.Runtime.InteropServices;
using CheckpointEngine.Internal;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Inference;

/// <summary>The GPUs of this host that the driver shows this process.</summary>
internal static unsafe class CudaDevices
{
    private const int NameBytes = 256;

    /// <summary>Whether there is a driver and a device.</summary>
    /// <param name="reason">Why not; null when there is.</param>
    internal static bool IsSupported(out string? reason)
    {
        if (!LibCuda.TryLoad(out reason))
        {
            return false;
        }
        int count;
        int result = LibCuda.cuDeviceGetCount(&count);
        reason = result != LibCuda.CUDA_SUCCESS ? $"cuDeviceGetCount: {LibCuda.Describe(result)}"
            : count == 0 ? "the driver shows no GPU; see nvidia-smi, and what CUDA_VISIBLE_DEVICES leaves of it"
            : null;
        return reason is null;
    }

    /// <summary>Takes the first <paramref name="count"/> of the devices that CUDA_VISIBLE_DEVICES leaves, in its order, which is the order of a server's workers.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>: no driver, no device, or too few; what the driver says.</exception>
    internal static IUpdateDevice[] Make(int count)
    {
        if (!IsSupported(out string? reason))
        {
            ThrowHelper.Throw(CheckpointError.NotSupported,
                $"update: buffers in GPU memory need a GPU of NVIDIA: {reason}; or hand the weights over as files (--engine vllm-files, sglang-files), which needs none");
        }
        string[] names = Names();
        if (count > names.Length)
        {
            string? limit = Environment.GetEnvironmentVariable("CUDA_VISIBLE_DEVICES");
            ThrowHelper.Throw(CheckpointError.NotSupported,
                $"update: {count} workers want a GPU each, and this process sees {names.Length}{(limit is null ? "" : $" (CUDA_VISIBLE_DEVICES={limit})")}; give it the GPUs of the server, or check --inference-parallel-size");
        }
        var pins = new CudaHostPins();
        if (CudaStaging.IsFaster)
        {
            pins.PrepareStagingMemory();
        }
        var devices = new CudaUpdateDevice[count];
        try
        {
            for (int i = 0; i < count; i++)
            {
                int device;
                CudaContext.Check(LibCuda.cuDeviceGet(&device, i), "cuDeviceGet", $"GPU {i}");
                devices[i] = new CudaUpdateDevice(names[i], new CudaContext(device, names[i]), pins, i == 0 ? null : devices[0]);
            }
            return devices;
        }
        catch
        {
            foreach (CudaUpdateDevice? device in devices)
            {
                device?.Dispose();
            }
            throw;
        }
    }

    /// <summary>What servers call the devices, in order.</summary>
    internal static string[] Names()
    {
        int count;
        CudaContext.Check(LibCuda.cuDeviceGetCount(&count), "cuDeviceGetCount", "this host");
        var names = new string[count];
        for (int i = 0; i < count; i++)
        {
            int device;
            CudaContext.Check(LibCuda.cuDeviceGet(&device, i), "cuDeviceGet", $"GPU {i}");
            names[i] = ReadUuid(device);
        }
        return names;
    }

    /// <summary>As NVML, and so the servers, write it.</summary>
    internal static string FormatUuid(LibCuda.Uuid uuid, bool isPart)
    {
        Span<byte> bytes = stackalloc byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, uuid.first);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes[8..], uuid.second);
        return $"{(isPart ? "MIG" : "GPU")}-{new Guid(bytes, bigEndian: true):D}";
    }

    /// <summary>Whether a device is a part of a GPU: the driver says so in its name only, "NVIDIA A100-SXM4-40GB MIG 1g.5gb".</summary>
    internal static bool IsPart(string name) => name.Contains(" MIG ", StringComparison.Ordinal);

    private static string ReadUuid(int device)
    {
        LibCuda.Uuid uuid;
        CudaContext.Check(LibCuda.cuDeviceGetUuid(&uuid, device), "cuDeviceGetUuid", $"GPU {device}");
        byte* name = stackalloc byte[NameBytes];
        CudaContext.Check(LibCuda.cuDeviceGetName(name, NameBytes, device), "cuDeviceGetName", $"GPU {device}");
        return FormatUuid(uuid, IsPart(Marshal.PtrToStringUTF8((nint)name) ?? ""));
    }
}
