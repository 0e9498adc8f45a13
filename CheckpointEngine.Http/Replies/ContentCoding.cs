namespace CheckpointEngine.Http.Replies;

/// <summary>How the bytes of a reply are coded (RFC 9110, 8.4.1).</summary>
internal enum ContentCoding
{
    Identity = 0,
    Gzip,
    Brotli,
}
