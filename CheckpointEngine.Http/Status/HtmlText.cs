using System.Globalization;
using System.Runtime.CompilerServices;
using System.Text;
using System.Text.Encodings.Web;

namespace CheckpointEngine.Http.Status;

/// <summary>HTML that is written as interpolated strings: the text between the holes is markup, what comes in the holes is a stranger's and is escaped, always.</summary>
internal sealed class HtmlText
{
    private readonly StringBuilder _text = new(16 << 10);

    /// <summary>Appends markup.</summary>
    internal HtmlText Add([InterpolatedStringHandlerArgument("")] Handler markup)
    {
        _ = markup;     // it has written itself
        return this;
    }

    /// <summary>Appends markup of our own that is no interpolated string.</summary>
    internal HtmlText AddMarkup(string markup)
    {
        _text.Append(markup);
        return this;
    }

    public override string ToString() => _text.ToString();

    /// <summary>Writes an interpolated string.</summary>
    [InterpolatedStringHandler]
    internal readonly struct Handler
    {
        private readonly StringBuilder _text;

        public Handler(int literalLength, int formattedCount, HtmlText html)
        {
            _ = literalLength + formattedCount;
            _text = html._text;
        }

        public void AppendLiteral(string markup) => _text.Append(markup);

        public void AppendFormatted(string? text) => _text.Append(HtmlEncoder.Default.Encode(text ?? ""));

        public void AppendFormatted<T>(T value, string? format = null)
            where T : IFormattable => AppendFormatted(value.ToString(format, CultureInfo.InvariantCulture));
    }
}
