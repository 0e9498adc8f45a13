using System.IO.Compression;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using CheckpointEngine.Http.Replies;
using CheckpointEngine.Metas;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.Net.Http.Headers;

namespace CheckpointEngine.Http.Requests;

/// <summary>Reads bodies within their limits, which hold for what is decompressed as well.</summary>
internal static class RequestBody
{
    /// <summary>The most bytes of metas, decompressed; seven times those of the largest model there is.</summary>
    internal const long MaxMetasBytes = 128L << 20;

    /// <summary>The most bytes of any other request, a list of files the longest.</summary>
    internal const long MaxRequestBytes = 1L << 20;

    private const int ReadBytes = 64 << 10;

    /// <summary>Opens the body; more than <paramref name="limitBytes"/> of it end the request with 413 while they are read.</summary>
    internal static Stream Open(HttpContext context, long limitBytes)
    {
        HttpRequest request = context.Request;
        if (request.ContentLength > limitBytes)
        {
            throw new HttpProblemException(StatusCodes.Status413PayloadTooLarge, $"the body has {request.ContentLength:N0} bytes, at most {limitBytes:N0} are read here");
        }
        // Ours instead of the server's 30 MB: what comes over the wire is bounded by the server, what comes out of it here.
        if (context.Features.Get<IHttpMaxRequestBodySizeFeature>() is { IsReadOnly: false } size)
        {
            size.MaxRequestBodySize = limitBytes;
        }
        string coding = request.Headers.ContentEncoding.ToString().Trim();
        Stream plain = coding.ToLowerInvariant() switch
        {
            "" or "identity" => request.Body,
            "br" => new BrotliStream(request.Body, CompressionMode.Decompress, leaveOpen: true),
            "gzip" or "x-gzip" => new GZipStream(request.Body, CompressionMode.Decompress, leaveOpen: true),
            _ => throw UnknownCoding(context, coding),
        };
        return new LimitedStream(plain, limitBytes);
    }

    /// <summary>Reads metas from the body in a format.</summary>
    /// <exception cref="HttpProblemException">400, 413, 415, 422.</exception>
    internal static async Task<CheckpointMetas> ReadMetasAsync(HttpContext context, MetasFormat format)
    {
        Stream body = Open(context, MaxMetasBytes);
        await using (body.ConfigureAwait(false))
        {
            try
            {
                if (format == MetasFormat.Json)
                {
                    return await MetasJsonReader.ReadAsync(body, MaxMetasBytes, context.RequestAborted).ConfigureAwait(false);
                }
                var whole = new ChunkedBuffer();
                int count;
                while ((count = await body.ReadAsync(whole.GetMemory(ReadBytes), context.RequestAborted).ConfigureAwait(false)) != 0)
                {
                    whole.Advance(count);
                }
                return MetasPickleReader.Read(whole.ToSpan());
            }
            catch (CheckpointEngineException bad) when (bad.Error is CheckpointError.InvalidData or CheckpointError.WrongShape)
            {
                throw BadMetas(format, bad);
            }
        }
    }

    /// <summary>Reads a request of ours from the body.</summary>
    /// <param name="context">Of the request.</param>
    /// <param name="type">How it is read.</param>
    /// <param name="isWhole">Whether it has what it needs.</param>
    /// <param name="shape">What it must be, for who sends something else.</param>
    /// <exception cref="HttpProblemException">400 for what is no JSON, 413, 415, 422 for another shape.</exception>
    internal static async Task<T> ReadJsonAsync<T>(HttpContext context, JsonTypeInfo<T> type, Predicate<T> isWhole, string shape)
        where T : class
    {
        Stream body = Open(context, MaxRequestBytes);
        await using (body.ConfigureAwait(false))
        {
            JsonDocument document;
            try
            {
                document = await JsonDocument.ParseAsync(body, cancellationToken: context.RequestAborted).ConfigureAwait(false);
            }
            catch (JsonException bad)
            {
                throw new HttpProblemException(StatusCodes.Status400BadRequest, $"the body is not JSON: {bad.Message}", bad);
            }
            using (document)
            {
                try
                {
                    if (document.Deserialize(type) is { } request && isWhole(request))
                    {
                        return request;
                    }
                }
                catch (JsonException)
                {
                    // Told below: what the serializer says names our types.
                }
                throw new HttpProblemException(StatusCodes.Status422UnprocessableEntity, "the body must be " + shape);
            }
        }
    }

    /// <summary>What metas that break a rule are answered with: 422 for JSON that is JSON, else 400.</summary>
    internal static HttpProblemException BadMetas(MetasFormat format, CheckpointEngineException bad)
        => new(format == MetasFormat.Json && bad.Error == CheckpointError.WrongShape ? StatusCodes.Status422UnprocessableEntity : StatusCodes.Status400BadRequest,
            bad.Message, bad);

    /// <summary>The format that the body's media type names: JSON when it says so, else a pickle.</summary>
    internal static MetasFormat GetMetasFormat(HttpContext context)
        => MediaTypeHeaderValue.TryParse(context.Request.ContentType, out MediaTypeHeaderValue? type)
            && (type.SubType.Equals("json", StringComparison.OrdinalIgnoreCase) || type.Suffix.Equals("json", StringComparison.OrdinalIgnoreCase))
            ? MetasFormat.Json
            : MetasFormat.Pickle;

    private static HttpProblemException UnknownCoding(HttpContext context, string coding)
    {
        context.Response.Headers.AcceptEncoding = "br, gzip";
        return new HttpProblemException(StatusCodes.Status415UnsupportedMediaType, $"the body's Content-Encoding '{coding}' is not known here; send it plain, or as br or gzip");
    }
}
