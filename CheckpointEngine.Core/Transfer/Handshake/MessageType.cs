namespace CheckpointEngine.Transfer.Handshake;

/// <summary>The type byte of a handshake frame; a reply carries the type of its request.</summary>
internal enum MessageType : byte
{
    /// <summary>RDMA queue-pair set-up; also what a frame of the old form is.</summary>
    Connection = 0,

    /// <summary>The asker's descriptor for the answerer's.</summary>
    Metadata = 1,

    /// <summary>A name and a text for the application at the other end.</summary>
    Notify = 2,

    /// <summary>Is anybody there? Known since Mooncake v0.3.10.post2; older ones close.</summary>
    Probe = 3,
}
