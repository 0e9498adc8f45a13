using System.Globalization;
using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>What libibverbs' numbers mean, in words, and what to do about them.</summary>
internal static class VerbsStatus
{
    /// <summary>A completion's status (IBV_WC_*) in words, with what to do.</summary>
    internal static string DescribeCompletion(int status) => status switch
    {
        LibIbverbs.IBV_WC_SUCCESS => "done",
        LibIbverbs.IBV_WC_LOC_LEN_ERR => Join("local length error",
            "a message is longer than its buffer, or than the port's max_msg_sz; a fault of this end"),
        LibIbverbs.IBV_WC_LOC_QP_OP_ERR => Join("local queue pair operation error",
            "this end's queue pair cannot do what was posted; a fault of this end"),
        LibIbverbs.IBV_WC_LOC_PROT_ERR => Join("local protection error", "the memory that was read into is not registered with this device, or no longer"),
        LibIbverbs.IBV_WC_WR_FLUSH_ERR => Join("request flushed",
            "an earlier request of the same queue pair failed, or the connection was closed; the first error tells why"),
        LibIbverbs.IBV_WC_MW_BIND_ERR => Join("memory window bind error", "the memory does not allow windows; a fault of this end"),
        LibIbverbs.IBV_WC_BAD_RESP_ERR => Join("bad response",
            "the peer's device answered with what does not fit; are both ends' path MTUs the same, and the firmware up to date?"),
        LibIbverbs.IBV_WC_LOC_ACCESS_ERR => Join("local access error", "the memory that was read into is registered without local write; a fault of this end"),
        LibIbverbs.IBV_WC_REM_INV_REQ_ERR => Join("remote invalid request",
            "the peer's queue pair takes no RDMA reads: it has revoked the lease; or not so many at once (max_rd_atomic, max_dest_rd_atomic), or not of this length"),
        LibIbverbs.IBV_WC_REM_ACCESS_ERR => Join("remote access error",
            "the peer no longer serves this memory, or its key has changed: fetch its metas anew; did it unregister the checkpoint?"),
        LibIbverbs.IBV_WC_REM_OP_ERR => Join("remote operation error", "the peer's device could not read its own memory; look at the peer's kernel log"),
        LibIbverbs.IBV_WC_RETRY_EXC_ERR => Join("retries exceeded",
            "the peer's device does not answer: the peer has ended, or no packet passes between the two ports (cable, VLAN, routing of RoCE, another GID, "
            + "another MTU, PFC or ECN); try ib_read_bw between the two hosts with the same GID index"),
        LibIbverbs.IBV_WC_RNR_RETRY_EXC_ERR => Join("receiver-not-ready retries exceeded", "the peer posted no receive; it is overloaded or stuck"),
        LibIbverbs.IBV_WC_LOC_EEC_OP_ERR or LibIbverbs.IBV_WC_LOC_RDD_VIOL_ERR or LibIbverbs.IBV_WC_REM_INV_RD_REQ_ERR
            or LibIbverbs.IBV_WC_INV_EECN_ERR or LibIbverbs.IBV_WC_INV_EEC_STATE_ERR
            => Join($"error {Number(status)} of reliable datagrams", "which are not used here; a fault of the device's driver"),
        LibIbverbs.IBV_WC_REM_ABORT_ERR => Join("aborted by the peer", "the peer's device gave the request up; look at the peer's kernel log"),
        LibIbverbs.IBV_WC_FATAL_ERR => Join("fatal device error", "the device stopped; look at the kernel log (dmesg), and reset it"),
        LibIbverbs.IBV_WC_RESP_TIMEOUT_ERR => Join("response timeout", "the peer's device does not answer; as with retries exceeded"),
        LibIbverbs.IBV_WC_GENERAL_ERR => Join("general error", "the device does not say more; look at the kernel log (dmesg) and at the vendor's code"),
        LibIbverbs.IBV_WC_TM_ERR or LibIbverbs.IBV_WC_TM_RNDV_INCOMPLETE
            => Join($"error {Number(status)} of tag matching", "which is not used here; a fault of the device's driver"),
        _ => Join($"unknown status {Number(status)}", "a libibverbs newer than this engine knows it"),
    };

    /// <summary>Whether a status came of an earlier one, which is the one to tell of.</summary>
    internal static bool IsConsequence(int completionStatus) => completionStatus == LibIbverbs.IBV_WC_WR_FLUSH_ERR;

    /// <summary>An event of a device (IBV_EVENT_*) in words.</summary>
    internal static string DescribeEvent(int eventType) => eventType switch
    {
        LibIbverbs.IBV_EVENT_CQ_ERR => "a completion queue overran or failed",
        LibIbverbs.IBV_EVENT_QP_FATAL => "a queue pair failed and is in the error state",
        LibIbverbs.IBV_EVENT_QP_REQ_ERR => "a queue pair refused a request of its peer as invalid",
        LibIbverbs.IBV_EVENT_QP_ACCESS_ERR => "a queue pair refused its peer memory that it does not serve",
        LibIbverbs.IBV_EVENT_COMM_EST => "a queue pair got its first message",
        LibIbverbs.IBV_EVENT_SQ_DRAINED => "a queue pair's send queue is drained",
        LibIbverbs.IBV_EVENT_PATH_MIG => "a connection moved to its other path",
        LibIbverbs.IBV_EVENT_PATH_MIG_ERR => "a connection could not move to its other path",
        LibIbverbs.IBV_EVENT_DEVICE_FATAL => "the device failed and must be reset",
        LibIbverbs.IBV_EVENT_PORT_ACTIVE => "the port is active",
        LibIbverbs.IBV_EVENT_PORT_ERR => "the port went down",
        LibIbverbs.IBV_EVENT_LID_CHANGE => "the port's LID changed",
        LibIbverbs.IBV_EVENT_PKEY_CHANGE => "the port's partition keys changed",
        LibIbverbs.IBV_EVENT_SM_CHANGE => "the subnet has another manager",
        LibIbverbs.IBV_EVENT_SRQ_ERR => "a shared receive queue failed",
        LibIbverbs.IBV_EVENT_SRQ_LIMIT_REACHED => "a shared receive queue runs low",
        LibIbverbs.IBV_EVENT_QP_LAST_WQE_REACHED => "a queue pair on a shared receive queue took its last request",
        LibIbverbs.IBV_EVENT_CLIENT_REREGISTER => "the subnet's manager asks for subscriptions anew",
        LibIbverbs.IBV_EVENT_GID_CHANGE => "the port's GID table changed: an address came or went",
        LibIbverbs.IBV_EVENT_WQ_FATAL => "a work queue failed",
        _ => $"unknown event {Number(eventType)}",
    };

    /// <summary>What an event of a device is about, which says which member of its <c>element</c> holds.</summary>
    internal static VerbsEventSubject SubjectOf(int eventType) => eventType switch
    {
        LibIbverbs.IBV_EVENT_CQ_ERR => VerbsEventSubject.CompletionQueue,
        LibIbverbs.IBV_EVENT_QP_FATAL or LibIbverbs.IBV_EVENT_QP_REQ_ERR or LibIbverbs.IBV_EVENT_QP_ACCESS_ERR or LibIbverbs.IBV_EVENT_COMM_EST
            or LibIbverbs.IBV_EVENT_SQ_DRAINED or LibIbverbs.IBV_EVENT_PATH_MIG or LibIbverbs.IBV_EVENT_PATH_MIG_ERR
            or LibIbverbs.IBV_EVENT_QP_LAST_WQE_REACHED => VerbsEventSubject.QueuePair,
        LibIbverbs.IBV_EVENT_PORT_ACTIVE or LibIbverbs.IBV_EVENT_PORT_ERR or LibIbverbs.IBV_EVENT_LID_CHANGE or LibIbverbs.IBV_EVENT_PKEY_CHANGE
            or LibIbverbs.IBV_EVENT_SM_CHANGE or LibIbverbs.IBV_EVENT_CLIENT_REREGISTER or LibIbverbs.IBV_EVENT_GID_CHANGE => VerbsEventSubject.Port,
        LibIbverbs.IBV_EVENT_DEVICE_FATAL => VerbsEventSubject.Device,
        _ => VerbsEventSubject.Other,
    };

    /// <summary>A port's state (IBV_PORT_*) in the kernel's words.</summary>
    internal static string PortState(int state) => state switch
    {
        LibIbverbs.IBV_PORT_NOP => "NOP",
        LibIbverbs.IBV_PORT_DOWN => "DOWN",
        LibIbverbs.IBV_PORT_INIT => "INIT",
        LibIbverbs.IBV_PORT_ARMED => "ARMED",
        LibIbverbs.IBV_PORT_ACTIVE => "ACTIVE",
        LibIbverbs.IBV_PORT_ACTIVE_DEFER => "ACTIVE_DEFER",
        _ => Number(state),
    };

    /// <summary>A link layer (IBV_LINK_LAYER_*) in words.</summary>
    internal static string LinkLayer(int linkLayer) => linkLayer switch
    {
        LibIbverbs.IBV_LINK_LAYER_ETHERNET => "Ethernet",
        LibIbverbs.IBV_LINK_LAYER_INFINIBAND => "InfiniBand",
        _ => "unspecified",
    };

    /// <summary>An MTU (IBV_MTU_*) in bytes; 0 when it is none.</summary>
    internal static int MtuBytes(int mtu) => mtu is >= LibIbverbs.IBV_MTU_256 and <= LibIbverbs.IBV_MTU_4096 ? 128 << mtu : 0;

    /// <summary>The system's words for an errno, with the number.</summary>
    internal static string Errno(int errno) => errno == 0 ? "no reason given" : $"{Marshal.GetPInvokeErrorMessage(errno)} (errno {Number(errno)})";

    private static string Join(string what, string hint) => what + ": " + hint;

    private static string Number(int number) => number.ToString(CultureInfo.InvariantCulture);
}

/// <summary>What an event of a device is about.</summary>
internal enum VerbsEventSubject
{
    Other,
    Device,
    Port,
    CompletionQueue,
    QueuePair,
}
