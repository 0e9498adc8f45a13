namespace CheckpointEngine.Cli.Output;

/// <summary>Lines for people on stderr, each naming the program, each really one line.</summary>
internal static class Stderr
{
    public static void Error(string message) => Write(message);

    public static void Warning(string message) => Write("warning: " + message);

    public static void Note(string message) => Write("note: " + message);

    private static void Write(string message) => Console.Error.WriteLine("checkpoint-engine: " + OneLine(message));

    internal static string OneLine(string message)
        => string.Join(' ', message.Split(['\r', '\n'], StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries));
}
