namespace CheckpointEngine.Relay;

/// <summary>How a joiner that offers what it has is guarded against who listens, and what a joiner demands of those that it reads; each includes those before it.</summary>
internal enum RelaySecurity
{
    /// <summary>Nothing is encrypted.</summary>
    None = 0,

    /// <summary>The peer service speaks TLS.</summary>
    Tls = 1,

    /// <summary>And the data port.</summary>
    Encrypted = 2,
}
