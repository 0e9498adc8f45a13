using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;

namespace CheckpointEngine.Internal;

/// <summary>Keeps throwing out of the paths that do not throw.</summary>
internal static class ThrowHelper
{
    [DoesNotReturn]
    internal static void Throw(CheckpointError error, string message, Exception? cause = null)
        => throw new CheckpointEngineException(error, message, 0, cause);

    [DoesNotReturn]
    internal static T Throw<T>(CheckpointError error, string message, Exception? cause = null)
        => throw new CheckpointEngineException(error, message, 0, cause);

    /// <summary>Bad data from outside, with the byte offset at which reading stopped.</summary>
    [DoesNotReturn]
    internal static void ThrowInvalidData(string what, long offset, string reason)
        => throw new CheckpointEngineException(CheckpointError.InvalidData, $"{what}: {reason} (at byte {offset})");

    /// <summary>Well-formed data that does not say what it must, with the byte offset of what is wrong.</summary>
    [DoesNotReturn]
    internal static void ThrowWrongShape(string what, long offset, string reason)
        => throw new CheckpointEngineException(CheckpointError.WrongShape, $"{what}: {reason} (at byte {offset})");

    /// <summary>A native call that failed with <paramref name="errno"/>; ENOMEM, ENOSPC and file errors keep their own kind.</summary>
    [DoesNotReturn]
    internal static void ThrowNative(string call, string subject, int errno, string? tryThis = null)
    {
        CheckpointError kind = errno switch
        {
            12 => CheckpointError.OutOfMemory,                                          // ENOMEM
            2 => CheckpointError.NotFound,                                              // ENOENT
            1 or 5 or 13 or 20 or 21 or 27 or 28 or 30 or 36 or 40 or 122 => CheckpointError.Io,   // EPERM EIO EACCES ENOTDIR EISDIR EFBIG ENOSPC EROFS ENAMETOOLONG ELOOP EDQUOT
            _ => CheckpointError.Native,
        };
        string reason = Marshal.GetPInvokeErrorMessage(errno);
        string hint = tryThis is null ? "" : $"; {tryThis}";
        throw new CheckpointEngineException(kind, $"{call} {subject}: {reason} (errno {errno}){hint}", errno);
    }
}
