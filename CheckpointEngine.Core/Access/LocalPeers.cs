using System.Globalization;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Access;

/// <summary>Which users of this host may be given the memory itself, when no token is set; with one, whoever proves it.</summary>
/// <remarks>Immutable; any number of threads. The kernel says who a peer is (SO_PEERCRED, unix(7)): it cannot be forged.</remarks>
public sealed class LocalPeers
{
    private readonly uint[]? _users;        // null: every user

    private LocalPeers(uint[]? users) => _users = users;

    /// <summary>The user that the holder runs as, and root, who can read any process's memory anyway.</summary>
    public static LocalPeers Own { get; } = new([]);

    /// <summary>Every user of the host.</summary>
    public static LocalPeers All { get; } = new(null);

    /// <summary>Reads <c>own</c>, <c>all</c>, or numbers of users separated by commas (<c>1000,1001</c>), which are allowed beside the own one.</summary>
    /// <exception cref="FormatException">An entry is no number of a user.</exception>
    public static LocalPeers Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        return text switch
        {
            "own" => Own,
            "all" => All,
            _ => new([.. text.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries).Select(ParseUser)]),
        };
    }

    /// <summary>Whether the user <paramref name="userId"/> is allowed.</summary>
    public bool Allows(uint userId) => _users is null || userId == 0 || userId == Libc.geteuid() || Array.IndexOf(_users, userId) >= 0;

    /// <summary>The users that are allowed, to tell who asks the kernel itself; null for every one.</summary>
    internal IReadOnlyList<uint>? UserIds() => _users is null ? null : [0, Libc.geteuid(), .. _users];

    private static uint ParseUser(string entry)
        => uint.TryParse(entry, NumberStyles.None, CultureInfo.InvariantCulture, out uint user)
            ? user
            : throw new FormatException($"'{entry}' is no number of a user (id -u prints it); 'own' and 'all' stand alone");
}
