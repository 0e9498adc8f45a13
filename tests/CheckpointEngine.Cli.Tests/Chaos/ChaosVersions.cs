using CheckpointEngine.Cli.Tests.Support;

namespace CheckpointEngine.Cli.Tests.Chaos;

/// <summary>The versions of one checkpoint. Each differs from the others in every 64 KiB but for the first quarter, which is the same in all.</summary>
internal sealed class ChaosVersions
{
    public const int Bytes = 32 << 20;        // two thirds of a second of a holder's link

    private const int Step = 64 << 10;

    private static readonly string[] s_names = ["one", "two"];

    private readonly Dictionary<string, string> _nameOf;
    private readonly Func<string, string> _directory;

    /// <summary>Writes them.</summary>
    public ChaosVersions(TempDirectory temp)
    {
        _directory = name => temp[name];
        SmallCheckpoint.WriteSingle(temp[s_names[0]], Bytes);
        byte[] file = File.ReadAllBytes(Path.Combine(temp[s_names[0]], "model.safetensors"));
        int header = file.Length - Bytes;
        for (int version = 1; version < s_names.Length; version++)
        {
            for (int at = header + (Bytes / 4); at < file.Length; at += Step)
            {
                file[at] += 1;
            }
            Directory.CreateDirectory(temp[s_names[version]]);
            File.WriteAllBytes(Path.Combine(temp[s_names[version]], "model.safetensors"), file);
        }
        _nameOf = s_names.ToDictionary(name => SmallCheckpoint.Digest(SmallCheckpoint.Read(temp[name])));
    }

    /// <summary>The first version's name.</summary>
    public static string First => s_names[0];

    /// <summary>The name of the one that takes the first one's place.</summary>
    public static string Second => s_names[1];

    public string DirectoryOf(string name) => _directory(name);

    /// <summary>Which version a directory has: all of it, and nothing else.</summary>
    public string NameOf(string directory)
    {
        Assert.True(_nameOf.TryGetValue(SmallCheckpoint.Digest(SmallCheckpoint.Read(directory)), out string? name), $"{directory} has the bytes of no version, or of more than one");
        return name;
    }
}
