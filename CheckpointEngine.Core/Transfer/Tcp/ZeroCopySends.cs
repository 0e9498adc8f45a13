using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Tcp;

/// <summary>
/// The sends of one connection that the kernel still reads from, without a copy of its own (MSG_ZEROCOPY): it numbers them from 0 and says which are
/// done. A range counts as being read until the last send of its request is.
/// </summary>
/// <remarks>The connection's thread alone, but for <see cref="ReadsFrom"/>. Allocates nothing. Source: Documentation/networking/msg_zerocopy.rst.</remarks>
internal sealed unsafe class ZeroCopySends
{
    /// <summary>The most that are under way; further pieces are copied. With pieces of 1 MiB more than any socket's buffer takes.</summary>
    internal const int Most = 64;

    // Room for the error, the address behind it and what alignment adds.
    private const int ControlBytes = 128;

    private readonly RegisteredRange?[] _rangeEndingAt = new RegisteredRange?[Most];      // by number: the range to let go of after that send
    private uint _oldest;       // all before it are done
    private uint _next;         // the number of the next send
    private ulong _done;        // bit i: send _oldest + i is done
    private bool _isInRequest;

    /// <summary>Sends that are under way.</summary>
    internal int UnderWay => (int)(_next - _oldest);

    /// <summary>Whether one more may be sent.</summary>
    internal bool HasRoom => UnderWay < Most;

    /// <summary>Whether the kernel had to copy after all, as it does where the peer is on this host: then it costs more than it saves.</summary>
    internal bool WasCopied { get; private set; }

    /// <summary>Counts a send that the kernel took.</summary>
    internal void Sent()
    {
        _next++;
        _isInRequest = true;
    }

    /// <summary>Ends a request: lets go of its range now, or when the last of its sends is done.</summary>
    internal void EndRequest(RegisteredRange range)
    {
        // Those of this request are the last ones; if even they are done, or there were none, nobody reads any more.
        if (!_isInRequest || UnderWay == 0)
        {
            range.EndRead();
        }
        else
        {
            Volatile.Write(ref _rangeEndingAt[(_next - 1) % Most], range);
        }
        _isInRequest = false;
    }

    /// <summary>Whether a request on that range has ended whose bytes the kernel still reads. Any thread.</summary>
    internal bool ReadsFrom(RegisteredRange range)
    {
        foreach (ref RegisteredRange? ending in _rangeEndingAt.AsSpan())
        {
            if (Volatile.Read(ref ending) == range)
            {
                return true;
            }
        }
        return false;
    }

    /// <summary>Takes what the kernel has said since the last time.</summary>
    /// <returns>Whether anything came.</returns>
    internal bool TakeCompletions(int fd)
    {
        bool any = false;
        byte* control = stackalloc byte[ControlBytes];
        while (UnderWay != 0)
        {
            var message = new Libc.MsgHdr { msg_control = control, msg_controllen = ControlBytes };
            if (Libc.recvmsg(fd, &message, Libc.MSG_ERRQUEUE | Libc.MSG_DONTWAIT) < 0)
            {
                if (Marshal.GetLastPInvokeError() == Libc.EINTR)
                {
                    continue;
                }
                break;
            }
            if (message.msg_controllen < (nuint)(sizeof(Libc.CMsgHdr) + sizeof(Libc.SockExtendedErr)))
            {
                continue;
            }
            var error = (Libc.SockExtendedErr*)(control + sizeof(Libc.CMsgHdr));
            if (error->ee_origin == Libc.SO_EE_ORIGIN_ZEROCOPY && error->ee_errno == 0)
            {
                Completed(error->ee_info, error->ee_data, (error->ee_code & Libc.SO_EE_CODE_ZEROCOPY_COPIED) != 0);
                any = true;
            }
        }
        return any;
    }

    /// <summary>Marks the sends from <paramref name="first"/> to <paramref name="last"/> as done; they may come in any order.</summary>
    internal void Completed(uint first, uint last, bool wasCopied)
    {
        WasCopied |= wasCopied;
        for (uint number = first; number - first <= last - first && number - _oldest < (uint)UnderWay; number++)
        {
            _done |= 1ul << (int)(number - _oldest);
        }
        while ((_done & 1) != 0)
        {
            ref RegisteredRange? ending = ref _rangeEndingAt[_oldest % Most];
            RegisteredRange? range = ending;
            Volatile.Write(ref ending, null);
            _oldest++;
            _done >>= 1;
            range?.EndRead();
        }
    }
}
