using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Mooncake;

/// <summary>The numbers of Mooncake's library in words. Source: error.h and status.h of v0.3.12.</summary>
internal static class MooncakeStatus
{
    /// <summary>Of a batch: nothing of what was submitted has started.</summary>
    internal const int TooManyRequests = 2;

    /// <inheritdoc cref="TooManyRequests"/>
    internal const int NoTransport = 8;

    /// <summary>An error: the engine's are negative, a batch's positive.</summary>
    internal static string Describe(int code)
    {
        string words = Math.Abs(code) switch
        {
            1 => "invalid argument",
            TooManyRequests => "more requests than the batch has room for",
            3 => "memory that is not registered",
            4 => "the batch is busy",
            6 => "no such device",
            7 => "it overlaps memory that is registered",
            NoTransport => "the library has not installed the transport that the owner offers",
            101 => "a name cannot be resolved",
            102 => "a socket failed",
            103 => "JSON that cannot be read",
            104 => "the handshake was refused",
            200 => "metadata",
            201 => "an endpoint failed",
            202 => "a device's context failed",
            300 => "NUMA",
            301 => "the clock",
            302 => "memory",
            303 or 999 => "not implemented",
            _ => "unknown",
        };
        return $"{words} (code {code}); its log says more (MC_LOG_LEVEL=INFO)";
    }

    /// <summary>Whether a request has ended: nothing is written for it any more.</summary>
    internal static bool IsFinal(int status) => status is LibTransferEngine.STATUS_COMPLETED or LibTransferEngine.STATUS_FAILED
        or LibTransferEngine.STATUS_CANCELED or LibTransferEngine.STATUS_INVALID;

    /// <summary>Why a request that did not complete ended.</summary>
    internal static string DescribeEnd(int status) => status switch
    {
        LibTransferEngine.STATUS_FAILED => "the read failed: the owner refuses that range, or the connection broke",
        LibTransferEngine.STATUS_TIMEOUT => "the read took longer than MC_SLICE_TIMEOUT allows",
        LibTransferEngine.STATUS_CANCELED => "the library cancelled the read",
        LibTransferEngine.STATUS_INVALID => "the library calls the read invalid",
        _ => $"the read ended with status {status}, which is unknown",
    };
}
