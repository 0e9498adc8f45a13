using System.Net.Sockets;
using System.Security.Cryptography;

namespace CheckpointEngine.Cli.Output;

/// <summary>The one line that is told of a failure.</summary>
internal static class FailureText
{
    public static string Describe(Exception failure) => failure switch
    {
        CheckpointEngineException known => known.Message,
        IOException or UnauthorizedAccessException or SocketException or CryptographicException => failure.Message,
        OutOfMemoryException => "not enough memory; " + failure.Message,
        _ => $"unexpected {failure.GetType().Name}: {failure.Message}; a fault of this program: set CHECKPOINT_ENGINE_TRACE=1 to see where, and report it",
    };
}
