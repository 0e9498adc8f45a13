using System.Net;
using System.Net.Sockets;

namespace CheckpointEngine.Internal;

/// <summary>What tells this host from others.</summary>
internal static class HostIdentity
{
    /// <summary>The kernel's boot id: the same for all processes of a host, containers included, another after each boot. Empty where there is none.</summary>
    /// <remarks>Source: random(4), /proc/sys/kernel/random/boot_id.</remarks>
    internal static string BootId { get; } = Read();

    /// <summary>Whether an address is one of this host's, as this process's network namespace sees it.</summary>
    internal static bool IsOwnAddress(IPAddress address)
    {
        try
        {
            using var socket = new Socket(address.AddressFamily, SocketType.Dgram, ProtocolType.Udp);
            socket.Bind(new IPEndPoint(address, 0));       // of another host it cannot be had
            return true;
        }
        catch (SocketException)
        {
            return false;
        }
    }

    private static string Read()
    {
        try
        {
            return File.ReadAllText("/proc/sys/kernel/random/boot_id").Trim();
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            return "";
        }
    }
}
