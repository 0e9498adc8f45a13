using System.Text;
using System.Text.Json;

namespace CheckpointEngine.Internal;

/// <summary>Brings what a stranger wrote into messages: short, and without characters that could forge a line of a log.</summary>
internal static class MessageText
{
    private const int MaxChars = 120;

    internal static string Quote(ReadOnlySpan<byte> utf8)
        => Quote(Encoding.UTF8.GetString(utf8[..Math.Min(utf8.Length, MaxChars * 3)]), utf8.Length > MaxChars * 3);

    internal static string Quote(string text) => Quote(text, false);

    /// <summary>A whole text of a stranger, without quotation marks: cut to <paramref name="maxChars"/>.</summary>
    internal static string Clean(string text, int maxChars)
        => text.Length > maxChars ? $"{WithoutControls(text[..maxChars])}…" : WithoutControls(text);

    /// <summary>
    /// What is wrong with a document, by its reader: without the reader's own counting of lines, and cleaned, since of a misspelt literal it
    /// quotes all that follows.
    /// </summary>
    internal static string Reason(JsonException failure)
    {
        int cut = failure.Message.LastIndexOf(" LineNumber:", StringComparison.Ordinal);
        return Clean(cut < 0 ? failure.Message : failure.Message[..cut], MaxChars * 2);
    }

    private static string Quote(string text, bool wasCut)
    {
        bool isLong = wasCut || text.Length > MaxChars;
        string shown = WithoutControls(text[..Math.Min(text.Length, MaxChars)]);
        return isLong ? $"'{shown}…'" : $"'{shown}'";
    }

    private static string WithoutControls(string text) => string.Create(text.Length, text, static (characters, source) =>
    {
        for (int i = 0; i < characters.Length; i++)
        {
            characters[i] = char.IsControl(source[i]) || char.IsSurrogate(source[i]) ? '?' : source[i];
        }
    });
}
