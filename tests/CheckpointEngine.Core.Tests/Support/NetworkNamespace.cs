using System.Diagnostics;
using System.Net;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Tests;

/// <summary>A network namespace beside the test's own, joined to it by a pair of virtual devices: the nearest thing to another host.</summary>
internal sealed partial class NetworkNamespace : IDisposable
{
    private const int CloneNewNet = 0x4000_0000;

    private static int s_count;

    private readonly string _name;

    private NetworkNamespace(string name, byte subnet)
    {
        _name = name;
        OurAddress = IPAddress.Parse($"169.254.{subnet}.1");
    }

    /// <summary>The address of this side.</summary>
    internal IPAddress OurAddress { get; }

    /// <summary>Makes one, or skips the test and says why.</summary>
    internal static NetworkNamespace CreateOrSkip()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess, "only root can make a network namespace");
        int number = Interlocked.Increment(ref s_count);
        byte subnet = (byte)(1 + (Environment.ProcessId + number) % 250);
        string name = $"ce{Environment.ProcessId}n{number}";
        var made = new NetworkNamespace(name, subnet);
        string?[] steps =
        [
            Ip("netns", "add", name),
            Ip("link", "add", name + "a", "type", "veth", "peer", "name", name + "b"),
            Ip("link", "set", name + "b", "netns", name),
            Ip("addr", "add", $"{made.OurAddress}/24", "dev", name + "a"),
            Ip("link", "set", name + "a", "up"),
            Ip("-n", name, "addr", "add", $"169.254.{subnet}.2/24", "dev", name + "b"),
            Ip("-n", name, "link", "set", name + "b", "up"),
        ];
        if (Array.Find(steps, error => error is not null) is string reason)
        {
            made.Dispose();
            Assert.Skip($"no network namespace with a pair of virtual devices can be made here: {reason}");
        }
        return made;
    }

    /// <summary>Runs something on a thread of that namespace: sockets that it makes belong there.</summary>
    internal Task RunInsideAsync(Action action) => Task.Factory.StartNew(() =>
    {
        using SafeFileHandle space = File.OpenHandle("/var/run/netns/" + _name);
        if (setns(space, CloneNewNet) != 0)
        {
            throw new IOException($"setns: {Marshal.GetLastPInvokeErrorMessage()}");
        }
        action();       // the thread is its own and ends with it
    }, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);

    public void Dispose()
    {
        Ip("link", "del", _name + "a");
        Ip("netns", "del", _name);
    }

    // Null, or what it says.
    private static string? Ip(params string[] arguments)
    {
        try
        {
            using Process process = Process.Start(new ProcessStartInfo("ip", arguments) { RedirectStandardError = true, RedirectStandardOutput = true })!;
            string errors = process.StandardError.ReadToEnd();
            process.WaitForExit();
            return process.ExitCode == 0 ? null : $"ip {string.Join(' ', arguments)}: {errors.Trim()}";
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return "there is no ip command";
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int setns(SafeFileHandle descriptor, int kind);
}
