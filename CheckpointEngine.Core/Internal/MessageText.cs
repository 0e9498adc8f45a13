using System.Text;

namespace CheckpointEngine.Internal;

/// <summary>Brings what a stranger wrote into messages: short, and without characters that could forge a line of a log.</summary>
internal static class MessageText
{
    private const int MaxChars = 120;

    internal static string Quote(ReadOnlySpan<byte> utf8)
        => Quote(Encoding.UTF8.GetString(utf8[..Math.Min(utf8.Length, MaxChars * 3)]), utf8.Length > MaxChars * 3);

    internal static string Quote(string text) => Quote(text, false);

    private static string Quote(string text, bool wasCut)
    {
        bool isLong = wasCut || text.Length > MaxChars;
        string shown = text[..Math.Min(text.Length, MaxChars)];
        shown = string.Create(shown.Length, shown, static (characters, source) =>
        {
            for (int i = 0; i < characters.Length; i++)
            {
                characters[i] = char.IsControl(source[i]) || char.IsSurrogate(source[i]) ? '?' : source[i];
            }
        });
        return isLong ? $"'{shown}…'" : $"'{shown}'";
    }
}
