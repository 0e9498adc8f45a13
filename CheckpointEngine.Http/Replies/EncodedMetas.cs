using System.IO.Compression;
using System.Runtime.CompilerServices;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Http.Replies;

/// <summary>The forms in which metas are sent, each made when it is first asked for, once, and kept as long as the published metas live.</summary>
/// <remarks>Any number of threads.</remarks>
internal sealed class EncodedMetas
{
    private const int Codings = 3;
    private readonly ConditionalWeakTable<PublishedMetas, Forms> _byMetas = [];
    private int _encodings;

    /// <summary>How often a form was made, for tests.</summary>
    internal int Encodings => Volatile.Read(ref _encodings);

    /// <summary>A form of <paramref name="published"/>; those who ask while it is made wait for the same one.</summary>
    internal Task<ChunkedBuffer> GetAsync(PublishedMetas published, MetasFormat format, ContentCoding coding)
    {
        Forms forms = _byMetas.GetValue(published, static _ => new Forms());
        int slot = (format == MetasFormat.Json ? Codings : 0) + (int)coding;
        lock (forms)
        {
            // A failure is told to those who waited for it, and tried anew for those who come after: memory may be back by then.
            return forms.Tasks[slot] is { IsFaulted: false } made
                ? made
                : forms.Tasks[slot] = Task.Run(() => Encode(published.Metas, format, coding));
        }
    }

    /// <summary>The entity tag of a form: strong tags name bytes, so every form needs its own (RFC 9110, 8.8.3.3).</summary>
    internal static string GetEntityTag(PublishedMetas published, MetasFormat format, ContentCoding coding)
    {
        string tag = published.EntityTag;
        ReadOnlySpan<char> open = tag.EndsWith('"') ? tag.AsSpan(0, tag.Length - 1) : $"\"{tag}";
        string suffix = coding switch { ContentCoding.Brotli => "-br", ContentCoding.Gzip => "-gzip", _ => "" };
        return $"{open}-{(format == MetasFormat.Json ? "json" : "pickle")}{suffix}\"";
    }

    private ChunkedBuffer Encode(CheckpointMetas metas, MetasFormat format, ContentCoding coding)
    {
        Interlocked.Increment(ref _encodings);
        var body = new ChunkedBuffer();
        if (coding == ContentCoding.Identity)
        {
            MetasDocument.Write(metas, format, body);
            return body;
        }
        // Optimal is quality 4 (brotli) and 6 (gzip): the metas of a trillion parameters take a fifth of a second. The best quality takes half
        // a minute for a tenth less.
        var target = new ChunkedBufferStream(body);
        using (Stream compressor = coding == ContentCoding.Brotli
            ? new BrotliStream(target, CompressionLevel.Optimal)
            : new GZipStream(target, CompressionLevel.Optimal))
        using (var writer = new StreamBufferWriter(compressor))
        {
            MetasDocument.Write(metas, format, writer);
        }
        return body;
    }

    private sealed class Forms
    {
        internal Task<ChunkedBuffer>?[] Tasks { get; } = new Task<ChunkedBuffer>?[2 * Codings];
    }
}
