using CheckpointEngine.Http.Replies;
using Microsoft.AspNetCore.Http;

namespace CheckpointEngine.Http.Requests;

/// <summary>A body that ends the request with 413 once more than its limit has been read from it.</summary>
internal sealed class LimitedStream(Stream inner, long limitBytes) : Stream
{
    private long _read;

    public override bool CanRead => true;

    public override bool CanSeek => false;

    public override bool CanWrite => false;

    public override long Length => throw new NotSupportedException();

    public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

    public override async ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default)
    {
        int count;
        try
        {
            count = await inner.ReadAsync(buffer, cancellationToken).ConfigureAwait(false);
        }
        catch (Exception malformed) when (malformed is InvalidDataException or InvalidOperationException)     // gzip's; brotli's
        {
            throw new HttpProblemException(StatusCodes.Status400BadRequest, $"the body is not what its Content-Encoding says: {malformed.Message}", malformed);
        }
        catch (IOException broken) when (broken is not BadHttpRequestException)     // the server's, of a chunk that is longer than it counts
        {
            throw new HttpProblemException(StatusCodes.Status400BadRequest, $"the body cannot be read: {broken.Message}", broken);
        }
        _read += count;
        return _read <= limitBytes
            ? count
            : throw new HttpProblemException(StatusCodes.Status413PayloadTooLarge, $"the body is larger than the {limitBytes:N0} bytes that are read here, decompressed");
    }

    public override Task<int> ReadAsync(byte[] buffer, int offset, int count, CancellationToken cancellationToken)
        => ReadAsync(buffer.AsMemory(offset, count), cancellationToken).AsTask();

    public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

    public override void Flush()
    {
    }

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();

    public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();

    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            inner.Dispose();
        }
        base.Dispose(disposing);
    }
}
