using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace CheckpointEngine.Interop;

/// <summary>What verbs.h has as inline functions: calls through the tables inside a context.</summary>
internal static unsafe partial class LibIbverbs
{
    // verbs.h: in place of the old table at the end of a context, when a verbs_context is around it.
    private const nint VERBS_ABI_IS_EXTENDED = -1;

    /// <summary>Bytes from <c>verbs_context.query_port</c> to the context inside; the struct grows at its front, so this never changes.</summary>
    internal const int QueryPortBeforeContext = 320;

    /// <summary>Bytes from <c>verbs_context.sz</c> to the context inside.</summary>
    internal const int SizeBeforeContext = 8;

    /// <summary>Size of <c>pthread_mutex_t</c>, which is the C library's and differs by processor; bits/pthreadtypes-arch.h.</summary>
    internal static int MutexSize => RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? 48 : 40;

    /// <summary>Offset of <c>ibv_context.abi_compat</c>, which stands behind the mutex, and last.</summary>
    internal static int AbiCompatOffset => sizeof(IbvContext) + MutexSize;

    /// <summary>Posts sends. Returns errno, <paramref name="bad_wr"/> then being the first that was not posted: ENOMEM when the queue is full, EINVAL.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static int ibv_post_send(IbvQp* qp, IbvSendWr* wr, IbvSendWr** bad_wr) => qp->context->ops.post_send(qp, wr, bad_wr);

    /// <summary>Takes completions off a queue; never waits. How many, 0 when there is none, or negative when the queue failed.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static int ibv_poll_cq(IbvCq* cq, int num_entries, IbvWc* wc) => cq->context->ops.poll_cq(cq, num_entries, wc);

    /// <summary>Asks for one event at the next completion. Returns errno. Poll once more after it, or one that came before is missed.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static int ibv_req_notify_cq(IbvCq* cq, int solicited_only) => cq->context->ops.req_notify_cq(cq, solicited_only);

    private static delegate* unmanaged<IbvContext*, byte, IbvPortAttr*, nuint, int> QueryPortOf(IbvContext* context)
    {
        byte* address = (byte*)context;
        if (*(nint*)(address + AbiCompatOffset) != VERBS_ABI_IS_EXTENDED)
        {
            return null;
        }
        // The size that the library made it with counts the context too.
        int needed = QueryPortBeforeContext + AbiCompatOffset + sizeof(void*);
        return *(nuint*)(address - SizeBeforeContext) < (nuint)needed
            ? null
            : *(delegate* unmanaged<IbvContext*, byte, IbvPortAttr*, nuint, int>*)(address - QueryPortBeforeContext);
    }
}
