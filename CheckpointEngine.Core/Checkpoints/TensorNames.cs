using System.Text;

namespace CheckpointEngine.Checkpoints;

/// <summary>Names of tensors in messages.</summary>
internal static class TensorNames
{
    private const int MaxQuotedBytes = 200;

    /// <summary>A name in quotation marks, cut when it is long and without control characters: it may come from a stranger.</summary>
    internal static string Quote(ReadOnlySpan<byte> nameUtf8)
    {
        string text = Encoding.UTF8.GetString(nameUtf8[..Math.Min(nameUtf8.Length, MaxQuotedBytes)]);
        var quoted = new StringBuilder(text.Length + 16).Append('\'');
        foreach (char c in text)
        {
            quoted.Append(char.IsControl(c) ? '\uFFFD' : c);
        }
        quoted.Append(nameUtf8.Length > MaxQuotedBytes ? "…'" : "'");
        return quoted.ToString();
    }

    /// <inheritdoc cref="Quote(ReadOnlySpan{byte})"/>
    internal static string Quote(TensorTable tensors, int tensor) => Quote(tensors.GetNameUtf8(tensor));
}
