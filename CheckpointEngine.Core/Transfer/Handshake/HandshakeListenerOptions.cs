using CheckpointEngine.Access;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Transfer.Handshake;

/// <summary>Limits of a <see cref="HandshakeListener"/>.</summary>
internal sealed record HandshakeListenerOptions
{
    /// <summary>Most bytes of a request, type byte included; default 1 MiB, as in Mooncake.</summary>
    internal int MaxFrameBytes { get; init; } = HandshakeFrame.DefaultMaxLength;

    /// <summary>For a whole request to arrive, however it drips; default 5 s.</summary>
    internal TimeSpan ReadTimeout { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>For a whole reply to be taken; default 10 s.</summary>
    internal TimeSpan WriteTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>For the client to close after the reply; default 5 s.</summary>
    internal TimeSpan CloseTimeout { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>
    /// Connections at once. One holds at most its request and its reply, so as many requests of the default size are 512 MiB in the worst case.
    /// </summary>
    internal ConnectionLimits Limits { get; init; } = new ServerLimits().Handshake;

    /// <summary>The clock of the deadlines.</summary>
    internal TimeProvider TimeProvider { get; init; } = TimeProvider.System;

    /// <summary>Gets the connections that were closed for a fault: at debug level the peer's, as a warning ours.</summary>
    internal ILogger Logger { get; init; } = NullLogger.Instance;
}
