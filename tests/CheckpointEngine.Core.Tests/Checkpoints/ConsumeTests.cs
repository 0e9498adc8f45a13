using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Tests;

/// <summary>Weight files go from /dev/shm once they are held, and nothing else ever goes.</summary>
public sealed class ConsumeTests : IDisposable
{
    private readonly SmallCheckpoint _files = new(
        [("embed", TensorDtype.BF16, [100, 300]), ("scalar", TensorDtype.F32, [])],
        [.. Enumerable.Range(0, 20).Select(i => ($"layers.{i}.w", TensorDtype.F16, new long[] { 16 + i, 65 }))]);

    private readonly string _folder = $"/dev/shm/ce-consume-{Guid.NewGuid():N}";

    public ConsumeTests()
    {
        Directory.CreateDirectory(_folder);
        foreach (string file in Directory.GetFiles(_files.Path))
        {
            File.Copy(file, Path.Combine(_folder, Path.GetFileName(file)));
        }
    }

    public void Dispose()
    {
        Directory.Delete(_folder, recursive: true);
        _files.Dispose();
    }

    private string[] Weights => Directory.GetFiles(_folder, "*.safetensors");

    [Theory]
    [InlineData(HoldMode.Map)]
    [InlineData(HoldMode.Memfd)]
    [InlineData(HoldMode.Anonymous)]
    public async Task Register_FilesInMemory_AreGoneAndHeld(HoldMode hold)
    {
        await using var holder = new ParameterServer(new ParameterServerOptions { Consume = true, Hold = hold });
        await holder.StartAsync(TestContext.Current.CancellationToken);
        HeldCheckpoint held = await holder.RegisterAsync("m", [_folder], TestContext.Current.CancellationToken);
        Assert.Empty(Weights);
        Assert.True(File.Exists(Path.Combine(_folder, "config.json")));
        SmallCheckpoint.AssertEqual(_files.Tensors, held);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("m").Metas, new JoinOptions { RequireVerify = true }, cancellationToken: TestContext.Current.CancellationToken);
        Assert.True(report.Verified);
        SmallCheckpoint.AssertEqual(_files.Tensors, joiner.FindCheckpoint("join-checkpoint")!);
    }

    [Fact]
    public async Task Register_FilesElsewhere_IsRefusedAndNothingGoes()
    {
        await using var holder = new ParameterServer(new ParameterServerOptions { Consume = true });
        CheckpointEngineException failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => holder.RegisterAsync("m", [_files.Path], TestContext.Current.CancellationToken));
        Assert.Equal(CheckpointError.NotSupported, failure.Error);
        Assert.Contains("/dev/shm/", failure.Message, StringComparison.Ordinal);
        Assert.Equal(2, Directory.GetFiles(_files.Path, "*.safetensors").Length);
        Assert.Empty(holder.CheckpointNames);
    }

    [Fact]
    public async Task Register_ALinkOutOfIt_IsRefused()
    {
        string link = Path.Combine(_folder, "link.safetensors");
        File.CreateSymbolicLink(link, Directory.GetFiles(_files.Path, "*.safetensors")[0]);
        await using var holder = new ParameterServer(new ParameterServerOptions { Consume = true });
        CheckpointEngineException failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => holder.RegisterAsync("m", [link], TestContext.Current.CancellationToken));
        Assert.Equal(CheckpointError.NotSupported, failure.Error);
        Assert.Equal(2, Directory.GetFiles(_files.Path, "*.safetensors").Length);
    }

    [Fact]
    public async Task Register_ThatFails_RemovesNothing()
    {
        await File.WriteAllTextAsync(Weights[0], "no safetensors", TestContext.Current.CancellationToken);
        await using var holder = new ParameterServer(new ParameterServerOptions { Consume = true });
        await Assert.ThrowsAsync<CheckpointEngineException>(() => holder.RegisterAsync("m", [_folder], TestContext.Current.CancellationToken));
        Assert.Equal(2, Weights.Length);
        Assert.Empty(holder.CheckpointNames);
    }

    [Fact]
    public void Remove_WhatWasPutInItsPlace_Stays()
    {
        string file = Weights[0];
        using var consumed = new ConsumedFiles([_folder]);
        File.WriteAllText(file + ".new", "another one");
        File.Move(file + ".new", file, overwrite: true);
        string remark = Assert.Single(consumed.Remove());
        Assert.Contains(file, remark, StringComparison.Ordinal);
        Assert.Equal([file], Weights);
        Assert.Equal("another one", File.ReadAllText(file));
    }
}
