using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Tests;

public sealed class CheckpointFilesTests : IDisposable
{
    private readonly TempDirectory _directory = new();

    public void Dispose() => _directory.Dispose();

    [Fact]
    public void Discover_DirectoryWithoutIndex_IsAllFilesByNameAndSideFiles()
    {
        foreach (string name in (string[])["b.safetensors", "a.safetensors", ".hidden.safetensors", ".hidden.json", "config.json", "tokenizer.bin", "spm.model", "chat.jinja", "merges.txt", "x.py", "pytorch_model.bin.index.json"])
        {
            _directory.Write(name, "x");
        }
        Directory.CreateDirectory(Path.Join(_directory.Path, "directory.json"));
        Directory.CreateDirectory(Path.Join(_directory.Path, "directory.safetensors"));
        CheckpointFiles files = CheckpointFiles.Discover(_directory.Path);
        Assert.Equal(["a.safetensors", "b.safetensors"], files.Files.Select(Path.GetFileName));
        Assert.Equal(["chat.jinja", "config.json", "merges.txt", "spm.model", "tokenizer.bin"], files.SideFiles.Select(Path.GetFileName));
        Assert.All(files.ReadSideFiles(), file => Assert.Equal("x"u8, file.Bytes.Span));
        Assert.Null(files.Index);
    }

    [Fact]
    public void Discover_Index_IsPreferredOverStrayFiles()
    {
        _directory.Write("stray.safetensors", "x");
        _directory.Write("model-2.safetensors", "x");
        _directory.Write("sub/model-1.safetensors", "x");
        _directory.Write("config.json", "{}");
        string index = _directory.Write(SafetensorsIndex.FileName, """{"weight_map":{"b":"sub/model-1.safetensors","a":"model-2.safetensors"}}""");
        foreach (string path in (string[])[_directory.Path, index])
        {
            CheckpointFiles files = CheckpointFiles.Discover(path);
            Assert.Equal(["model-2.safetensors", "sub/model-1.safetensors"], files.Files.Select(file => Path.GetRelativePath(_directory.Path, file)));
            Assert.Equal("config.json", Path.GetFileName(Assert.Single(files.SideFiles)));
            Assert.Equal(2, files.Index!.WeightMap.Count);
        }
    }

    [Fact]
    public void Discover_SingleFile_IsItAloneWithoutItsNeighbours()
    {
        _directory.Write("secrets.json", "{}");
        string path = _directory.Write("m.safetensors", "x");
        CheckpointFiles files = CheckpointFiles.Discover(path);
        Assert.Equal([path], files.Files);
        Assert.Empty(files.SideFiles);
    }

    [Fact]
    public void Discover_LinksOfTheHuggingFaceCache_AreFollowed()
    {
        _directory.Write("blobs/abc", "x");
        string snapshot = Path.Join(_directory.Path, "snapshots/main");
        Directory.CreateDirectory(snapshot);
        File.CreateSymbolicLink(Path.Join(snapshot, "model.safetensors"), "../../blobs/abc");
        File.CreateSymbolicLink(Path.Join(snapshot, "config.json"), "../../blobs/abc");
        File.CreateSymbolicLink(Path.Join(snapshot, "dangling.json"), "../../blobs/gone");
        File.CreateSymbolicLink(Path.Join(snapshot, "device.txt"), "/dev/zero");
        CheckpointFiles files = CheckpointFiles.Discover(snapshot);
        Assert.Equal("model.safetensors", Path.GetFileName(Assert.Single(files.Files)));
        Assert.Equal("config.json", Path.GetFileName(Assert.Single(files.SideFiles)));
    }

    [Fact]
    public void Discover_SideFilesBeyondTheLimit_AreLeftOutWithAWarning()
    {
        _directory.Write("m.safetensors", "x");
        _directory.Write("tokenizer.json", "{}");
        using (FileStream large = File.Create(Path.Join(_directory.Path, "log.txt")))
        {
            large.SetLength(CheckpointFiles.MaxSideFileBytes + 1);
        }
        CheckpointFiles files = CheckpointFiles.Discover(_directory.Path);
        Assert.Equal("tokenizer.json", Path.GetFileName(Assert.Single(files.SideFiles)));
        Assert.Contains("log.txt", Assert.Single(files.Warnings), StringComparison.Ordinal);
    }

    [Fact]
    public void Discover_NothingThere_IsTypedError()
    {
        CheckpointError Error(string path) => Assert.Throws<CheckpointEngineException>(() => CheckpointFiles.Discover(path)).Error;
        Assert.Equal(CheckpointError.NotFound, Error(_directory.Path));
        Assert.Equal(CheckpointError.NotFound, Error(_directory.Path + "/no"));
        Assert.Equal(CheckpointError.InvalidData, Error(_directory.Write("model.bin", "x")));
        Assert.Equal(CheckpointError.NotFound, Error(_directory.Write("x.safetensors.index.json", """{"weight_map":{"a":"gone.safetensors"}}""")));
        Assert.Equal(CheckpointError.InvalidData, Error(_directory.Write("x.safetensors.index.json", """{"weight_map":{}}""")));
        _directory.Write("y.safetensors.index.json", "{}");
        Assert.Equal(CheckpointError.InvalidData, Error(_directory.Path));
    }
}
