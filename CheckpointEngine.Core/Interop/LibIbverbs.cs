using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace CheckpointEngine.Interop;

/// <summary>libibverbs, the library of RDMA verbs: loaded when it is first asked for, and never needed.</summary>
/// <remarks>
/// <para>Every call but <see cref="TryLoad"/> needs that to have succeeded before.</para>
/// <para>A call fails in one of two ways, and its summary says which. <b>Returns errno</b>: 0, or the number itself. <b>Sets errno</b>: null or -1, and the
/// number is then in <see cref="Marshal.GetLastPInvokeError"/>, as with <see cref="Libc"/>.</para>
/// <para>Any thread may call; who destroys an object sees to it that nobody uses it.</para>
/// <para>Values are Linux's on 64-bit little-endian machines. Source: infiniband/verbs.h of rdma-core 44 and the man pages named as the calls are, section 3.</para>
/// </remarks>
internal static unsafe partial class LibIbverbs
{
    private const string Library = "libibverbs.so.1";

    private static readonly Lock s_loading = new();
    private static volatile bool s_loaded;

    // Needed; in every release since 2008.
    private static delegate* unmanaged<int*, IbvDevice**> s_get_device_list;
    private static delegate* unmanaged<IbvDevice**, void> s_free_device_list;
    private static delegate* unmanaged<IbvDevice*, byte*> s_get_device_name;
    private static delegate* unmanaged<IbvDevice*, ulong> s_get_device_guid;
    private static delegate* unmanaged<IbvDevice*, IbvContext*> s_open_device;
    private static delegate* unmanaged<IbvContext*, int> s_close_device;
    private static delegate* unmanaged<IbvContext*, IbvDeviceAttr*, int> s_query_device;
    private static delegate* unmanaged<IbvContext*, byte, IbvPortAttr*, int> s_query_port;
    private static delegate* unmanaged<IbvContext*, byte, int, IbvGid*, int> s_query_gid;
    private static delegate* unmanaged<IbvContext*, IbvPd*> s_alloc_pd;
    private static delegate* unmanaged<IbvPd*, int> s_dealloc_pd;
    private static delegate* unmanaged<IbvPd*, void*, nuint, int, IbvMr*> s_reg_mr;
    private static delegate* unmanaged<IbvMr*, int> s_dereg_mr;
    private static delegate* unmanaged<IbvContext*, IbvCompChannel*> s_create_comp_channel;
    private static delegate* unmanaged<IbvCompChannel*, int> s_destroy_comp_channel;
    private static delegate* unmanaged<IbvContext*, int, void*, IbvCompChannel*, int, IbvCq*> s_create_cq;
    private static delegate* unmanaged<IbvCq*, int> s_destroy_cq;
    private static delegate* unmanaged<IbvCompChannel*, IbvCq**, void**, int> s_get_cq_event;
    private static delegate* unmanaged<IbvCq*, uint, void> s_ack_cq_events;
    private static delegate* unmanaged<IbvPd*, IbvQpInitAttr*, IbvQp*> s_create_qp;
    private static delegate* unmanaged<IbvQp*, IbvQpAttr*, int, int> s_modify_qp;
    private static delegate* unmanaged<IbvQp*, int> s_destroy_qp;
    private static delegate* unmanaged<IbvContext*, IbvAsyncEvent*, int> s_get_async_event;
    private static delegate* unmanaged<IbvAsyncEvent*, void> s_ack_async_event;
    private static delegate* unmanaged<int, byte*> s_wc_status_str;
    private static delegate* unmanaged<int, byte*> s_event_type_str;

    // Null where the library is older.
    private static delegate* unmanaged<IbvPd*, void*, nuint, ulong, uint, IbvMr*> s_reg_mr_iova2;
    private static delegate* unmanaged<IbvPd*, ulong, nuint, ulong, int, int, IbvMr*> s_reg_dmabuf_mr;
    private static delegate* unmanaged<IbvContext*, uint, uint, IbvGidEntry*, uint, nuint, int> s_query_gid_ex;
    private static delegate* unmanaged<IbvContext*, IbvGidEntry*, nuint, uint, nuint, nint> s_query_gid_table;

    /// <summary>Loads the library, once; called again it costs a read. Any thread.</summary>
    /// <param name="reason">Why there is none, and what to install; null when it is there.</param>
    internal static bool TryLoad([NotNullWhen(false)] out string? reason)
    {
        reason = null;
        if (s_loaded)
        {
            return true;
        }
        lock (s_loading)
        {
            if (!s_loaded)
            {
                reason = Load();
                s_loaded = reason is null;
            }
            return s_loaded;
        }
    }

    private static string? Load()
    {
        if (!NativeLibrary.TryLoad(Library, out nint library))
        {
            return $"{Library} is not there, or libnl-3 and libnl-route-3 that it needs are not: install rdma-core "
                + "(Debian and Ubuntu: apt-get install libibverbs1 ibverbs-providers; Fedora and RHEL: dnf install libibverbs rdma-core)";
        }
        string? missing = null;
        s_get_device_list = (delegate* unmanaged<int*, IbvDevice**>)Need("ibv_get_device_list");
        s_free_device_list = (delegate* unmanaged<IbvDevice**, void>)Need("ibv_free_device_list");
        s_get_device_name = (delegate* unmanaged<IbvDevice*, byte*>)Need("ibv_get_device_name");
        s_get_device_guid = (delegate* unmanaged<IbvDevice*, ulong>)Need("ibv_get_device_guid");
        s_open_device = (delegate* unmanaged<IbvDevice*, IbvContext*>)Need("ibv_open_device");
        s_close_device = (delegate* unmanaged<IbvContext*, int>)Need("ibv_close_device");
        s_query_device = (delegate* unmanaged<IbvContext*, IbvDeviceAttr*, int>)Need("ibv_query_device");
        s_query_port = (delegate* unmanaged<IbvContext*, byte, IbvPortAttr*, int>)Need("ibv_query_port");
        s_query_gid = (delegate* unmanaged<IbvContext*, byte, int, IbvGid*, int>)Need("ibv_query_gid");
        s_alloc_pd = (delegate* unmanaged<IbvContext*, IbvPd*>)Need("ibv_alloc_pd");
        s_dealloc_pd = (delegate* unmanaged<IbvPd*, int>)Need("ibv_dealloc_pd");
        s_reg_mr = (delegate* unmanaged<IbvPd*, void*, nuint, int, IbvMr*>)Need("ibv_reg_mr");
        s_dereg_mr = (delegate* unmanaged<IbvMr*, int>)Need("ibv_dereg_mr");
        s_create_comp_channel = (delegate* unmanaged<IbvContext*, IbvCompChannel*>)Need("ibv_create_comp_channel");
        s_destroy_comp_channel = (delegate* unmanaged<IbvCompChannel*, int>)Need("ibv_destroy_comp_channel");
        s_create_cq = (delegate* unmanaged<IbvContext*, int, void*, IbvCompChannel*, int, IbvCq*>)Need("ibv_create_cq");
        s_destroy_cq = (delegate* unmanaged<IbvCq*, int>)Need("ibv_destroy_cq");
        s_get_cq_event = (delegate* unmanaged<IbvCompChannel*, IbvCq**, void**, int>)Need("ibv_get_cq_event");
        s_ack_cq_events = (delegate* unmanaged<IbvCq*, uint, void>)Need("ibv_ack_cq_events");
        s_create_qp = (delegate* unmanaged<IbvPd*, IbvQpInitAttr*, IbvQp*>)Need("ibv_create_qp");
        s_modify_qp = (delegate* unmanaged<IbvQp*, IbvQpAttr*, int, int>)Need("ibv_modify_qp");
        s_destroy_qp = (delegate* unmanaged<IbvQp*, int>)Need("ibv_destroy_qp");
        s_get_async_event = (delegate* unmanaged<IbvContext*, IbvAsyncEvent*, int>)Need("ibv_get_async_event");
        s_ack_async_event = (delegate* unmanaged<IbvAsyncEvent*, void>)Need("ibv_ack_async_event");
        s_wc_status_str = (delegate* unmanaged<int, byte*>)Need("ibv_wc_status_str");
        s_event_type_str = (delegate* unmanaged<int, byte*>)Need("ibv_event_type_str");

        s_reg_mr_iova2 = (delegate* unmanaged<IbvPd*, void*, nuint, ulong, uint, IbvMr*>)Find("ibv_reg_mr_iova2");
        s_reg_dmabuf_mr = (delegate* unmanaged<IbvPd*, ulong, nuint, ulong, int, int, IbvMr*>)Find("ibv_reg_dmabuf_mr");
        s_query_gid_ex = (delegate* unmanaged<IbvContext*, uint, uint, IbvGidEntry*, uint, nuint, int>)Find("_ibv_query_gid_ex");
        s_query_gid_table = (delegate* unmanaged<IbvContext*, IbvGidEntry*, nuint, uint, nuint, nint>)Find("_ibv_query_gid_table");
        return missing is null ? null : $"{Library} was found, but it has no {missing}: it is too old, or something else has that name; install rdma-core anew";

        void* Find(string symbol) => NativeLibrary.TryGetExport(library, symbol, out nint address) ? (void*)address : null;

        void* Need(string symbol)
        {
            void* address = Find(symbol);
            missing ??= address == null ? symbol : null;
            return address;
        }
    }

    /// <summary>Whether memory can be registered with flags that a kernel may pass over, so relaxed ordering: rdma-core 28 (2020).</summary>
    internal static bool HasOptionalAccess => s_reg_mr_iova2 != null;

    /// <summary>Whether memory of devices can be registered by a dma-buf: rdma-core 34 (2021).</summary>
    internal static bool HasDmaBuf => s_reg_dmabuf_mr != null;

    /// <summary>Whether <see cref="ibv_query_gid_ex"/> and <see cref="ibv_query_gid_table"/> are there: rdma-core 32 (2020).</summary>
    internal static bool HasGidEntries => s_query_gid_ex != null && s_query_gid_table != null;

    /// <summary>The devices, ended by null, as the caller's list; null sets errno: ENOSYS where the kernel has no RDMA, EPERM.</summary>
    internal static IbvDevice** ibv_get_device_list(int* num_devices)
    {
        Marshal.SetLastSystemError(0);
        IbvDevice** list = s_get_device_list(num_devices);
        KeepErrno();
        return list;
    }

    /// <summary>Frees a list. Devices of it that were not opened are gone with it.</summary>
    internal static void ibv_free_device_list(IbvDevice** list) => s_free_device_list(list);

    /// <summary>The kernel's name of a device, ended by zero; the device's.</summary>
    internal static byte* ibv_get_device_name(IbvDevice* device) => s_get_device_name(device);

    /// <summary>The GUID of a device's node, in network order; 0 where the kernel does not say.</summary>
    internal static ulong ibv_get_device_guid(IbvDevice* device) => s_get_device_guid(device);

    /// <summary>Opens a device. Null sets errno: EACCES for /dev/infiniband/uverbsN, ENOENT where that is missing.</summary>
    internal static IbvContext* ibv_open_device(IbvDevice* device)
    {
        Marshal.SetLastSystemError(0);
        IbvContext* context = s_open_device(device);
        KeepErrno();
        return context;
    }

    /// <summary>Closes a device, whose objects are to be destroyed before. 0; -1 sets errno.</summary>
    internal static int ibv_close_device(IbvContext* context)
    {
        Marshal.SetLastSystemError(0);
        int result = s_close_device(context);
        KeepErrno();
        return result;
    }

    /// <summary>Reads what a device can do. Returns errno.</summary>
    internal static int ibv_query_device(IbvContext* context, IbvDeviceAttr* device_attr) => s_query_device(context, device_attr);

    /// <summary>Reads the state of a port, counted from 1. Returns errno: EINVAL for a port that is not there.</summary>
    /// <remarks>As the inline function of verbs.h: through the extended context where there is one, for only that fills in the last fields.</remarks>
    internal static int ibv_query_port(IbvContext* context, byte port_num, IbvPortAttr* port_attr)
    {
        var extended = QueryPortOf(context);
        if (extended != null)
        {
            return extended(context, port_num, port_attr, (nuint)sizeof(IbvPortAttr));
        }
        *port_attr = default;
        return s_query_port(context, port_num, port_attr);
    }

    /// <summary>Reads one place of a port's GID table, empty ones too. 0; -1 sets errno, not by every provider.</summary>
    internal static int ibv_query_gid(IbvContext* context, byte port_num, int index, IbvGid* gid)
    {
        Marshal.SetLastSystemError(0);
        int result = s_query_gid(context, port_num, index, gid);
        KeepErrno();
        return result;
    }

    /// <summary>Reads one place of a port's GID table with its type. Returns errno: ENODATA when it is empty, EOPNOTSUPP by an older library.</summary>
    internal static int ibv_query_gid_ex(IbvContext* context, uint port_num, uint gid_index, IbvGidEntry* entry, uint flags)
        => s_query_gid_ex == null ? Libc.EOPNOTSUPP : s_query_gid_ex(context, port_num, gid_index, entry, flags, (nuint)sizeof(IbvGidEntry));

    /// <summary>Reads the GIDs of all ports. Entries filled in, or a negative errno: -EINVAL when they do not fit, -EOPNOTSUPP by an older library.</summary>
    internal static nint ibv_query_gid_table(IbvContext* context, IbvGidEntry* entries, nuint max_entries, uint flags)
        => s_query_gid_table == null ? -Libc.EOPNOTSUPP : s_query_gid_table(context, entries, max_entries, flags, (nuint)sizeof(IbvGidEntry));

    /// <summary>Makes a protection domain; null sets errno.</summary>
    internal static IbvPd* ibv_alloc_pd(IbvContext* context)
    {
        Marshal.SetLastSystemError(0);
        IbvPd* domain = s_alloc_pd(context);
        KeepErrno();
        return domain;
    }

    /// <summary>Frees a protection domain. Returns errno: EBUSY while something of it is left.</summary>
    internal static int ibv_dealloc_pd(IbvPd* pd) => s_dealloc_pd(pd);

    /// <summary>Registers memory: pins it and gives it keys. Null sets errno: ENOMEM above the limit on locked memory or the device's, EFAULT, EINVAL.</summary>
    /// <remarks>As the inline function of verbs.h; flags that kernels may pass over are left away where the library is too old to know of such.</remarks>
    internal static IbvMr* ibv_reg_mr(IbvPd* pd, void* addr, nuint length, int access)
    {
        if ((access & IBV_ACCESS_OPTIONAL_RANGE) != 0 && s_reg_mr_iova2 != null)
        {
            return ibv_reg_mr_iova2(pd, addr, length, (ulong)addr, (uint)access);
        }
        Marshal.SetLastSystemError(0);
        IbvMr* region = s_reg_mr(pd, addr, length, access & ~IBV_ACCESS_OPTIONAL_RANGE);
        KeepErrno();
        return region;
    }

    /// <summary>As <see cref="ibv_reg_mr"/>, the remote side counting from <paramref name="iova"/>. Needs <see cref="HasOptionalAccess"/>.</summary>
    internal static IbvMr* ibv_reg_mr_iova2(IbvPd* pd, void* addr, nuint length, ulong iova, uint access)
    {
        if (s_reg_mr_iova2 == null)
        {
            Marshal.SetLastPInvokeError(Libc.EOPNOTSUPP);
            return null;
        }
        Marshal.SetLastSystemError(0);
        IbvMr* region = s_reg_mr_iova2(pd, addr, length, iova, access);
        KeepErrno();
        return region;
    }

    /// <summary>Registers memory behind a dma-buf. Null sets errno: EOPNOTSUPP or EPROTONOSUPPORT where library, kernel or device cannot, EBADF.</summary>
    internal static IbvMr* ibv_reg_dmabuf_mr(IbvPd* pd, ulong offset, nuint length, ulong iova, int fd, int access)
    {
        if (s_reg_dmabuf_mr == null)
        {
            Marshal.SetLastPInvokeError(Libc.EOPNOTSUPP);
            return null;
        }
        Marshal.SetLastSystemError(0);
        IbvMr* region = s_reg_dmabuf_mr(pd, offset, length, iova, fd, access);
        KeepErrno();
        return region;
    }

    /// <summary>Ends a registration. Returns errno.</summary>
    internal static int ibv_dereg_mr(IbvMr* mr) => s_dereg_mr(mr);

    /// <summary>Makes a channel whose descriptor tells of completions; null sets errno.</summary>
    internal static IbvCompChannel* ibv_create_comp_channel(IbvContext* context)
    {
        Marshal.SetLastSystemError(0);
        IbvCompChannel* channel = s_create_comp_channel(context);
        KeepErrno();
        return channel;
    }

    /// <summary>Frees a channel. Returns errno: EBUSY while a completion queue uses it.</summary>
    internal static int ibv_destroy_comp_channel(IbvCompChannel* channel) => s_destroy_comp_channel(channel);

    /// <summary>Makes a completion queue of at least <paramref name="cqe"/> entries; null sets errno: EINVAL above the device's, ENOMEM.</summary>
    internal static IbvCq* ibv_create_cq(IbvContext* context, int cqe, void* cq_context, IbvCompChannel* channel, int comp_vector)
    {
        Marshal.SetLastSystemError(0);
        IbvCq* queue = s_create_cq(context, cqe, cq_context, channel, comp_vector);
        KeepErrno();
        return queue;
    }

    /// <summary>Frees a completion queue, waiting for its events to be acknowledged. Returns errno: EBUSY while a queue pair uses it.</summary>
    internal static int ibv_destroy_cq(IbvCq* cq) => s_destroy_cq(cq);

    /// <summary>Waits for the next event of a channel, unless its descriptor is non-blocking. 0; -1 sets errno: EAGAIN.</summary>
    internal static int ibv_get_cq_event(IbvCompChannel* channel, IbvCq** cq, void** cq_context)
    {
        Marshal.SetLastSystemError(0);
        int result = s_get_cq_event(channel, cq, cq_context);
        KeepErrno();
        return result;
    }

    /// <summary>Acknowledges events; takes a lock, so many at once are better.</summary>
    internal static void ibv_ack_cq_events(IbvCq* cq, uint nevents) => s_ack_cq_events(cq, nevents);

    /// <summary>Makes a queue pair and writes into <c>cap</c> what it got; null sets errno: EINVAL, ENOMEM, EOPNOTSUPP for a kind that the device lacks.</summary>
    internal static IbvQp* ibv_create_qp(IbvPd* pd, IbvQpInitAttr* qp_init_attr)
    {
        Marshal.SetLastSystemError(0);
        IbvQp* pair = s_create_qp(pd, qp_init_attr);
        KeepErrno();
        return pair;
    }

    /// <summary>Changes the attributes of <paramref name="attr_mask"/>. Returns errno: EINVAL, ETIMEDOUT when an address is not to be resolved.</summary>
    internal static int ibv_modify_qp(IbvQp* qp, IbvQpAttr* attr, int attr_mask) => s_modify_qp(qp, attr, attr_mask);

    /// <summary>Frees a queue pair, waiting for its events to be acknowledged; requests under way are dropped. Returns errno.</summary>
    internal static int ibv_destroy_qp(IbvQp* qp) => s_destroy_qp(qp);

    /// <summary>Waits for the next event of a device, unless <c>async_fd</c> is non-blocking; each is to be acknowledged. 0; -1 sets errno: EAGAIN, EIO.</summary>
    internal static int ibv_get_async_event(IbvContext* context, IbvAsyncEvent* @event)
    {
        Marshal.SetLastSystemError(0);
        int result = s_get_async_event(context, @event);
        KeepErrno();
        return result;
    }

    /// <summary>Acknowledges an event of a device.</summary>
    internal static void ibv_ack_async_event(IbvAsyncEvent* @event) => s_ack_async_event(@event);

    /// <summary>The library's words for a status, ended by zero; the library's.</summary>
    internal static byte* ibv_wc_status_str(int status) => s_wc_status_str(status);

    /// <summary>The library's words for an event of a device, ended by zero; the library's.</summary>
    internal static byte* ibv_event_type_str(int @event) => s_event_type_str(@event);

    // A call through a pointer keeps errno in the thread only, where the next call of the runtime's may change it.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void KeepErrno() => Marshal.SetLastPInvokeError(Marshal.GetLastSystemError());
}
