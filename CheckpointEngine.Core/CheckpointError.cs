namespace CheckpointEngine;

/// <summary>What kind of failure a <see cref="CheckpointEngineException"/> reports.</summary>
public enum CheckpointError
{
    /// <summary>A file, message or document from outside does not have the form it must have.</summary>
    InvalidData = 1,

    /// <summary>A checkpoint, tensor, file or owner that was named is not there.</summary>
    NotFound,

    /// <summary>A name is taken already.</summary>
    AlreadyExists,

    /// <summary>A peer could not be reached, or the connection to it broke.</summary>
    Unreachable,

    /// <summary>A peer or operation did not make progress in the time it was given.</summary>
    Timeout,

    /// <summary>A peer refused: no or wrong token, or an address range that it does not serve.</summary>
    Refused,

    /// <summary>A peer broke the protocol.</summary>
    ProtocolViolation,

    /// <summary>Bytes that arrived differ from the digest their owner vouches for.</summary>
    DigestMismatch,

    /// <summary>Memory could not be had.</summary>
    OutOfMemory,

    /// <summary>A file could not be read or written; the native code is an errno.</summary>
    Io,

    /// <summary>This host or build lacks what was asked for.</summary>
    NotSupported,

    /// <summary>A native call failed; the native code is its errno.</summary>
    Native,

    /// <summary>A document is well-formed but does not say what it must: a member is missing, of another type, or breaks a rule.</summary>
    WrongShape,

    /// <summary>Somebody is at it: a checkpoint whose owner is changing it. Try again.</summary>
    Busy,

    /// <summary>What was read has been changed or taken away by its owner in the meantime. Fetch the metas anew and try again.</summary>
    Superseded,
}
