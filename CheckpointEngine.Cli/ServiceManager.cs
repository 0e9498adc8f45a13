using System.Net.Sockets;
using CheckpointEngine.Cli.Output;
using Microsoft.Extensions.Hosting.Systemd;

namespace CheckpointEngine.Cli;

/// <summary>Tells the service manager that started the command, if one did (<c>NOTIFY_SOCKET</c>, systemd's <c>Type=notify</c>), how far it is; see sd_notify(3).</summary>
internal static class ServiceManager
{
    /// <summary>It can be joined from.</summary>
    /// <param name="checkpoints">How many checkpoints it holds, which <c>systemctl status</c> shows.</param>
    public static void TellReady(int checkpoints) => Tell($"READY=1\nSTATUS=holding {checkpoints} checkpoint{(checkpoints == 1 ? "" : "s")}");

    /// <summary>A signal came; joins under way go on to their end.</summary>
    public static void TellStopping() => Tell("STOPPING=1\nSTATUS=draining: joins under way go on");

    private static void Tell(string state)
    {
        try
        {
            var notifier = new SystemdNotifier();
            notifier.Notify(new ServiceState(state));       // nothing without a socket to tell it to
        }
        catch (SocketException unreachable)
        {
            Stderr.Warning($"the service manager cannot be told its state at NOTIFY_SOCKET: {unreachable.Message}");
        }
    }
}
