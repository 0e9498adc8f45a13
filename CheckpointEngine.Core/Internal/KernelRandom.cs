using System.Runtime.InteropServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Internal;

/// <summary>Random bytes for nonces and keys, of the kernel's generator: getrandom(2), which OpenSSL takes its seed from too.</summary>
/// <remarks>Any thread. RandomNumberGenerator would load OpenSSL, 2.5 ms of a join or of a server's start, where nothing else needs it.</remarks>
internal static unsafe class KernelRandom
{
    // Up to so many come whole, whatever signal arrives.
    private const int WholeBytes = 256;

    internal static byte[] GetBytes(int count)
    {
        byte[] bytes = new byte[count];
        Fill(bytes);
        return bytes;
    }

    /// <exception cref="CheckpointEngineException">The kernel gives none: a filter of system calls that forbids it.</exception>
    internal static void Fill(Span<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            Span<byte> piece = bytes[..Math.Min(bytes.Length, WholeBytes)];
            fixed (byte* into = piece)
            {
                if (Libc.getrandom(into, (nuint)piece.Length, 0) != piece.Length)
                {
                    int error = Marshal.GetLastPInvokeError();
                    if (error == Libc.EINTR)
                    {
                        continue;       // a kernel that has just started waits for its first random bytes
                    }
                    ThrowHelper.ThrowNative("getrandom", "for a nonce or a key", error, "a filter of system calls (seccomp) must allow it");
                }
            }
            bytes = bytes[piece.Length..];
        }
    }
}
