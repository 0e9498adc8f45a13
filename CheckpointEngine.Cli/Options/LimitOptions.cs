using System.CommandLine;
using System.Globalization;
using CheckpointEngine.Access;
using CheckpointEngine.Cli.Commands;
using CheckpointEngine.Http;

namespace CheckpointEngine.Cli.Options;

/// <summary>What a holder gives to others at a time, and where it writes down who came.</summary>
internal sealed class LimitOptions
{
    private static readonly string[] s_listeners = ["http", "peers", "data", "handshake"];

    private readonly Option<string> _connections = new("--max-connections")
    {
        Description = "Connections at a time of each listener, in all and of one address; default http=1024/512,peers=2048/512,data=4096/1024,handshake=512/256",
        HelpName = "NAME=ALL[/ADDRESS],…",
    };

    private readonly Option<string> _requests = new("--max-requests")
    {
        Description = "Requests a second of one address, 0 for any number; default http=1000,peers=10000",
        HelpName = "NAME=N,…",
    };

    private readonly Option<int> _leases = OptionRules.Integer("--max-leases", "N", "Leases at a time, one for each join and owner; default 16384", 1, standard: new ServerLimits().Leases);

    private readonly Option<int> _bytesInFlight = OptionRules.Integer("--max-in-flight-kib", "KIB",
        "What the kernel may hold of one data connection that its peer has not taken yet; default 0, the system's own measure", 0, 1 << 20);

    private readonly Option<string> _auditLog = new("--audit-log")
    {
        Description = "Append a line here for who registered, read and was refused; '-' for stderr; opened anew on SIGHUP",
        HelpName = "FILE",
    };

    public LimitOptions(Command command)
    {
        Group = new OptionGroup("Limits", [_connections, _requests, _leases, _bytesInFlight, _auditLog]);
        command.Validators.Add(result =>
        {
            Check(result.GetValue(_connections), "--max-connections", "ALL[/ADDRESS], both at least 1", s_listeners, text => TryReadConnections(text, out _, out _));
            Check(result.GetValue(_requests), "--max-requests", "a whole number", s_listeners[..2], text => TryReadCount(text, out _));

            void Check(string? list, string option, string form, string[] names, Func<string, bool> isValid)
            {
                foreach (string entry in Entries(list))
                {
                    int equals = entry.IndexOf('=');
                    if (equals < 0 || !names.Contains(entry[..equals]) || !isValid(entry[(equals + 1)..]))
                    {
                        result.AddError($"{option}: '{entry}' is not NAME={form}, NAME one of {string.Join(", ", names)}");
                    }
                }
            }
        });
    }

    public OptionGroup Group { get; }

    /// <summary>Where audit lines go; null for nowhere.</summary>
    public string? AuditLog(ParseResult parsed) => parsed.GetValue(_auditLog);

    public ServerLimits ServerLimits(ParseResult parsed)
    {
        var standard = new ServerLimits();
        return new ServerLimits
        {
            Handshake = Read(parsed, "handshake", standard.Handshake),
            Data = Read(parsed, "data", standard.Data),
            Peers = Read(parsed, "peers", standard.Peers),
            Leases = parsed.GetValue(_leases),
            DataBytesInFlight = parsed.GetValue(_bytesInFlight) << 10,
        };
    }

    public ConnectionLimits HttpLimits(ParseResult parsed) => Read(parsed, "http", new CheckpointEngineHostOptions().Limits);

    private ConnectionLimits Read(ParseResult parsed, string name, ConnectionLimits standard)
    {
        if (Find(parsed.GetValue(_connections), name) is { } connections && TryReadConnections(connections, out int all, out int ofAnAddress))
        {
            standard = standard with { Connections = all, ConnectionsOfAnAddress = ofAnAddress };
        }
        return Find(parsed.GetValue(_requests), name) is { } requests && TryReadCount(requests, out int perSecond) ? standard with { RequestsPerSecond = perSecond } : standard;
    }

    private static string[] Entries(string? list) => (list ?? "").Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries);

    private static string? Find(string? list, string name)
        => Entries(list).LastOrDefault(entry => entry.StartsWith(name + "=", StringComparison.Ordinal)) is { } entry ? entry[(name.Length + 1)..] : null;

    // Without a number of its own an address may have all.
    private static bool TryReadConnections(string text, out int all, out int ofAnAddress)
    {
        string[] parts = text.Split('/');
        ofAnAddress = 0;
        return TryReadCount(parts[0], out all) && TryReadCount(parts[^1], out ofAnAddress) && parts.Length <= 2 && all > 0 && ofAnAddress > 0;
    }

    private static bool TryReadCount(string text, out int count) => int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out count);
}
