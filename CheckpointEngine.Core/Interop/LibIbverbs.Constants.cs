namespace CheckpointEngine.Interop;

/// <summary>The values of verbs.h's enums that are of use to a reader of memory, under C's names.</summary>
internal static unsafe partial class LibIbverbs
{
    // enum ibv_gid_type
    internal const int IBV_GID_TYPE_IB = 0;
    internal const int IBV_GID_TYPE_ROCE_V1 = 1;
    internal const int IBV_GID_TYPE_ROCE_V2 = 2;

    // enum ibv_node_type
    internal const int IBV_NODE_UNKNOWN = -1;
    internal const int IBV_NODE_CA = 1;
    internal const int IBV_NODE_SWITCH = 2;
    internal const int IBV_NODE_ROUTER = 3;
    internal const int IBV_NODE_RNIC = 4;
    internal const int IBV_NODE_USNIC = 5;
    internal const int IBV_NODE_USNIC_UDP = 6;
    internal const int IBV_NODE_UNSPECIFIED = 7;

    // enum ibv_transport_type
    internal const int IBV_TRANSPORT_UNKNOWN = -1;
    internal const int IBV_TRANSPORT_IB = 0;
    internal const int IBV_TRANSPORT_IWARP = 1;
    internal const int IBV_TRANSPORT_USNIC = 2;
    internal const int IBV_TRANSPORT_USNIC_UDP = 3;
    internal const int IBV_TRANSPORT_UNSPECIFIED = 4;

    // enum ibv_mtu
    internal const int IBV_MTU_256 = 1;
    internal const int IBV_MTU_512 = 2;
    internal const int IBV_MTU_1024 = 3;
    internal const int IBV_MTU_2048 = 4;
    internal const int IBV_MTU_4096 = 5;

    // enum ibv_port_state
    internal const int IBV_PORT_NOP = 0;
    internal const int IBV_PORT_DOWN = 1;
    internal const int IBV_PORT_INIT = 2;
    internal const int IBV_PORT_ARMED = 3;
    internal const int IBV_PORT_ACTIVE = 4;
    internal const int IBV_PORT_ACTIVE_DEFER = 5;

    // enum ibv_event_type
    internal const int IBV_EVENT_CQ_ERR = 0;
    internal const int IBV_EVENT_QP_FATAL = 1;
    internal const int IBV_EVENT_QP_REQ_ERR = 2;
    internal const int IBV_EVENT_QP_ACCESS_ERR = 3;
    internal const int IBV_EVENT_COMM_EST = 4;
    internal const int IBV_EVENT_SQ_DRAINED = 5;
    internal const int IBV_EVENT_PATH_MIG = 6;
    internal const int IBV_EVENT_PATH_MIG_ERR = 7;
    internal const int IBV_EVENT_DEVICE_FATAL = 8;
    internal const int IBV_EVENT_PORT_ACTIVE = 9;
    internal const int IBV_EVENT_PORT_ERR = 10;
    internal const int IBV_EVENT_LID_CHANGE = 11;
    internal const int IBV_EVENT_PKEY_CHANGE = 12;
    internal const int IBV_EVENT_SM_CHANGE = 13;
    internal const int IBV_EVENT_SRQ_ERR = 14;
    internal const int IBV_EVENT_SRQ_LIMIT_REACHED = 15;
    internal const int IBV_EVENT_QP_LAST_WQE_REACHED = 16;
    internal const int IBV_EVENT_CLIENT_REREGISTER = 17;
    internal const int IBV_EVENT_GID_CHANGE = 18;
    internal const int IBV_EVENT_WQ_FATAL = 19;

    // enum ibv_wc_status
    internal const int IBV_WC_SUCCESS = 0;
    internal const int IBV_WC_LOC_LEN_ERR = 1;
    internal const int IBV_WC_LOC_QP_OP_ERR = 2;
    internal const int IBV_WC_LOC_EEC_OP_ERR = 3;
    internal const int IBV_WC_LOC_PROT_ERR = 4;
    internal const int IBV_WC_WR_FLUSH_ERR = 5;
    internal const int IBV_WC_MW_BIND_ERR = 6;
    internal const int IBV_WC_BAD_RESP_ERR = 7;
    internal const int IBV_WC_LOC_ACCESS_ERR = 8;
    internal const int IBV_WC_REM_INV_REQ_ERR = 9;
    internal const int IBV_WC_REM_ACCESS_ERR = 10;
    internal const int IBV_WC_REM_OP_ERR = 11;
    internal const int IBV_WC_RETRY_EXC_ERR = 12;
    internal const int IBV_WC_RNR_RETRY_EXC_ERR = 13;
    internal const int IBV_WC_LOC_RDD_VIOL_ERR = 14;
    internal const int IBV_WC_REM_INV_RD_REQ_ERR = 15;
    internal const int IBV_WC_REM_ABORT_ERR = 16;
    internal const int IBV_WC_INV_EECN_ERR = 17;
    internal const int IBV_WC_INV_EEC_STATE_ERR = 18;
    internal const int IBV_WC_FATAL_ERR = 19;
    internal const int IBV_WC_RESP_TIMEOUT_ERR = 20;
    internal const int IBV_WC_GENERAL_ERR = 21;
    internal const int IBV_WC_TM_ERR = 22;
    internal const int IBV_WC_TM_RNDV_INCOMPLETE = 23;

    // enum ibv_wc_opcode
    internal const int IBV_WC_SEND = 0;
    internal const int IBV_WC_RDMA_WRITE = 1;
    internal const int IBV_WC_RDMA_READ = 2;
    internal const int IBV_WC_COMP_SWAP = 3;
    internal const int IBV_WC_FETCH_ADD = 4;
    internal const int IBV_WC_BIND_MW = 5;
    internal const int IBV_WC_LOCAL_INV = 6;
    internal const int IBV_WC_TSO = 7;
    internal const int IBV_WC_ATOMIC_WRITE = 9;
    internal const int IBV_WC_RECV = 128;
    internal const int IBV_WC_RECV_RDMA_WITH_IMM = 129;
    internal const int IBV_WC_TM_ADD = 130;
    internal const int IBV_WC_TM_DEL = 131;
    internal const int IBV_WC_TM_SYNC = 132;
    internal const int IBV_WC_TM_RECV = 133;
    internal const int IBV_WC_TM_NO_TAG = 134;
    internal const int IBV_WC_DRIVER1 = 135;
    internal const int IBV_WC_DRIVER2 = 136;
    internal const int IBV_WC_DRIVER3 = 137;

    // enum ibv_wc_flags
    internal const int IBV_WC_GRH = 1 << 0;
    internal const int IBV_WC_WITH_IMM = 1 << 1;
    internal const int IBV_WC_IP_CSUM_OK = 1 << 2;
    internal const int IBV_WC_WITH_INV = 1 << 3;
    internal const int IBV_WC_TM_SYNC_REQ = 1 << 4;
    internal const int IBV_WC_TM_MATCH = 1 << 5;
    internal const int IBV_WC_TM_DATA_VALID = 1 << 6;

    // enum ibv_access_flags
    internal const int IBV_ACCESS_LOCAL_WRITE = 1 << 0;
    internal const int IBV_ACCESS_REMOTE_WRITE = 1 << 1;
    internal const int IBV_ACCESS_REMOTE_READ = 1 << 2;
    internal const int IBV_ACCESS_REMOTE_ATOMIC = 1 << 3;
    internal const int IBV_ACCESS_MW_BIND = 1 << 4;
    internal const int IBV_ACCESS_ZERO_BASED = 1 << 5;
    internal const int IBV_ACCESS_ON_DEMAND = 1 << 6;
    internal const int IBV_ACCESS_HUGETLB = 1 << 7;
    internal const int IBV_ACCESS_RELAXED_ORDERING = 1 << 20;

    // enum ibv_qp_type
    internal const int IBV_QPT_RC = 2;
    internal const int IBV_QPT_UC = 3;
    internal const int IBV_QPT_UD = 4;
    internal const int IBV_QPT_RAW_PACKET = 8;
    internal const int IBV_QPT_XRC_SEND = 9;
    internal const int IBV_QPT_XRC_RECV = 10;
    internal const int IBV_QPT_DRIVER = 255;

    // enum ibv_qp_attr_mask
    internal const int IBV_QP_STATE = 1 << 0;
    internal const int IBV_QP_CUR_STATE = 1 << 1;
    internal const int IBV_QP_EN_SQD_ASYNC_NOTIFY = 1 << 2;
    internal const int IBV_QP_ACCESS_FLAGS = 1 << 3;
    internal const int IBV_QP_PKEY_INDEX = 1 << 4;
    internal const int IBV_QP_PORT = 1 << 5;
    internal const int IBV_QP_QKEY = 1 << 6;
    internal const int IBV_QP_AV = 1 << 7;
    internal const int IBV_QP_PATH_MTU = 1 << 8;
    internal const int IBV_QP_TIMEOUT = 1 << 9;
    internal const int IBV_QP_RETRY_CNT = 1 << 10;
    internal const int IBV_QP_RNR_RETRY = 1 << 11;
    internal const int IBV_QP_RQ_PSN = 1 << 12;
    internal const int IBV_QP_MAX_QP_RD_ATOMIC = 1 << 13;
    internal const int IBV_QP_ALT_PATH = 1 << 14;
    internal const int IBV_QP_MIN_RNR_TIMER = 1 << 15;
    internal const int IBV_QP_SQ_PSN = 1 << 16;
    internal const int IBV_QP_MAX_DEST_RD_ATOMIC = 1 << 17;
    internal const int IBV_QP_PATH_MIG_STATE = 1 << 18;
    internal const int IBV_QP_CAP = 1 << 19;
    internal const int IBV_QP_DEST_QPN = 1 << 20;
    internal const int IBV_QP_RATE_LIMIT = 1 << 25;

    // enum ibv_qp_state
    internal const int IBV_QPS_RESET = 0;
    internal const int IBV_QPS_INIT = 1;
    internal const int IBV_QPS_RTR = 2;
    internal const int IBV_QPS_RTS = 3;
    internal const int IBV_QPS_SQD = 4;
    internal const int IBV_QPS_SQE = 5;
    internal const int IBV_QPS_ERR = 6;
    internal const int IBV_QPS_UNKNOWN = 7;

    // enum ibv_mig_state
    internal const int IBV_MIG_MIGRATED = 0;
    internal const int IBV_MIG_REARM = 1;
    internal const int IBV_MIG_ARMED = 2;

    // enum ibv_wr_opcode
    internal const int IBV_WR_RDMA_WRITE = 0;
    internal const int IBV_WR_RDMA_WRITE_WITH_IMM = 1;
    internal const int IBV_WR_SEND = 2;
    internal const int IBV_WR_SEND_WITH_IMM = 3;
    internal const int IBV_WR_RDMA_READ = 4;
    internal const int IBV_WR_ATOMIC_CMP_AND_SWP = 5;
    internal const int IBV_WR_ATOMIC_FETCH_AND_ADD = 6;
    internal const int IBV_WR_LOCAL_INV = 7;
    internal const int IBV_WR_BIND_MW = 8;
    internal const int IBV_WR_SEND_WITH_INV = 9;
    internal const int IBV_WR_TSO = 10;
    internal const int IBV_WR_DRIVER1 = 11;
    internal const int IBV_WR_ATOMIC_WRITE = 15;

    // enum ibv_send_flags
    internal const int IBV_SEND_FENCE = 1 << 0;
    internal const int IBV_SEND_SIGNALED = 1 << 1;
    internal const int IBV_SEND_SOLICITED = 1 << 2;
    internal const int IBV_SEND_INLINE = 1 << 3;
    internal const int IBV_SEND_IP_CSUM = 1 << 4;

    // the link layer of ibv_port_attr
    internal const int IBV_LINK_LAYER_UNSPECIFIED = 0;
    internal const int IBV_LINK_LAYER_INFINIBAND = 1;
    internal const int IBV_LINK_LAYER_ETHERNET = 2;

    // ib_user_ioctl_verbs.h
    internal const int IBV_ACCESS_OPTIONAL_RANGE = 0x3ff00000;   // what a kernel may pass over

    // sysfs
    internal const int IBV_SYSFS_NAME_MAX = 64;
    internal const int IBV_SYSFS_PATH_MAX = 256;
}
