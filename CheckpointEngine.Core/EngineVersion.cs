namespace CheckpointEngine;

/// <summary>The version of this engine.</summary>
public static class EngineVersion
{
    /// <summary>The version as text, for example <c>0.1.0</c>.</summary>
    public const string Text = "0.1.0";

    /// <summary>The version as UTF-8 with a terminating zero (not counted in the span), in read-only data of the image.</summary>
    public static ReadOnlySpan<byte> Utf8 => "0.1.0"u8;
}
