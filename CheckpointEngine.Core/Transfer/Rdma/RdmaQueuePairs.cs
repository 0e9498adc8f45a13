using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>The reliable queue pairs of one endpoint, all on one device and with one completion queue.</summary>
/// <remarks>
/// <para>One thread, but for <see cref="Dispose"/>, which comes last: it waits until the device touches no memory of these queue pairs any more.</para>
/// <para>Source: ibv_create_qp(3), ibv_modify_qp(3); attributes as Mooncake's, docs/mooncake-wire.md, but for the rights: peers of ours may read, and no more.</para>
/// </remarks>
internal sealed unsafe class RdmaQueuePairs : IDisposable
{
    /// <summary>Requests that one queue pair holds, as far as the device has room.</summary>
    internal const int RequestsPerQueuePair = 1024;

    private const int MaxReadsInFlight = 16;
    private const int HopLimit = 16;
    private const int MinRnrTimer = 12;       // 0.64 ms
    private const int RetryCount = 7;

    // 4.096 us * 2^18 is 1.07 s, and seven tries: a peer that is gone is noticed in 8 s, as by NCCL; a shorter one cuts peers that are merely slow.
    private const int RetryTimeout = 18;

    private static long s_live;
    private readonly RdmaNic _nic;
    private readonly LibIbverbs.IbvQp*[] _pairs;
    private LibIbverbs.IbvCompChannel* _channel;
    private LibIbverbs.IbvCq* _completions;
    private uint _events;                     // of the channel, to be acknowledged
    private bool _isArmed;                    // an event was asked for, and has not been taken
    private bool _disposed;

    /// <summary>Makes queue pairs that are not connected.</summary>
    /// <param name="nic">Their device.</param>
    /// <param name="count">How many.</param>
    /// <param name="reads">Whether they read; else they only answer, and need no queues to speak of.</param>
    /// <param name="isRead">Whether the peer may read what is registered here.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>: the device has no more.</exception>
    internal RdmaQueuePairs(RdmaNic nic, int count, bool reads, bool isRead)
    {
        _nic = nic;
        _nic.AddReference();
        _pairs = new LibIbverbs.IbvQp*[count];
        Requests = reads ? Math.Min(RequestsPerQueuePair, nic.Limits.MaxQueuePairRequests) : 1;
        Numbers = new uint[count];
        Interlocked.Increment(ref s_live);
        try
        {
            if (reads)
            {
                _channel = LibIbverbs.ibv_create_comp_channel(nic.Context);
                ThrowIfNull(_channel, "a completion channel");
                MakeNonBlocking(_channel->fd);
            }
            int entries = Math.Min(nic.Limits.MaxCompletionQueueEntries, Math.Max(16, count * Requests));
            _completions = LibIbverbs.ibv_create_cq(nic.Context, entries, null, _channel, 0);
            ThrowIfNull(_completions, "a completion queue");
            for (int i = 0; i < count; i++)
            {
                var init = new LibIbverbs.IbvQpInitAttr
                {
                    send_cq = _completions,
                    recv_cq = _completions,
                    qp_type = LibIbverbs.IBV_QPT_RC,
                    cap = new LibIbverbs.IbvQpCap { max_send_wr = (uint)Requests, max_recv_wr = 1, max_send_sge = 1, max_recv_sge = 1 },
                };
                _pairs[i] = LibIbverbs.ibv_create_qp(nic.Domain, &init);
                ThrowIfNull(_pairs[i], "a queue pair");
                Numbers[i] = _pairs[i]->qp_num;
                Initialize(_pairs[i], isRead ? LibIbverbs.IBV_ACCESS_REMOTE_READ : 0);
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Endpoints of this process at this moment.</summary>
    internal static long Live => Interlocked.Read(ref s_live);

    /// <summary>Their numbers, as the peer is told.</summary>
    internal uint[] Numbers { get; }

    /// <summary>Requests that each of them holds.</summary>
    internal int Requests { get; }

    /// <summary>The descriptor that is readable after <see cref="RequestEvent"/> when something has completed.</summary>
    internal int EventDescriptor => _channel->fd;

    internal LibIbverbs.IbvQp* this[int index] => _pairs[index];

    /// <summary>Connects each to one of the peer's: from here on it may read, and we may. After EINVAL another GID may be tried.</summary>
    /// <param name="own">The GID of ours.</param>
    /// <param name="peerNumbers">As many as <see cref="Numbers"/>.</param>
    /// <param name="peerGid">The peer's GID, 16 bytes.</param>
    /// <param name="peerLid">The peer's LID; 0 on Ethernet.</param>
    /// <param name="peer">For messages.</param>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Unreachable"/>: there is no way between the two GIDs.</exception>
    internal void Connect(GidTableEntry own, uint[] peerNumbers, ReadOnlySpan<byte> peerGid, uint peerLid, string peer)
    {
        for (int i = 0; i < _pairs.Length; i++)
        {
            var attributes = new LibIbverbs.IbvQpAttr
            {
                qp_state = LibIbverbs.IBV_QPS_RTR,
                path_mtu = Math.Min(LibIbverbs.IBV_MTU_4096, _nic.Port.ActiveMtu),
                dest_qp_num = peerNumbers[i],
                rq_psn = 0,
                max_dest_rd_atomic = (byte)Math.Clamp(_nic.Limits.MaxReadsServed, 1, MaxReadsInFlight),
                min_rnr_timer = MinRnrTimer,
                ah_attr = new LibIbverbs.IbvAhAttr
                {
                    is_global = 1,
                    dlid = (ushort)peerLid,
                    port_num = (byte)_nic.Port.Number,
                    grh = new LibIbverbs.IbvGlobalRoute { sgid_index = (byte)own.Index, hop_limit = HopLimit },
                },
            };
            peerGid.CopyTo(new Span<byte>(attributes.ah_attr.grh.dgid.raw, 16));
            Modify(_pairs[i], &attributes, LibIbverbs.IBV_QP_STATE | LibIbverbs.IBV_QP_AV | LibIbverbs.IBV_QP_PATH_MTU | LibIbverbs.IBV_QP_DEST_QPN
                | LibIbverbs.IBV_QP_RQ_PSN | LibIbverbs.IBV_QP_MAX_DEST_RD_ATOMIC | LibIbverbs.IBV_QP_MIN_RNR_TIMER, own, peer);
            attributes = new LibIbverbs.IbvQpAttr
            {
                qp_state = LibIbverbs.IBV_QPS_RTS,
                timeout = RetryTimeout,
                retry_cnt = RetryCount,
                rnr_retry = 7,                // without end
                sq_psn = 0,
                max_rd_atomic = (byte)Math.Clamp(_nic.Limits.MaxReadsInFlight, 1, MaxReadsInFlight),
            };
            Modify(_pairs[i], &attributes, LibIbverbs.IBV_QP_STATE | LibIbverbs.IBV_QP_TIMEOUT | LibIbverbs.IBV_QP_RETRY_CNT | LibIbverbs.IBV_QP_RNR_RETRY
                | LibIbverbs.IBV_QP_SQ_PSN | LibIbverbs.IBV_QP_MAX_QP_RD_ATOMIC, own, peer);
        }
    }

    /// <summary>Lets the peer read no more: its next read ends with an error there, at once.</summary>
    /// <returns>False when the device refuses: then disposing of them is what ends its reads.</returns>
    internal bool TryForbidReads()
    {
        bool isDone = true;
        foreach (LibIbverbs.IbvQp* pair in _pairs)
        {
            var attributes = new LibIbverbs.IbvQpAttr { qp_access_flags = 0 };
            isDone &= LibIbverbs.ibv_modify_qp(pair, &attributes, LibIbverbs.IBV_QP_ACCESS_FLAGS) == 0;
        }
        return isDone;
    }

    /// <summary>Whether a failure of <see cref="Connect"/> is of a kind that another GID of ours may mend: there is no way from this one to the peer's.</summary>
    internal static bool IsOfGid(CheckpointEngineException failure) => failure.NativeCode is Libc.EINVAL;

    /// <summary>Takes completions; never waits.</summary>
    /// <returns>How many, or negative when the device is gone.</returns>
    internal int Poll(LibIbverbs.IbvWc* completions, int room) => LibIbverbs.ibv_poll_cq(_completions, room, completions);

    /// <summary>Asks for <see cref="EventDescriptor"/> to become readable at the next completion; then poll once more, or one that came before is missed.</summary>
    internal void RequestEvent()
    {
        if (!_isArmed)
        {
            _ = LibIbverbs.ibv_req_notify_cq(_completions, 0);
            _isArmed = true;
        }
    }

    /// <summary>Takes the event that has come, after which the descriptor is not readable until the next that is asked for.</summary>
    internal void TakeEvent()
    {
        LibIbverbs.IbvCq* queue;
        void* context;
        if (LibIbverbs.ibv_get_cq_event(_channel, &queue, &context) == 0)
        {
            _events++;
            _isArmed = false;
        }
        if (_events >= 1024)
        {
            LibIbverbs.ibv_ack_cq_events(_completions, _events);      // takes a lock, so seldom
            _events = 0;
        }
    }

    public void Dispose()
    {
        if (_disposed)
        {
            return;
        }
        _disposed = true;
        foreach (LibIbverbs.IbvQp* pair in _pairs)
        {
            if (pair != null)
            {
                _ = LibIbverbs.ibv_destroy_qp(pair);
            }
        }
        if (_completions != null)
        {
            if (_events != 0)
            {
                LibIbverbs.ibv_ack_cq_events(_completions, _events);
            }
            _ = LibIbverbs.ibv_destroy_cq(_completions);
        }
        if (_channel != null)
        {
            _ = LibIbverbs.ibv_destroy_comp_channel(_channel);
        }
        _nic.Release();
        Interlocked.Decrement(ref s_live);
    }

    private void Initialize(LibIbverbs.IbvQp* pair, int access)
    {
        var attributes = new LibIbverbs.IbvQpAttr
        {
            qp_state = LibIbverbs.IBV_QPS_INIT,
            pkey_index = 0,
            port_num = (byte)_nic.Port.Number,
            qp_access_flags = (uint)access,
        };
        Modify(pair, &attributes, LibIbverbs.IBV_QP_STATE | LibIbverbs.IBV_QP_PKEY_INDEX | LibIbverbs.IBV_QP_PORT | LibIbverbs.IBV_QP_ACCESS_FLAGS, GidTableEntry.None, "nobody yet");
    }

    private void Modify(LibIbverbs.IbvQp* pair, LibIbverbs.IbvQpAttr* attributes, int mask, GidTableEntry own, string peer)
    {
        int errno = LibIbverbs.ibv_modify_qp(pair, attributes, mask);
        if (errno != 0)
        {
            string state = attributes->qp_state switch { LibIbverbs.IBV_QPS_INIT => "INIT", LibIbverbs.IBV_QPS_RTR => "RTR", _ => "RTS" };
            throw new CheckpointEngineException(CheckpointError.Unreachable,
                $"bring a queue pair of {_nic.Name} with GID {own.AddressText} (index {own.Index}) to {state} for {peer}: {VerbsStatus.Errno(errno)}; "
                + "is there a route between the two GIDs, and are they of one kind? MC_GID_INDEX chooses another", errno);
        }
    }

    private void ThrowIfNull(void* made, string what)
    {
        if (made == null)
        {
            int errno = Marshal.GetLastPInvokeError();
            throw new CheckpointEngineException(CheckpointError.NotSupported,
                $"make {what} on RDMA device {_nic.Name}: {VerbsStatus.Errno(errno)}; the device may have no more, or locked memory is limited (ulimit -l)", errno);
        }
    }

    private static void MakeNonBlocking(int fd)
    {
        int flags = Libc.fcntl(fd, Libc.F_GETFL, 0);
        _ = Libc.fcntl(fd, Libc.F_SETFL, flags | Libc.O_NONBLOCK);
    }
}
