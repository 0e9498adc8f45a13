using System.Text;

namespace CheckpointEngine.Fuzz.Support;

/// <summary>Dictionaries of the targets.</summary>
internal static class Tokens
{
    /// <summary>What any JSON reader has to mind: structure, depth, escapes, halves of surrogate pairs, bytes that are not UTF-8.</summary>
    private static readonly string[] s_json =
        ["{", "}", "[", "]", ":", ",", "\"", "{}", "[]", "\"\"", "null", "true", "false", "0", "-1", "\\u0000", "\\ud800", "\\udc00", "\\ud83d\\ude00", "\\n", "\\\"", " ", "\n", "//", "\t", "é", "😀", "\u2028"];

    private static readonly byte[][] s_notUtf8 = [[0xFF], [0xC3], [0xED, 0xA0, 0x80], [0xEF, 0xBB, 0xBF], [0xF4, 0x90, 0x80, 0x80]];

    internal static byte[][] Text(params string[] tokens) => [.. tokens.Select(Encoding.UTF8.GetBytes), .. s_notUtf8];

    internal static byte[][] Json(params string[] tokens) => [.. Text([.. s_json, .. tokens])];
}
