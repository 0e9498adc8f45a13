using System.Globalization;

namespace CheckpointEngine.Transfer.Rdma;

/// <summary>A port of an RDMA device by name.</summary>
/// <param name="device">The device, as the kernel names it.</param>
/// <param name="port">The port, counted from 1.</param>
internal readonly struct RdmaPortName(string device, int port)
{
    internal string Device { get; } = device;

    internal int Port { get; } = port;

    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Device}:{Port}");
}

/// <summary>Which ports a <see cref="HcaSelection"/> took.</summary>
/// <param name="indices">Places in the list that was given.</param>
/// <param name="fellBack">Whether nothing matched, so that all were taken.</param>
/// <param name="warnings">What the user should know: names that are not here, or that all are taken.</param>
/// <param name="limited">That there were more than may be taken; null when there were not.</param>
internal sealed class HcaChoice(int[] indices, bool fellBack, string[] warnings, string? limited)
{
    internal int[] Indices { get; } = indices;

    internal bool FellBack { get; } = fellBack;

    internal string[] Warnings { get; } = warnings;

    internal string? Limited { get; } = limited;
}

/// <summary>Which RDMA devices and ports the user wants: <c>PS_P2P_STORE_RDMA_DEVICES</c>, else <c>NCCL_IB_HCA</c>, else all.</summary>
/// <remarks>
/// <para><c>PS_P2P_STORE_RDMA_DEVICES</c> is a list of exact names, taken in its order: <c>mlx5_1,mlx5_0</c>.</para>
/// <para><c>NCCL_IB_HCA</c> is read as NCCL reads it: <c>[^][=]NAME[:PORT[:…]],…</c>. <c>^</c> leaves out what the list matches; <c>=</c> wants whole
/// names, else a name is the beginning of one, even where it is a whole one: <c>mlx5_1</c> matches mlx5_10 too. The marks stand in that order only:
/// <c>=^mlx5_1</c> is the whole name "^mlx5_1". A port that is missing or -1 is any; what stands behind it (rail, plane) is of no use here. Entries
/// without a name do not count; of the others the first <see cref="MaxHcas"/> do. An empty list matches everything, so an empty list after <c>^</c>
/// leaves nothing. Unlike NCCL, blanks around names are dropped. At most <see cref="MaxHcas"/> ports are taken.</para>
/// <para>Source: NCCL, src/misc/utils.cc (parseStringList, matchIfList) and src/transport/net_ib/init.cc.</para>
/// </remarks>
internal sealed class HcaSelection
{
    internal const string DevicesVariable = "PS_P2P_STORE_RDMA_DEVICES";
    internal const string HcaVariable = "NCCL_IB_HCA";

    /// <summary>NCCL's MAX_IB_DEVS, of names in a list and of ports in use.</summary>
    internal const int MaxHcas = 32;

    // NCCL's netIf.prefix has room for 63 characters and the end; the kernel's names too.
    private const int MaxNameLength = 63;
    private const int AnyPort = -1;

    private readonly string[] _names;
    private readonly int[] _ports;
    private readonly bool _exclude;
    private readonly bool _exact;
    private readonly bool _inOrder;

    private HcaSelection(string? source, string text, string list, bool exclude, bool exact, bool inOrder, int maxNames)
    {
        Source = source;
        Text = text;
        _exclude = exclude;
        _exact = exact;
        _inOrder = inOrder;
        var names = new List<string>();
        var ports = new List<int>();
        foreach (string item in list.Split(','))
        {
            string entry = item.Trim();
            int colon = entry.IndexOf(':', StringComparison.Ordinal);
            string name = (colon < 0 ? entry : entry[..colon]).TrimEnd();
            if (name.Length != 0 && names.Count < maxNames)
            {
                names.Add(name.Length > MaxNameLength ? name[..MaxNameLength] : name);
                ports.Add(colon < 0 ? AnyPort : ParsePort(entry.AsSpan(colon + 1)));
            }
        }
        _names = [.. names];
        _ports = [.. ports];
    }

    /// <summary>Every port.</summary>
    internal static HcaSelection All { get; } = new(null, "", "", exclude: false, exact: false, inOrder: false, MaxHcas);

    /// <summary>Who chose: a variable's name, an option's, or null when nobody did.</summary>
    internal string? Source { get; }

    /// <summary>What stands there.</summary>
    internal string Text { get; }

    /// <summary>Reads the two variables of this process.</summary>
    internal static HcaSelection FromEnvironment()
        => From(Environment.GetEnvironmentVariable(DevicesVariable), Environment.GetEnvironmentVariable(HcaVariable));

    /// <summary>Reads the values of the two variables; null, and blanks only, are a variable that is not set.</summary>
    internal static HcaSelection From(string? devices, string? hca)
    {
        if (!string.IsNullOrWhiteSpace(devices))
        {
            return FromList(devices, DevicesVariable);
        }
        string text = hca?.Trim() ?? "";
        if (text.Length == 0)
        {
            return All;
        }
        string list = text;
        bool exclude = list[0] == '^';
        list = exclude ? list[1..] : list;
        bool exact = list.StartsWith('=');
        list = exact ? list[1..] : list;
        return new HcaSelection(HcaVariable, text, list, exclude, exact, inOrder: false, MaxHcas);
    }

    /// <summary>Reads a list of exact names, each with or without a port.</summary>
    /// <param name="list">Names, separated by commas.</param>
    /// <param name="source">Where it stands, for messages.</param>
    internal static HcaSelection FromList(string list, string source)
        => new(source, list.Trim(), list, exclude: false, exact: true, inOrder: true, int.MaxValue);

    /// <summary>Whether the user's words take a port, <see cref="Select"/>'s falling back aside.</summary>
    internal bool Matches(string device, int port) => (_names.Length == 0 || IndexOfMatch(device, port) >= 0) != _exclude;

    /// <summary>Takes ports out of those that there are. When nothing matches it takes all, with a warning that says so.</summary>
    /// <param name="ports">The ports that there are, in the order of the devices.</param>
    internal HcaChoice Select(ReadOnlySpan<RdmaPortName> ports)
    {
        var warnings = new List<string>();
        var chosen = new List<int>();
        if (_inOrder && _names.Length != 0)
        {
            for (int name = 0; name < _names.Length; name++)
            {
                for (int index = 0; index < ports.Length; index++)
                {
                    if (Matches(name, ports[index].Device, ports[index].Port) && !chosen.Contains(index))
                    {
                        chosen.Add(index);
                    }
                }
            }
        }
        else
        {
            for (int index = 0; index < ports.Length; index++)
            {
                if (Matches(ports[index].Device, ports[index].Port))
                {
                    chosen.Add(index);
                }
            }
        }
        bool fellBack = chosen.Count == 0 && ports.Length != 0;
        if (fellBack)
        {
            warnings.Add(_exclude && _names.Length == 0
                ? $"{Source}={Text} is an empty exclude list, which to NCCL leaves no device; all are used here: {Join(ports)}. To use none take the transport tcp"
                : $"{Source}={Text} matches none of this host's RDMA ports, so all are used: {Join(ports)}");
            for (int index = 0; index < ports.Length; index++)
            {
                chosen.Add(index);
            }
        }
        else
        {
            WarnOfAbsent(ports, warnings);
        }
        string? limited = null;
        if (!_inOrder && chosen.Count > MaxHcas)
        {
            limited = $"{chosen.Count} RDMA ports could be used, and the first {MaxHcas} are; name others in {DevicesVariable}";
            chosen.RemoveRange(MaxHcas, chosen.Count - MaxHcas);
        }
        return new HcaChoice([.. chosen], fellBack, [.. warnings], limited);
    }

    private int IndexOfMatch(string device, int port)
    {
        for (int name = 0; name < _names.Length; name++)
        {
            if (Matches(name, device, port))
            {
                return name;
            }
        }
        return -1;
    }

    private bool Matches(int name, string device, int port)
        => (_ports[name] == AnyPort || _ports[name] == port)
            && (_exact ? string.Equals(device, _names[name], StringComparison.Ordinal) : device.StartsWith(_names[name], StringComparison.Ordinal));

    // A list that leaves out what is not here anyway is no mistake.
    private void WarnOfAbsent(ReadOnlySpan<RdmaPortName> ports, List<string> warnings)
    {
        for (int name = 0; name < _names.Length && !_exclude; name++)
        {
            bool found = false;
            for (int index = 0; index < ports.Length && !found; index++)
            {
                found = Matches(name, ports[index].Device, ports[index].Port);
            }
            if (!found)
            {
                string port = _ports[name] == AnyPort ? "" : string.Create(CultureInfo.InvariantCulture, $":{_ports[name]}");
                warnings.Add($"{Source} names {_names[name]}{port}, and no RDMA port here {(_exact ? "is called so" : "begins so")}");
            }
        }
    }

    // As atoi: digits after blanks and a sign, and 0 where there are none; NCCL takes an empty port for a missing one.
    private static int ParsePort(ReadOnlySpan<char> text)
    {
        int colon = text.IndexOf(':');
        text = (colon < 0 ? text : text[..colon]).Trim();
        if (text.IsEmpty)
        {
            return AnyPort;
        }
        bool negative = text[0] == '-';
        text = negative || text[0] == '+' ? text[1..] : text;
        int digits = 0;
        long value = 0;
        while (digits < text.Length && char.IsAsciiDigit(text[digits]) && value < int.MaxValue)
        {
            value = (value * 10) + (text[digits++] - '0');
        }
        return (int)Math.Min(negative ? -value : value, int.MaxValue);
    }

    private static string Join(ReadOnlySpan<RdmaPortName> ports)
    {
        var text = new System.Text.StringBuilder();
        for (int index = 0; index < ports.Length; index++)
        {
            text.Append(index == 0 ? "" : ", ").Append(ports[index].ToString());
        }
        return text.ToString();
    }
}
