using System.Runtime.InteropServices;

namespace CheckpointEngine.Interop;

/// <summary>The structs of verbs.h, release 44, for 64-bit processors.</summary>
/// <remarks>What the library makes and ends in a lock (context, queue pair, completion queue) is declared up to the lock: its size differs by processor.</remarks>
internal static unsafe partial class LibIbverbs
{
    /// <summary><c>union ibv_gid</c>.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 16)]
    internal struct IbvGid
    {
        [FieldOffset(0)]
        internal fixed byte raw[16];

        /// <summary>In network order.</summary>
        [FieldOffset(0)]
        internal ulong subnet_prefix;

        /// <summary>In network order.</summary>
        [FieldOffset(8)]
        internal ulong interface_id;
    }

    /// <summary><c>struct ibv_gid_entry</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvGidEntry
    {
        internal IbvGid gid;
        internal uint gid_index;
        internal uint port_num;
        internal uint gid_type;
        internal uint ndev_ifindex;
    }

    /// <summary><c>struct ibv_device</c>; names are ended by zero.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvDevice
    {
        internal void* _dummy1;
        internal void* _dummy2;
        internal int node_type;
        internal int transport_type;
        internal fixed byte name[IBV_SYSFS_NAME_MAX];
        internal fixed byte dev_name[IBV_SYSFS_NAME_MAX];
        internal fixed byte dev_path[IBV_SYSFS_PATH_MAX];
        internal fixed byte ibdev_path[IBV_SYSFS_PATH_MAX];
    }

    /// <summary><c>struct ibv_context_ops</c>; those that the inline functions call have their types.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvContextOps
    {
        internal void* _compat_query_device;
        internal void* _compat_query_port;
        internal void* _compat_alloc_pd;
        internal void* _compat_dealloc_pd;
        internal void* _compat_reg_mr;
        internal void* _compat_rereg_mr;
        internal void* _compat_dereg_mr;
        internal void* alloc_mw;
        internal void* bind_mw;
        internal void* dealloc_mw;
        internal void* _compat_create_cq;
        internal delegate* unmanaged<IbvCq*, int, IbvWc*, int> poll_cq;
        internal delegate* unmanaged<IbvCq*, int, int> req_notify_cq;
        internal void* _compat_cq_event;
        internal void* _compat_resize_cq;
        internal void* _compat_destroy_cq;
        internal void* _compat_create_srq;
        internal void* _compat_modify_srq;
        internal void* _compat_query_srq;
        internal void* _compat_destroy_srq;
        internal void* post_srq_recv;
        internal void* _compat_create_qp;
        internal void* _compat_query_qp;
        internal void* _compat_modify_qp;
        internal void* _compat_destroy_qp;
        internal delegate* unmanaged<IbvQp*, IbvSendWr*, IbvSendWr**, int> post_send;
        internal void* post_recv;
        internal void* _compat_create_ah;
        internal void* _compat_destroy_ah;
        internal void* _compat_attach_mcast;
        internal void* _compat_detach_mcast;
        internal void* _compat_async_event;
    }

    /// <summary><c>struct ibv_context</c> up to its mutex, behind which stands <c>abi_compat</c> (<see cref="AbiCompatOffset"/>).</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvContext
    {
        internal IbvDevice* device;
        internal IbvContextOps ops;
        internal int cmd_fd;
        internal int async_fd;
        internal int num_comp_vectors;
    }

    /// <summary><c>struct ibv_device_attr</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvDeviceAttr
    {
        internal fixed byte fw_ver[64];

        /// <summary>In network order.</summary>
        internal ulong node_guid;

        /// <summary>In network order.</summary>
        internal ulong sys_image_guid;
        internal ulong max_mr_size;
        internal ulong page_size_cap;
        internal uint vendor_id;
        internal uint vendor_part_id;
        internal uint hw_ver;
        internal int max_qp;
        internal int max_qp_wr;
        internal uint device_cap_flags;
        internal int max_sge;
        internal int max_sge_rd;
        internal int max_cq;
        internal int max_cqe;
        internal int max_mr;
        internal int max_pd;
        internal int max_qp_rd_atom;
        internal int max_ee_rd_atom;
        internal int max_res_rd_atom;
        internal int max_qp_init_rd_atom;
        internal int max_ee_init_rd_atom;
        internal int atomic_cap;
        internal int max_ee;
        internal int max_rdd;
        internal int max_mw;
        internal int max_raw_ipv6_qp;
        internal int max_raw_ethy_qp;
        internal int max_mcast_grp;
        internal int max_mcast_qp_attach;
        internal int max_total_mcast_qp_attach;
        internal int max_ah;
        internal int max_fmr;
        internal int max_map_per_fmr;
        internal int max_srq;
        internal int max_srq_wr;
        internal int max_srq_sge;
        internal ushort max_pkeys;
        internal byte local_ca_ack_delay;
        internal byte phys_port_cnt;
    }

    /// <summary><c>struct ibv_port_attr</c>; <c>state</c> IBV_PORT_*, the MTUs IBV_MTU_*, <c>link_layer</c> IBV_LINK_LAYER_*.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvPortAttr
    {
        internal int state;
        internal int max_mtu;
        internal int active_mtu;
        internal int gid_tbl_len;
        internal uint port_cap_flags;
        internal uint max_msg_sz;
        internal uint bad_pkey_cntr;
        internal uint qkey_viol_cntr;
        internal ushort pkey_tbl_len;
        internal ushort lid;
        internal ushort sm_lid;
        internal byte lmc;
        internal byte max_vl_num;
        internal byte sm_sl;
        internal byte subnet_timeout;
        internal byte init_type_reply;
        internal byte active_width;
        internal byte active_speed;
        internal byte phys_state;
        internal byte link_layer;
        internal byte flags;
        internal ushort port_cap_flags2;
    }

    /// <summary><c>struct ibv_pd</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvPd
    {
        internal IbvContext* context;
        internal uint handle;
    }

    /// <summary><c>struct ibv_mr</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvMr
    {
        internal IbvContext* context;
        internal IbvPd* pd;
        internal void* addr;
        internal nuint length;
        internal uint handle;
        internal uint lkey;
        internal uint rkey;
    }

    /// <summary><c>struct ibv_comp_channel</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvCompChannel
    {
        internal IbvContext* context;
        internal int fd;
        internal int refcnt;
    }

    /// <summary><c>struct ibv_cq</c> up to its mutex.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvCq
    {
        internal IbvContext* context;
        internal IbvCompChannel* channel;
        internal void* cq_context;
        internal uint handle;
        internal int cqe;
    }

    /// <summary><c>struct ibv_qp</c> up to its mutex.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvQp
    {
        internal IbvContext* context;
        internal void* qp_context;
        internal IbvPd* pd;
        internal IbvCq* send_cq;
        internal IbvCq* recv_cq;
        internal void* srq;
        internal uint handle;
        internal uint qp_num;
        internal int state;
        internal int qp_type;
    }

    /// <summary><c>struct ibv_qp_cap</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvQpCap
    {
        internal uint max_send_wr;
        internal uint max_recv_wr;
        internal uint max_send_sge;
        internal uint max_recv_sge;
        internal uint max_inline_data;
    }

    /// <summary><c>struct ibv_qp_init_attr</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvQpInitAttr
    {
        internal void* qp_context;
        internal IbvCq* send_cq;
        internal IbvCq* recv_cq;
        internal void* srq;
        internal IbvQpCap cap;
        internal int qp_type;
        internal int sq_sig_all;
    }

    /// <summary><c>struct ibv_global_route</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvGlobalRoute
    {
        internal IbvGid dgid;
        internal uint flow_label;
        internal byte sgid_index;
        internal byte hop_limit;
        internal byte traffic_class;
    }

    /// <summary><c>struct ibv_ah_attr</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvAhAttr
    {
        internal IbvGlobalRoute grh;
        internal ushort dlid;
        internal byte sl;
        internal byte src_path_bits;
        internal byte static_rate;
        internal byte is_global;
        internal byte port_num;
    }

    /// <summary><c>struct ibv_qp_attr</c>; states IBV_QPS_*, <c>path_mtu</c> IBV_MTU_*.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvQpAttr
    {
        internal int qp_state;
        internal int cur_qp_state;
        internal int path_mtu;
        internal int path_mig_state;
        internal uint qkey;
        internal uint rq_psn;
        internal uint sq_psn;
        internal uint dest_qp_num;
        internal uint qp_access_flags;
        internal IbvQpCap cap;
        internal IbvAhAttr ah_attr;
        internal IbvAhAttr alt_ah_attr;
        internal ushort pkey_index;
        internal ushort alt_pkey_index;
        internal byte en_sqd_async_notify;
        internal byte sq_draining;
        internal byte max_rd_atomic;
        internal byte max_dest_rd_atomic;
        internal byte min_rnr_timer;
        internal byte port_num;
        internal byte timeout;
        internal byte retry_cnt;
        internal byte rnr_retry;
        internal byte alt_port_num;
        internal byte alt_timeout;
        internal uint rate_limit;
    }

    /// <summary><c>struct ibv_sge</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvSge
    {
        internal ulong addr;
        internal uint length;
        internal uint lkey;
    }

    /// <summary><c>struct ibv_send_wr</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvSendWr
    {
        internal ulong wr_id;
        internal IbvSendWr* next;
        internal IbvSge* sg_list;
        internal int num_sge;
        internal int opcode;
        internal uint send_flags;

        /// <summary>In network order; or <c>invalidate_rkey</c>, by the opcode.</summary>
        internal uint imm_data;
        internal IbvSendWrTarget wr;
        internal IbvSendWrQpType qp_type;
        internal IbvSendWrBindOrTso bind_mw;
    }

    /// <summary>The union <c>wr</c> of <c>struct ibv_send_wr</c>.</summary>
    [StructLayout(LayoutKind.Explicit)]
    internal struct IbvSendWrTarget
    {
        [FieldOffset(0)]
        internal IbvSendWrRdma rdma;

        [FieldOffset(0)]
        internal IbvSendWrAtomic atomic;

        [FieldOffset(0)]
        internal IbvSendWrDatagram ud;
    }

    /// <summary><c>wr.rdma</c> of <c>struct ibv_send_wr</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvSendWrRdma
    {
        internal ulong remote_addr;
        internal uint rkey;
    }

    /// <summary><c>wr.atomic</c> of <c>struct ibv_send_wr</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvSendWrAtomic
    {
        internal ulong remote_addr;
        internal ulong compare_add;
        internal ulong swap;
        internal uint rkey;
    }

    /// <summary><c>wr.ud</c> of <c>struct ibv_send_wr</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvSendWrDatagram
    {
        internal void* ah;
        internal uint remote_qpn;
        internal uint remote_qkey;
    }

    /// <summary>The union <c>qp_type</c> of <c>struct ibv_send_wr</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvSendWrQpType
    {
        internal uint remote_srqn;
    }

    /// <summary>The last union of <c>struct ibv_send_wr</c>, of memory windows and TCP segmentation: room for it.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvSendWrBindOrTso
    {
        internal fixed ulong words[6];
    }

    /// <summary><c>struct ibv_wc</c>. Where <c>status</c> is not IBV_WC_SUCCESS only it, <c>wr_id</c>, <c>qp_num</c> and <c>vendor_err</c> hold.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvWc
    {
        internal ulong wr_id;
        internal int status;
        internal int opcode;
        internal uint vendor_err;
        internal uint byte_len;

        /// <summary>In network order; or <c>invalidated_rkey</c>, by the flags.</summary>
        internal uint imm_data;
        internal uint qp_num;
        internal uint src_qp;
        internal uint wc_flags;
        internal ushort pkey_index;
        internal ushort slid;
        internal byte sl;
        internal byte dlid_path_bits;
    }

    /// <summary>The union <c>element</c> of <c>struct ibv_async_event</c>; which one holds is the event type's.</summary>
    [StructLayout(LayoutKind.Explicit)]
    internal struct IbvAsyncEventElement
    {
        [FieldOffset(0)]
        internal IbvCq* cq;

        [FieldOffset(0)]
        internal IbvQp* qp;

        [FieldOffset(0)]
        internal int port_num;
    }

    /// <summary><c>struct ibv_async_event</c>; <c>event_type</c> IBV_EVENT_*.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IbvAsyncEvent
    {
        internal IbvAsyncEventElement element;
        internal int event_type;
    }
}
