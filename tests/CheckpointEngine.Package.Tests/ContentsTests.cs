using System.Formats.Tar;
using System.IO.Compression;
using System.Reflection.PortableExecutable;
using System.Xml.Linq;
using CheckpointEngine.Package.Tests.Support;

namespace CheckpointEngine.Package.Tests;

/// <summary>What lies in each package is what Contents/ lists, so that a lost file fails here and not at a user's.</summary>
public sealed class ContentsTests
{
    [Theory]
    [InlineData("CheckpointEngine.Core")]
    [InlineData("CheckpointEngine.Http")]
    [InlineData("CheckpointEngine.Cli")]
    [InlineData("CheckpointEngine.Native")]
    public void Package_Holds_WhatItsListSays(string id)
    {
        using ZipArchive package = ZipFile.OpenRead(Artifacts.Package(id));

        Assert.Equal(ReadList(id), package.Entries.Select(entry => entry.FullName).Where(name => !IsNuGetsOwn(name)).Order(StringComparer.Ordinal));
        XElement metadata = XDocument.Load(package.GetEntry(id + ".nuspec")!.Open()).Root!.Elements().Single();
        string Value(string name) => metadata.Elements().Single(element => element.Name.LocalName == name).Value;
        Assert.Equal((id, Artifacts.Version, "Apache-2.0", "README.md"), (Value("id"), Value("version"), Value("license"), Value("readme")));
    }

    [Theory]
    [InlineData("CheckpointEngine.Core", "lib/net10.0/CheckpointEngine.Core.dll")]
    [InlineData("CheckpointEngine.Http", "lib/net10.0/CheckpointEngine.Http.dll")]
    [InlineData("CheckpointEngine.Cli", "tools/net10.0/any/checkpoint-engine.dll")]
    public void Assembly_CarriesItsSymbols(string id, string path)
    {
        using ZipArchive package = ZipFile.OpenRead(Artifacts.Package(id));
        var bytes = new MemoryStream();
        using (Stream entry = package.GetEntry(path)!.Open())
        {
            entry.CopyTo(bytes);
        }
        bytes.Position = 0;
        using var assembly = new PEReader(bytes);
        Assert.Contains(assembly.ReadDebugDirectory(), entry => entry.Type == DebugDirectoryEntryType.EmbeddedPortablePdb);
    }

    [Fact]
    public void Tarball_Holds_WhatItsListSaysAndNothingOfItsMaker()
    {
        using var content = new GZipStream(File.OpenRead(Artifacts.Tarball), CompressionMode.Decompress);
        using var tar = new TarReader(content);
        var entries = new List<TarEntry>();
        while (tar.GetNextEntry() is { } entry)
        {
            entries.Add(entry);
        }

        Assert.Equal(ReadList("tarball"), entries.Where(entry => entry.EntryType != TarEntryType.Directory).Select(Describe).Order(StringComparer.Ordinal));
        Assert.All(entries, entry => Assert.Equal((0, 0, entries[0].ModificationTime), (entry.Uid, entry.Gid, entry.ModificationTime)));
    }

    private static string Describe(TarEntry entry) => entry.EntryType == TarEntryType.SymbolicLink ? $"{entry.Name} -> {entry.LinkName}" : entry.Name;

    private static string[] ReadList(string name)
        => [.. File.ReadAllLines(Path.Combine(AppContext.BaseDirectory, "Contents", name + ".txt")).Select(line => line.Replace("@VERSION@", Artifacts.Version, StringComparison.Ordinal)).Order(StringComparer.Ordinal)];

    // The envelope of the package format, the same in every package.
    private static bool IsNuGetsOwn(string name)
        => name is "_rels/.rels" or "[Content_Types].xml" || name.StartsWith("package/services/", StringComparison.Ordinal);
}
