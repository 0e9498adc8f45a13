using System.Text.Encodings.Web;
using System.Text.Json;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Transfer.Handshake;

/// <summary>How the JSON of the handshake port is read and written: typed, bounded in depth, null as if the key were missing.</summary>
/// <remarks>
/// Every Read expects the reader on a value and throws <see cref="CheckpointError.InvalidData"/> with the value's offset when its type is
/// another. Strings that are not UTF-8 surface as <see cref="InvalidOperationException"/> of the reader; <see cref="ThrowMalformed"/> takes both.
/// </remarks>
internal static class HandshakeJson
{
    // A descriptor is 5 deep. Mooncake gives up (and dies) beyond 1000.
    private const int MaxDepth = 64;

    internal static JsonReaderOptions ReaderOptions => new() { MaxDepth = MaxDepth };

    // Plain JSON, not meant for HTML: names keep their <, + and non-ASCII letters. What is written here has the right form by construction.
    internal static JsonWriterOptions WriterOptions => new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping, SkipValidation = true };

    internal static string ReadString(ref Utf8JsonReader reader, string what) => reader.TokenType switch
    {
        JsonTokenType.String => reader.GetString()!,
        JsonTokenType.Null => "",
        _ => ThrowWrongType<string>(ref reader, what, "a string"),
    };

    /// <summary>
    /// As <see cref="ReadString"/>, but returns <paramref name="previous"/> itself when the text is the same: a name repeated a million times
    /// is one string.
    /// </summary>
    internal static string ReadRepeatedString(ref Utf8JsonReader reader, string what, string previous)
        => reader.TokenType == JsonTokenType.String && reader.ValueTextEquals(previous) ? previous : ReadString(ref reader, what);

    internal static ulong ReadUInt64(ref Utf8JsonReader reader, string what) => reader.TokenType switch
    {
        JsonTokenType.Number when reader.TryGetUInt64(out ulong value) => value,
        JsonTokenType.Null => 0,
        _ => ThrowWrongType<ulong>(ref reader, what, "an integer from 0 to 2^64-1"),
    };

    internal static uint ReadUInt32(ref Utf8JsonReader reader, string what) => reader.TokenType switch
    {
        JsonTokenType.Number when reader.TryGetUInt32(out uint value) => value,
        JsonTokenType.Null => 0,
        _ => ThrowWrongType<uint>(ref reader, what, "an integer from 0 to 2^32-1"),
    };

    internal static int ReadInt32(ref Utf8JsonReader reader, string what) => reader.TokenType switch
    {
        JsonTokenType.Number when reader.TryGetInt32(out int value) => value,
        JsonTokenType.Null => 0,
        _ => ThrowWrongType<int>(ref reader, what, "a 32-bit integer"),
    };

    internal static bool ReadBoolean(ref Utf8JsonReader reader, string what) => reader.TokenType switch
    {
        JsonTokenType.True => true,
        JsonTokenType.False or JsonTokenType.Null => false,
        _ => ThrowWrongType<bool>(ref reader, what, "true or false"),
    };

    /// <summary>Enters an object or array; false when null stands in its place.</summary>
    internal static bool TryEnter(ref Utf8JsonReader reader, JsonTokenType start, string what)
        => reader.TokenType == start
            || (reader.TokenType != JsonTokenType.Null
                && ThrowWrongType<bool>(ref reader, what, start == JsonTokenType.StartObject ? "an object" : "an array"));

    /// <summary>Moves to the next element of the array; false at its end.</summary>
    internal static bool NextElement(ref Utf8JsonReader reader) => reader.Read() && reader.TokenType != JsonTokenType.EndArray;

    /// <summary>Moves to the next key of the object; false at its end.</summary>
    internal static bool NextKey(ref Utf8JsonReader reader) => reader.Read() && reader.TokenType != JsonTokenType.EndObject;

    /// <summary>Moves on to the value when the key that the reader stands on is that one; else Skip takes key and value together.</summary>
    internal static bool IsKey(ref Utf8JsonReader reader, ReadOnlySpan<byte> name) => reader.ValueTextEquals(name) && reader.Read();

    // The list is emptied, and filled with what is read: one for many arrays.
    internal static uint[] ReadUInt32s(ref Utf8JsonReader reader, string what, int maxCount, List<uint> scratch)
    {
        if (!TryEnter(ref reader, JsonTokenType.StartArray, what))
        {
            return [];
        }
        scratch.Clear();
        while (NextElement(ref reader))
        {
            CheckCount(ref reader, scratch.Count, maxCount, what);
            scratch.Add(ReadUInt32(ref reader, what));
        }
        return [.. scratch];
    }

    internal static string[] ReadStrings(ref Utf8JsonReader reader, string what, int maxCount)
    {
        if (!TryEnter(ref reader, JsonTokenType.StartArray, what))
        {
            return [];
        }
        var items = new List<string>();
        while (NextElement(ref reader))
        {
            CheckCount(ref reader, items.Count, maxCount, what);
            items.Add(ReadString(ref reader, what));
        }
        return [.. items];
    }

    internal static void CheckCount(ref Utf8JsonReader reader, int count, int maxCount, string what)
    {
        if (count >= maxCount)
        {
            ThrowHelper.ThrowInvalidData("handshake message", reader.TokenStartIndex, $"more than {maxCount:N0} {what}");
        }
    }

    internal static T ThrowWrongType<T>(ref Utf8JsonReader reader, string what, string expected)
    {
        ThrowHelper.ThrowInvalidData("handshake message", reader.TokenStartIndex, $"{what} is not {expected}");
        return default;
    }

    internal static void ThrowMalformed(ref Utf8JsonReader reader, Exception cause)
        => ThrowHelper.Throw(CheckpointError.InvalidData,
            $"handshake message: {(cause is JsonException ? "malformed JSON" : "a string that is not UTF-8")} (at byte {reader.BytesConsumed})", cause);

    /// <summary>A peer's text, fit for a message: at most 64 characters, none of them control characters.</summary>
    internal static string Printable(ReadOnlySpan<char> text)
    {
        Span<char> clean = stackalloc char[Math.Min(text.Length, 64)];
        for (int i = 0; i < clean.Length; i++)
        {
            clean[i] = char.IsBetween(text[i], ' ', '~') ? text[i] : '?';
        }
        return text.Length > clean.Length ? $"{clean}..." : clean.ToString();
    }
}
