namespace CheckpointEngine.Transfer.Handshake;

/// <summary>Limits of a <see cref="HandshakeClient"/> call.</summary>
internal sealed record HandshakeClientOptions
{
    internal static HandshakeClientOptions Default { get; } = new();

    /// <summary>For each address of the target, and for resolving its name; default 5 s, as in Mooncake.</summary>
    internal TimeSpan ConnectTimeout { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>For the request to go out and the whole reply to come in, all tries together; default 60 s, as in Mooncake.</summary>
    internal TimeSpan ReplyTimeout { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>
    /// Most bytes of a request and of a reply, type byte included; default 1 MiB, up to 128 MiB. A Mooncake peer has the same limit in
    /// MC_HANDSHAKE_MAX_LENGTH and sends nothing longer than its own.
    /// </summary>
    internal int MaxFrameBytes { get; init; } = HandshakeFrame.DefaultMaxLength;

    /// <summary>How often a target that has no descriptor yet is asked again; default 5.</summary>
    internal int NullRetries { get; init; } = 5;

    /// <summary>Before the first of these tries; doubled for each further one; default 100 ms.</summary>
    internal TimeSpan NullRetryDelay { get; init; } = TimeSpan.FromMilliseconds(100);

    /// <summary>The clock of the deadlines.</summary>
    internal TimeProvider TimeProvider { get; init; } = TimeProvider.System;
}
