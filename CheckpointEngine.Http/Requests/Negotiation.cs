using CheckpointEngine.Http.Replies;
using CheckpointEngine.Metas;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Primitives;
using Microsoft.Net.Http.Headers;

namespace CheckpointEngine.Http.Requests;

/// <summary>Which form of a reply a request asks for (RFC 9110, 12.5) and whether it has it already (13.1.2).</summary>
internal static class Negotiation
{
    private static readonly MediaTypeHeaderValue s_json = new("application/json");
    private static readonly MediaTypeHeaderValue s_pickle = new("application/octet-stream");

    /// <summary>The format that Accept prefers; a pickle when it says nothing, likes both alike, or accepts neither.</summary>
    internal static MetasFormat ChooseFormat(StringValues accept)
    {
        if (accept.Count == 0 || !MediaTypeHeaderValue.TryParseList(accept, out IList<MediaTypeHeaderValue>? ranges))
        {
            return MetasFormat.Pickle;
        }
        return GetQuality(ranges, s_json) > GetQuality(ranges, s_pickle) ? MetasFormat.Json : MetasFormat.Pickle;
    }

    /// <summary>The coding that Accept-Encoding likes best: of equals br before gzip before none; none when nothing is said.</summary>
    internal static ContentCoding ChooseCoding(StringValues acceptEncoding)
    {
        if (acceptEncoding.Count == 0 || !StringWithQualityHeaderValue.TryParseList(acceptEncoding, out IList<StringWithQualityHeaderValue>? codings))
        {
            return ContentCoding.Identity;
        }
        double any = FindQuality(codings, "*") ?? 0;
        double brotli = FindQuality(codings, "br") ?? any;
        double gzip = FindQuality(codings, "gzip") ?? FindQuality(codings, "x-gzip") ?? any;
        double identity = FindQuality(codings, "identity") ?? 0;    // acceptable unlisted, but liked less than what is listed
        double best = Math.Max(brotli, Math.Max(gzip, identity));
        return best == 0 ? ContentCoding.Identity
            : brotli == best ? ContentCoding.Brotli
            : gzip == best ? ContentCoding.Gzip
            : ContentCoding.Identity;
    }

    /// <summary>Whether If-None-Match names the form that would be sent.</summary>
    internal static bool HasAlready(StringValues ifNoneMatch, string entityTag)
    {
        if (ifNoneMatch.Count == 0 || !EntityTagHeaderValue.TryParseList(ifNoneMatch, out IList<EntityTagHeaderValue>? tags))
        {
            return false;
        }
        foreach (EntityTagHeaderValue tag in tags)
        {
            if (tag.Tag == "*" || tag.Tag == entityTag)     // weak comparison: W/ does not count
            {
                return true;
            }
        }
        return false;
    }

    // The quality of the most specific range that covers the type.
    private static double GetQuality(IList<MediaTypeHeaderValue> ranges, MediaTypeHeaderValue type)
    {
        int specificity = -1;
        double quality = 0;
        foreach (MediaTypeHeaderValue range in ranges)
        {
            int rank = range.MatchesAllTypes ? 0 : range.MatchesAllSubTypes ? 1 : 2;
            bool covers = rank switch
            {
                0 => true,
                1 => range.Type.Equals(type.Type, StringComparison.OrdinalIgnoreCase),
                _ => range.MediaType.Equals(type.MediaType, StringComparison.OrdinalIgnoreCase),
            };
            if (covers && rank > specificity)
            {
                specificity = rank;
                quality = range.Quality ?? 1;
            }
        }
        return quality;
    }

    private static double? FindQuality(IList<StringWithQualityHeaderValue> codings, string coding)
    {
        foreach (StringWithQualityHeaderValue entry in codings)
        {
            if (entry.Value.Equals(coding, StringComparison.OrdinalIgnoreCase))
            {
                return entry.Quality ?? 1;
            }
        }
        return null;
    }
}
