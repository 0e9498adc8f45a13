using System.Net.Sockets;
using System.Text;

namespace CheckpointEngine.Peers;

/// <summary>Where the peer service can be reached on its own host: <c>/path/to.sock</c>, or <c>@name</c> for a socket without a file (abstract, unix(7)).</summary>
internal static class LocalSocketName
{
    // sockaddr_un has room for 108 bytes, NUL included.
    private const int MaxBytes = 107;

    /// <summary>A name without a file that nobody else has. It is seen within the network namespace.</summary>
    internal static string MakeUnique() => $"@checkpoint-engine.{Environment.ProcessId}.{Random.Shared.NextInt64():x}";

    /// <summary>Whether <paramref name="name"/> can be one.</summary>
    internal static bool IsValid(string name)
        => name.Length > 1 && name[0] is '/' or '@' && Encoding.UTF8.GetByteCount(name) <= MaxBytes && !name.AsSpan().ContainsAnyInRange('\0', '\x1f');

    /// <summary>The address of a valid name.</summary>
    internal static UnixDomainSocketEndPoint ToEndPoint(string name) => new(name[0] == '@' ? $"\0{name.AsSpan(1)}" : name);
}
