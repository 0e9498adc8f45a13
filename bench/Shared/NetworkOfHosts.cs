using System.Diagnostics;
using System.Globalization;

namespace CheckpointEngine.Simulation;

/// <summary>Hosts on one switch, each a network namespace with an address of its own: 10.77.0.1 the first.</summary>
/// <remarks>Needs root, ip(8), and for rates tc(8) with the kernel's tbf.</remarks>
internal sealed class NetworkOfHosts : IDisposable
{
    private static readonly string[] s_chains = ["INPUT", "OUTPUT"];

    private static int s_count;

    private readonly string _prefix;
    private int _limited;

    private NetworkOfHosts(int hosts)
    {
        Hosts = hosts;
        _prefix = $"ce{Environment.ProcessId}x{Interlocked.Increment(ref s_count)}";
    }

    public int Hosts { get; }

    private string Switch => _prefix + "s";

    /// <summary>Makes one.</summary>
    /// <param name="hosts">How many hosts.</param>
    /// <param name="firstMegabits">What the first sends and receives at most, in Mbit/s; 0 for no limit.</param>
    /// <param name="whyNot">Why there is none.</param>
    /// <param name="limited">How many of the first have that limit, each.</param>
    public static NetworkOfHosts? TryCreate(int hosts, int firstMegabits, out string? whyNot, int limited = 1)
    {
        if (!Environment.IsPrivilegedProcess)
        {
            whyNot = "only root can make network namespaces";
            return null;
        }
        var made = new NetworkOfHosts(hosts);
        whyNot = made.Make(firstMegabits, firstMegabits == 0 ? 0 : limited) is string reason ? $"no network namespaces with a switch between them can be made here: {reason}" : null;
        if (whyNot is not null)
        {
            made.Dispose();
            return null;
        }
        return made;
    }

    public static string AddressOf(int host) => $"10.77.0.{host + 1}";

    /// <summary>The words that run a command on a host: the process is the command itself.</summary>
    public string[] On(int host) => ["ip", "netns", "exec", NameOf(host)];

    /// <summary>Bytes that a host has sent, headers included.</summary>
    public long BytesSentBy(int host) => long.Parse(Run("ip", "netns", "exec", NameOf(host), "cat", "/sys/class/net/eth0/statistics/tx_bytes").Output, CultureInfo.InvariantCulture);

    /// <summary>Pulls a host's plug, or puts it back.</summary>
    public void Plug(int host, bool isIn)
    {
        if (Run("ip", "-n", Switch, "link", "set", $"p{host}", isIn ? "up" : "down").Errors is { Length: > 0 } errors)
        {
            throw new InvalidOperationException(errors);
        }
    }

    /// <summary>Makes a host's line worse than it was, both ways, until <see cref="Mend"/>; one that is bad already is mended first.</summary>
    /// <param name="host">Which.</param>
    /// <param name="quality">How bad. Where the kernel has no netem(8), its losses alone, by iptables(8).</param>
    /// <returns>What was done, as it is told; null when neither is to be had, with the reason in <paramref name="whyNot"/>.</returns>
    public string? TryWorsen(int host, LineQuality quality, out string? whyNot)
    {
        Mend(host);
        whyNot = Ways(host).Select(way => Run(["tc", "-n", way.Space, "qdisc", "add", "dev", way.Device, .. way.Parent, .. quality.ToNetem()]).Errors).FirstOrDefault(errors => errors.Length != 0);
        if (whyNot is null)
        {
            return quality.ToString();
        }
        Mend(host);
        if (quality.LossPercent == 0)
        {
            return null;
        }
        string netem = whyNot;
        whyNot = s_chains.Select(chain => Run(["ip", "netns", "exec", NameOf(host), "iptables", "-w", "-A", chain, .. Losing(quality)]).Errors).FirstOrDefault(errors => errors.Length != 0);
        if (whyNot is null)
        {
            return new LineQuality(quality.LossPercent).ToString();
        }
        whyNot = $"{netem}; {whyNot}";
        return null;
    }

    /// <summary>Makes a host's line as good as it was made.</summary>
    public void Mend(int host)
    {
        foreach ((string space, string device, string[] parent) in Ways(host))
        {
            Run(["tc", "-n", space, "qdisc", "del", "dev", device, .. parent]);
        }
        foreach (string chain in s_chains)
        {
            Run("ip", "netns", "exec", NameOf(host), "iptables", "-w", "-F", chain);
        }
    }

    public void Dispose()
    {
        for (int host = 0; host < Hosts; host++)
        {
            Run("ip", "netns", "del", NameOf(host));
        }
        Run("ip", "netns", "del", Switch);
    }

    private string NameOf(int host) => $"{_prefix}h{host}";

    // Below a limit, which knows one class.
    private (string Space, string Device, string[] Parent)[] Ways(int host)
    {
        string[] parent = host < _limited ? ["parent", "1:1"] : ["root"];
        return [(NameOf(host), "eth0", parent), (Switch, $"p{host}", parent)];
    }

    private static string[] Losing(LineQuality quality)
        => ["-m", "statistic", "--mode", "random", "--probability", (quality.LossPercent / 100).ToString(CultureInfo.InvariantCulture), "-j", "DROP"];

    // Null, or what was said.
    private string? Make(int megabits, int limited)
    {
        _limited = limited;
        string[][] steps =
        [
            ["ip", "netns", "add", Switch],
            ["ip", "-n", Switch, "link", "add", "br0", "type", "bridge"],
            ["ip", "-n", Switch, "link", "set", "br0", "up"],
            .. Enumerable.Range(0, Hosts).SelectMany(StepsOf),
            .. Enumerable.Range(0, limited).SelectMany(host => (string[][])[Limit(NameOf(host), "eth0", megabits), Limit(Switch, $"p{host}", megabits)]),
        ];
        return steps.Select(step => Run(step).Errors).FirstOrDefault(errors => errors.Length != 0);
    }

    private IEnumerable<string[]> StepsOf(int host) =>
    [
        ["ip", "netns", "add", NameOf(host)],
        ["ip", "link", "add", "eth0", "netns", NameOf(host), "type", "veth", "peer", "name", $"p{host}", "netns", Switch],
        ["ip", "-n", Switch, "link", "set", $"p{host}", "master", "br0", "up"],
        ["ip", "-n", NameOf(host), "addr", "add", $"{AddressOf(host)}/24", "dev", "eth0"],
        ["ip", "-n", NameOf(host), "link", "set", "eth0", "up"],
        ["ip", "-n", NameOf(host), "link", "set", "lo", "up"],
    ];

    private static string[] Limit(string space, string device, int megabits)
        => ["tc", "-n", space, "qdisc", "add", "dev", device, "root", "handle", "1:", "tbf", "rate", $"{megabits}mbit", "burst", "1mb", "latency", "100ms"];

    private static (string Output, string Errors) Run(params string[] words)
    {
        try
        {
            using Process process = Process.Start(new ProcessStartInfo(words[0], words[1..]) { RedirectStandardError = true, RedirectStandardOutput = true })!;
            Task<string> errors = process.StandardError.ReadToEndAsync();
            string output = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            return (output, process.ExitCode == 0 ? "" : $"{string.Join(' ', words)}: {errors.Result.Trim()}");
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return ("", $"there is no {words[0]} command");
        }
    }
}
