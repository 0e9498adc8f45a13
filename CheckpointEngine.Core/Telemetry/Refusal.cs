namespace CheckpointEngine.Telemetry;

/// <summary>The words that refusals are counted under: few, and none of them a stranger's.</summary>
internal static class Refusal
{
    /// <summary>The service: the TCP data port.</summary>
    internal const string Data = "data";

    /// <summary>The service: the peer service.</summary>
    internal const string Peer = "peer";

    /// <summary>The service: RDMA connections.</summary>
    internal const string Rdma = "rdma";

    /// <summary>The reason: it did not prove the token.</summary>
    internal const string Token = "token";

    /// <summary>The reason: it speaks no TLS where nothing else is spoken, or shows no certificate that is trusted.</summary>
    internal const string Tls = "tls";

    /// <summary>The reason: it asked for what is not registered.</summary>
    internal const string Range = "range";

    /// <summary>The reason: it asked to write.</summary>
    internal const string Write = "write";

    /// <summary>The reason: a user of this host that may not have memory.</summary>
    internal const string User = "user";

    /// <summary>The reason: it broke the protocol.</summary>
    internal const string Protocol = "protocol";

    /// <summary>The reason: as many are open as may be.</summary>
    internal const string Limit = "limit";

    /// <summary>The reason: its devices and ours do not go together, or who asks may not.</summary>
    internal const string Connection = "connection";

    /// <summary>The reason of what the peer service ended a conversation for.</summary>
    internal static string ReasonOf(CheckpointError error) => error == CheckpointError.ProtocolViolation ? Protocol : Token;
}
