using System.Text;
using CheckpointEngine.Http.Replies;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;

namespace CheckpointEngine.Http.Requests;

/// <summary>
/// The checkpoint that a request names. Servers decode a path before it is matched, all but <c>%2F</c>, so that afterwards <c>%2F</c> and
/// <c>%252F</c> look the same; the name is therefore taken from the request target as it came and decoded once.
/// </summary>
internal static class CheckpointNames
{
    /// <summary>The longest name, in bytes of UTF-8; what a file name may have.</summary>
    internal const int MaxBytes = 255;

    private static readonly UTF8Encoding s_strictUtf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    /// <summary>The name in the path.</summary>
    /// <param name="context">The request.</param>
    /// <param name="segmentsBehind">How many segments of the path follow the name.</param>
    internal static string FromPath(HttpContext context, int segmentsBehind)
    {
        string routed = context.Request.RouteValues["name"] as string ?? "";
        string target = context.Features.Get<IHttpRequestFeature>()?.RawTarget ?? "";
        ReadOnlySpan<char> segment = FindSegment(target, segmentsBehind);
        if (!segment.IsEmpty)
        {
            string name = Decode(segment);
            // A middleware may have given the request another path than the one it came with; then the target names something else.
            if (name == routed || DecodeAllButSlash(segment) == routed)
            {
                return Check(name);
            }
        }
        return Check(routed.Replace("%2F", "/", StringComparison.OrdinalIgnoreCase));
    }

    /// <summary>The name in <c>?checkpoint=</c>; null when there is none.</summary>
    internal static string? FromQuery(HttpContext context)
    {
        string? name = context.Request.Query["checkpoint"];
        return string.IsNullOrEmpty(name) ? null : Check(name);
    }

    private static string Check(string name)
    {
        int bytes = Encoding.UTF8.GetByteCount(name);
        return bytes is > 0 and <= MaxBytes
            ? name
            : throw new HttpProblemException(StatusCodes.Status400BadRequest, $"a checkpoint's name has 1 to {MaxBytes} bytes of UTF-8, this one {bytes:N0}");
    }

    private static ReadOnlySpan<char> FindSegment(ReadOnlySpan<char> target, int segmentsBehind)
    {
        int end = target.IndexOfAny('?', '#');
        ReadOnlySpan<char> path = end < 0 ? target : target[..end];
        if (path.EndsWith("/"))
        {
            path = path[..^1];      // as routing does
        }
        for (int behind = 0; ; behind++)
        {
            int slash = path.LastIndexOf('/');
            if (slash < 0)
            {
                return default;
            }
            if (behind == segmentsBehind)
            {
                return path[(slash + 1)..];
            }
            path = path[..slash];
        }
    }

    private static string DecodeAllButSlash(ReadOnlySpan<char> segment)
        => Decode(segment.ToString().Replace("%2F", "%252F", StringComparison.Ordinal).Replace("%2f", "%252f", StringComparison.Ordinal));

    private static string Decode(ReadOnlySpan<char> segment)
    {
        byte[] utf8 = new byte[Encoding.UTF8.GetMaxByteCount(segment.Length)];
        int length = 0;
        while (!segment.IsEmpty)
        {
            if (segment[0] != '%')
            {
                int plain = segment.IndexOf('%') is > 0 and int at ? at : segment.Length;
                length += Encoding.UTF8.GetBytes(segment[..plain], utf8.AsSpan(length));
                segment = segment[plain..];
                continue;
            }
            if (segment.Length < 3 || !char.IsAsciiHexDigit(segment[1]) || !char.IsAsciiHexDigit(segment[2]))
            {
                throw new HttpProblemException(StatusCodes.Status400BadRequest, "the checkpoint's name in the path has a '%' without two hexadecimal digits behind it");
            }
            utf8[length++] = Convert.FromHexString(segment.Slice(1, 2))[0];
            segment = segment[3..];
        }
        try
        {
            return s_strictUtf8.GetString(utf8, 0, length);
        }
        catch (DecoderFallbackException notUtf8)
        {
            throw new HttpProblemException(StatusCodes.Status400BadRequest, "the checkpoint's name in the path is not UTF-8", notUtf8);
        }
    }
}
