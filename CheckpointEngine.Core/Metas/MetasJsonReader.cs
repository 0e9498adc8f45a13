using System.Buffers;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Metas;

/// <summary>Reads metas from JSON as upstream's <c>/v1/metas</c> writes it, with the members that this engine adds.</summary>
/// <remarks>
/// Members may come in any order and unknown ones are skipped. Beyond the metas themselves a read allocates a fixed amount, whatever the
/// number of tensors. Any number of threads.
/// </remarks>
public static class MetasJsonReader
{
    private const int FirstBufferBytes = 64 << 10;

    /// <summary>Reads a whole document.</summary>
    /// <param name="utf8">The document; white space around it is fine, a byte order mark is not.</param>
    /// <exception cref="CheckpointEngineException">
    /// <see cref="CheckpointError.InvalidData"/>: not JSON; <see cref="CheckpointError.WrongShape"/>: JSON, but no metas. The message
    /// gives the byte offset.
    /// </exception>
    public static CheckpointMetas Read(ReadOnlySpan<byte> utf8)
    {
        using var parser = new MetasJsonParser();
        parser.Feed(utf8, isFinal: true);
        return parser.Finish();
    }

    /// <summary>Reads a document while its bytes arrive; the body as a whole is never in memory.</summary>
    /// <param name="body">Read to its end, not disposed of.</param>
    /// <param name="maxBytes">Length of the body from which on it is refused, in bytes.</param>
    /// <param name="cancellationToken">Ends the wait for more bytes.</param>
    /// <exception cref="CheckpointEngineException">
    /// <see cref="CheckpointError.InvalidData"/>: not JSON, or longer than <paramref name="maxBytes"/>;
    /// <see cref="CheckpointError.WrongShape"/>: JSON, but no metas. The message gives the byte offset.
    /// </exception>
    /// <exception cref="OperationCanceledException">The token was cancelled.</exception>
    /// <exception cref="IOException">The body could not be read.</exception>
    public static async ValueTask<CheckpointMetas> ReadAsync(Stream body, long maxBytes, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(body);
        ArgumentOutOfRangeException.ThrowIfNegative(maxBytes);
        using var parser = new MetasJsonParser();
        byte[] buffer = ArrayPool<byte>.Shared.Rent(FirstBufferBytes);
        try
        {
            int filled = 0;
            int wanted = 1;
            long received = 0;
            while (true)
            {
                int count = await body.ReadAtLeastAsync(buffer.AsMemory(filled), wanted, throwOnEndOfStream: false, cancellationToken)
                    .ConfigureAwait(false);
                received += count;
                if (received > maxBytes)
                {
                    ThrowHelper.ThrowInvalidData(MetasJsonParser.What, maxBytes,
                        $"the document is longer than the limit of {maxBytes:N0} bytes");
                }
                filled += count;
                bool isFinal = count < wanted;
                int consumed = parser.Feed(buffer.AsSpan(0, filled), isFinal);
                if (isFinal)
                {
                    return parser.Finish();
                }
                filled -= consumed;
                buffer.AsSpan(consumed, filled).CopyTo(buffer);

                // What is left is a part of one token, and it is scanned anew with what comes: twice as much of it each time keeps a
                // body that trickles in from costing the square of the token.
                wanted = Math.Max(1, filled);
                if (wanted > buffer.Length - filled)
                {
                    buffer = Grow(buffer, filled);
                }
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
    }

    // The parser refuses a token of more than MaxTokenBytes, so the buffer ends at four times that.
    private static byte[] Grow(byte[] buffer, int filled)
    {
        byte[] larger = ArrayPool<byte>.Shared.Rent(buffer.Length * 2);
        buffer.AsSpan(0, filled).CopyTo(larger);
        ArrayPool<byte>.Shared.Return(buffer);
        return larger;
    }
}
