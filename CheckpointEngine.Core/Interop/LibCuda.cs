using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;

namespace CheckpointEngine.Interop;

/// <summary>The driver API of NVIDIA's GPUs, which comes with the driver: loaded when an update wants GPU memory, and never needed otherwise.</summary>
/// <remarks>
/// Every call but <see cref="TryLoad"/> needs that to have succeeded before. Every call gives a CUresult: 0, or what <see cref="Describe"/> puts in words. What
/// works on "the current context" means the calling thread's. Any thread may call. Source: cuda.h of CUDA 12.4 and the Driver API's reference.
/// </remarks>
internal static unsafe class LibCuda
{
    internal const int CUDA_SUCCESS = 0;
    internal const int CUDA_ERROR_OUT_OF_MEMORY = 2;
    internal const int CUDA_ERROR_NO_DEVICE = 100;
    internal const int CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED = 704;
    internal const int CUDA_ERROR_NOT_SUPPORTED = 801;

    internal const int CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED = 113;

    internal const uint CU_STREAM_NON_BLOCKING = 1;
    internal const uint CU_EVENT_BLOCKING_SYNC = 1;
    internal const uint CU_EVENT_DISABLE_TIMING = 2;
    internal const uint CU_MEMHOSTALLOC_PORTABLE = 1;
    internal const uint CU_MEMHOSTREGISTER_PORTABLE = 1;
    internal const uint CU_MEMHOSTREGISTER_READ_ONLY = 8;

    /// <summary>Bytes of a handle by which another process opens memory: CU_IPC_HANDLE_SIZE.</summary>
    internal const int IpcHandleBytes = 64;

    private const string Library = "libcuda.so.1";

    private static readonly Lock s_loading = new();
    private static volatile bool s_loaded;

    private static delegate* unmanaged<uint, int> s_init;
    private static delegate* unmanaged<int, byte**, int> s_get_error_name;
    private static delegate* unmanaged<int, byte**, int> s_get_error_string;
    private static delegate* unmanaged<int*, int> s_device_get_count;
    private static delegate* unmanaged<int*, int, int> s_device_get;
    private static delegate* unmanaged<byte*, int, int, int> s_device_get_name;
    private static delegate* unmanaged<Uuid*, int, int> s_device_get_uuid;
    private static delegate* unmanaged<int*, int, int, int> s_device_get_attribute;
    private static delegate* unmanaged<int*, int, int, int> s_device_can_access_peer;
    private static delegate* unmanaged<void**, int, int> s_device_primary_ctx_retain;
    private static delegate* unmanaged<int, int> s_device_primary_ctx_release;
    private static delegate* unmanaged<void*, int> s_ctx_set_current;
    private static delegate* unmanaged<void*, int> s_ctx_push_current;
    private static delegate* unmanaged<void**, int> s_ctx_pop_current;
    private static delegate* unmanaged<void*, uint, int> s_ctx_enable_peer_access;
    private static delegate* unmanaged<nuint*, nuint*, int> s_mem_get_info;
    private static delegate* unmanaged<ulong*, nuint, int> s_mem_alloc;
    private static delegate* unmanaged<ulong, int> s_mem_free;
    private static delegate* unmanaged<IpcMemHandle*, ulong, int> s_ipc_get_mem_handle;
    private static delegate* unmanaged<void**, nuint, uint, int> s_mem_host_alloc;
    private static delegate* unmanaged<void*, int> s_mem_free_host;
    private static delegate* unmanaged<void*, nuint, uint, int> s_mem_host_register;
    private static delegate* unmanaged<void*, int> s_mem_host_unregister;
    private static delegate* unmanaged<void**, uint, int> s_stream_create;
    private static delegate* unmanaged<void*, int> s_stream_destroy;
    private static delegate* unmanaged<void*, int> s_stream_synchronize;
    private static delegate* unmanaged<void*, void*, uint, int> s_stream_wait_event;
    private static delegate* unmanaged<void**, uint, int> s_event_create;
    private static delegate* unmanaged<void*, int> s_event_destroy;
    private static delegate* unmanaged<void*, void*, int> s_event_record;
    private static delegate* unmanaged<void*, int> s_event_synchronize;
    private static delegate* unmanaged<float*, void*, void*, int> s_event_elapsed_time;
    private static delegate* unmanaged<ulong, void*, nuint, void*, int> s_memcpy_htod_async;
    private static delegate* unmanaged<void*, ulong, nuint, int> s_memcpy_dtoh;
    private static delegate* unmanaged<ulong, void*, ulong, void*, nuint, void*, int> s_memcpy_peer_async;

    /// <summary>Loads the library and starts the driver, once. Any thread.</summary>
    /// <param name="reason">Why it is not to be had, and what to do; null when it is there.</param>
    internal static bool TryLoad([NotNullWhen(false)] out string? reason)
    {
        lock (s_loading)
        {
            reason = s_loaded ? null : Load();
            s_loaded |= reason is null;
            return reason is null;
        }
    }

    private static string? Load()
    {
        if (!NativeLibrary.TryLoad(Library, out nint library))
        {
            return $"{Library} is not on this host: it comes with NVIDIA's driver, and into a container with the NVIDIA Container Toolkit (docker run --gpus all)";
        }
        string? missing = null;
        s_init = (delegate* unmanaged<uint, int>)Need("cuInit");
        s_get_error_name = (delegate* unmanaged<int, byte**, int>)Need("cuGetErrorName");
        s_get_error_string = (delegate* unmanaged<int, byte**, int>)Need("cuGetErrorString");
        s_device_get_count = (delegate* unmanaged<int*, int>)Need("cuDeviceGetCount");
        s_device_get = (delegate* unmanaged<int*, int, int>)Need("cuDeviceGet");
        s_device_get_name = (delegate* unmanaged<byte*, int, int, int>)Need("cuDeviceGetName");
        s_device_get_uuid = (delegate* unmanaged<Uuid*, int, int>)Need("cuDeviceGetUuid_v2");
        s_device_get_attribute = (delegate* unmanaged<int*, int, int, int>)Need("cuDeviceGetAttribute");
        s_device_can_access_peer = (delegate* unmanaged<int*, int, int, int>)Need("cuDeviceCanAccessPeer");
        s_device_primary_ctx_retain = (delegate* unmanaged<void**, int, int>)Need("cuDevicePrimaryCtxRetain");
        s_device_primary_ctx_release = (delegate* unmanaged<int, int>)Need("cuDevicePrimaryCtxRelease_v2");
        s_ctx_set_current = (delegate* unmanaged<void*, int>)Need("cuCtxSetCurrent");
        s_ctx_push_current = (delegate* unmanaged<void*, int>)Need("cuCtxPushCurrent_v2");
        s_ctx_pop_current = (delegate* unmanaged<void**, int>)Need("cuCtxPopCurrent_v2");
        s_ctx_enable_peer_access = (delegate* unmanaged<void*, uint, int>)Need("cuCtxEnablePeerAccess");
        s_mem_get_info = (delegate* unmanaged<nuint*, nuint*, int>)Need("cuMemGetInfo_v2");
        s_mem_alloc = (delegate* unmanaged<ulong*, nuint, int>)Need("cuMemAlloc_v2");
        s_mem_free = (delegate* unmanaged<ulong, int>)Need("cuMemFree_v2");
        s_ipc_get_mem_handle = (delegate* unmanaged<IpcMemHandle*, ulong, int>)Need("cuIpcGetMemHandle");
        s_mem_host_alloc = (delegate* unmanaged<void**, nuint, uint, int>)Need("cuMemHostAlloc");
        s_mem_free_host = (delegate* unmanaged<void*, int>)Need("cuMemFreeHost");
        s_mem_host_register = (delegate* unmanaged<void*, nuint, uint, int>)Need("cuMemHostRegister_v2");
        s_mem_host_unregister = (delegate* unmanaged<void*, int>)Need("cuMemHostUnregister");
        s_stream_create = (delegate* unmanaged<void**, uint, int>)Need("cuStreamCreate");
        s_stream_destroy = (delegate* unmanaged<void*, int>)Need("cuStreamDestroy_v2");
        s_stream_synchronize = (delegate* unmanaged<void*, int>)Need("cuStreamSynchronize");
        s_stream_wait_event = (delegate* unmanaged<void*, void*, uint, int>)Need("cuStreamWaitEvent");
        s_event_create = (delegate* unmanaged<void**, uint, int>)Need("cuEventCreate");
        s_event_destroy = (delegate* unmanaged<void*, int>)Need("cuEventDestroy_v2");
        s_event_record = (delegate* unmanaged<void*, void*, int>)Need("cuEventRecord");
        s_event_synchronize = (delegate* unmanaged<void*, int>)Need("cuEventSynchronize");
        s_event_elapsed_time = (delegate* unmanaged<float*, void*, void*, int>)Need("cuEventElapsedTime");
        s_memcpy_htod_async = (delegate* unmanaged<ulong, void*, nuint, void*, int>)Need("cuMemcpyHtoDAsync_v2");
        s_memcpy_dtoh = (delegate* unmanaged<void*, ulong, nuint, int>)Need("cuMemcpyDtoH_v2");
        s_memcpy_peer_async = (delegate* unmanaged<ulong, void*, ulong, void*, nuint, void*, int>)Need("cuMemcpyPeerAsync");
        if (missing is not null)
        {
            return $"{Library} has no {missing}: the driver is older than CUDA 11.4 (release 470); install a newer one";
        }
        int result = s_init(0);
        return result switch
        {
            CUDA_SUCCESS => null,
            CUDA_ERROR_NO_DEVICE => $"cuInit: {Describe(result)}; see nvidia-smi, and what CUDA_VISIBLE_DEVICES leaves of it",
            _ => $"cuInit: {Describe(result)}; see nvidia-smi: driver and its library must be of one release",
        };

        void* Need(string symbol)
        {
            bool found = NativeLibrary.TryGetExport(library, symbol, out nint address);
            missing ??= found ? null : symbol;
            return (void*)address;
        }
    }

    /// <summary>A result in words, with its name and number.</summary>
    internal static string Describe(int result)
    {
        byte* name = null;
        byte* text = null;
        bool known = s_get_error_name(result, &name) == CUDA_SUCCESS && s_get_error_string(result, &text) == CUDA_SUCCESS;
        return known ? $"{Marshal.PtrToStringUTF8((nint)text)} ({Marshal.PtrToStringUTF8((nint)name)}, {result})" : $"unknown error ({result})";
    }

    /// <summary>Devices that CUDA_VISIBLE_DEVICES leaves.</summary>
    internal static int cuDeviceGetCount(int* count) => s_device_get_count(count);

    /// <summary>The device of an ordinal.</summary>
    internal static int cuDeviceGet(int* device, int ordinal) => s_device_get(device, ordinal);

    /// <summary>A device's name, ended by 0.</summary>
    internal static int cuDeviceGetName(byte* name, int length, int device) => s_device_get_name(name, length, device);

    /// <summary>A device's UUID; of a part of a GPU (MIG) its own.</summary>
    internal static int cuDeviceGetUuid(Uuid* uuid, int device) => s_device_get_uuid(uuid, device);

    /// <summary>A property of a device.</summary>
    internal static int cuDeviceGetAttribute(int* value, int attribute, int device) => s_device_get_attribute(value, attribute, device);

    /// <summary>Whether contexts of a device may read another's memory directly.</summary>
    internal static int cuDeviceCanAccessPeer(int* can, int device, int peer) => s_device_can_access_peer(can, device, peer);

    /// <summary>Takes a reference on the context that all users of a device in this process share.</summary>
    internal static int cuDevicePrimaryCtxRetain(void** context, int device) => s_device_primary_ctx_retain(context, device);

    /// <summary>Gives it back; the last one ends the context.</summary>
    internal static int cuDevicePrimaryCtxRelease(int device) => s_device_primary_ctx_release(device);

    /// <summary>Makes a context the calling thread's; null: none.</summary>
    internal static int cuCtxSetCurrent(void* context) => s_ctx_set_current(context);

    /// <summary>The same, on top of what the thread has.</summary>
    internal static int cuCtxPushCurrent(void* context) => s_ctx_push_current(context);

    /// <summary>Takes the top context off the calling thread.</summary>
    internal static int cuCtxPopCurrent(void** context) => s_ctx_pop_current(context);

    /// <summary>Lets the current context reach another's memory.</summary>
    internal static int cuCtxEnablePeerAccess(void* peer, uint flags) => s_ctx_enable_peer_access(peer, flags);

    /// <summary>Bytes of the current context's device, free and all.</summary>
    internal static int cuMemGetInfo(nuint* free, nuint* total) => s_mem_get_info(free, total);

    /// <summary>Allocates device memory in the current context.</summary>
    internal static int cuMemAlloc(ulong* address, nuint bytes) => s_mem_alloc(address, bytes);

    /// <summary>Frees it; waits for what uses it.</summary>
    internal static int cuMemFree(ulong address) => s_mem_free(address);

    /// <summary>What another process opens an allocation by.</summary>
    internal static int cuIpcGetMemHandle(IpcMemHandle* handle, ulong address) => s_ipc_get_mem_handle(handle, address);

    /// <summary>Allocates host memory that devices can read.</summary>
    internal static int cuMemHostAlloc(void** address, nuint bytes, uint flags) => s_mem_host_alloc(address, bytes, flags);

    /// <summary>Frees what <see cref="cuMemHostAlloc"/> gave.</summary>
    internal static int cuMemFreeHost(void* address) => s_mem_free_host(address);

    /// <summary>Pins host memory in place, so that devices can read it.</summary>
    internal static int cuMemHostRegister(void* address, nuint bytes, uint flags) => s_mem_host_register(address, bytes, flags);

    /// <summary>Ends that; the address is the one that was registered.</summary>
    internal static int cuMemHostUnregister(void* address) => s_mem_host_unregister(address);

    /// <summary>Makes a queue of work in the current context.</summary>
    internal static int cuStreamCreate(void** stream, uint flags) => s_stream_create(stream, flags);

    /// <summary>Ends a queue once it is empty.</summary>
    internal static int cuStreamDestroy(void* stream) => s_stream_destroy(stream);

    /// <summary>Waits until a queue is empty.</summary>
    internal static int cuStreamSynchronize(void* stream) => s_stream_synchronize(stream);

    /// <summary>Holds what comes behind it in a queue until an event, which may be another device's.</summary>
    internal static int cuStreamWaitEvent(void* stream, void* waitFor, uint flags) => s_stream_wait_event(stream, waitFor, flags);

    /// <summary>Makes an event in the current context.</summary>
    internal static int cuEventCreate(void** made, uint flags) => s_event_create(made, flags);

    /// <summary>Ends an event.</summary>
    internal static int cuEventDestroy(void* ended) => s_event_destroy(ended);

    /// <summary>Lets an event happen once all that is in a queue is done.</summary>
    internal static int cuEventRecord(void* recorded, void* stream) => s_event_record(recorded, stream);

    /// <summary>Waits for an event; one that was never recorded has happened.</summary>
    internal static int cuEventSynchronize(void* waitedFor) => s_event_synchronize(waitedFor);

    /// <summary>Milliseconds between two events that have happened, neither made with <see cref="CU_EVENT_DISABLE_TIMING"/>.</summary>
    internal static int cuEventElapsedTime(float* milliseconds, void* start, void* end) => s_event_elapsed_time(milliseconds, start, end);

    /// <summary>Queues a copy from host to device; asynchronous for pinned memory of one registration.</summary>
    internal static int cuMemcpyHtoDAsync(ulong destination, void* source, nuint bytes, void* stream) => s_memcpy_htod_async(destination, source, bytes, stream);

    /// <summary>Copies from device to host, and waits.</summary>
    internal static int cuMemcpyDtoH(void* destination, ulong source, nuint bytes) => s_memcpy_dtoh(destination, source, bytes);

    /// <summary>Queues a copy between two devices' memory.</summary>
    internal static int cuMemcpyPeerAsync(ulong destination, void* destinationContext, ulong source, void* sourceContext, nuint bytes, void* stream)
        => s_memcpy_peer_async(destination, destinationContext, source, sourceContext, bytes, stream);

    /// <summary><c>CUuuid</c>: 16 bytes, as they are written.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct Uuid
    {
        internal ulong first;
        internal ulong second;
    }

    /// <summary><c>CUipcMemHandle</c>.</summary>
    [StructLayout(LayoutKind.Sequential, Size = IpcHandleBytes)]
    internal struct IpcMemHandle
    {
        internal fixed byte reserved[IpcHandleBytes];
    }
}
