using System.Diagnostics;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Tests;

/// <summary>Joins from owners that are plain, wrong, slow or gone.</summary>
[Collection(CountsMemory.Name)]
public sealed class JoinTests
{
    private static readonly int[] s_lengths = [1000, 9 << 20, 0, 5, 4 << 20];

    private static ParameterServer Joiner() => new(new ParameterServerOptions());

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    private static Task<JoinReport> JoinAsync(ParameterServer joiner, FakeOwner owner, JoinOptions? options = null, CancellationToken? cancel = null)
        => joiner.JoinAsync(owner.Metas, options ?? new JoinOptions { Transport = TransportChoice.Tcp }, null, cancel ?? Cancel);

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task Join_PlainOwner_IsEqualAndUnverified(int version)
    {
        await using var owner = new FakeOwner(s_lengths, version);
        await using ParameterServer joiner = Joiner();
        JoinReport report = await JoinAsync(joiner, owner);
        Assert.False(report.Verified);
        Assert.Equal("owner-has-no-digests", report.UnverifiedReason);
        SmallCheckpoint.AssertEqual(owner.Tensors, joiner.FindCheckpoint("join-checkpoint")!);
    }

    [Fact]
    public async Task Join_PlainOwnerButVerifyRequired_FailsAndLeavesNothing()
    {
        await using var owner = new FakeOwner(s_lengths);
        await using ParameterServer joiner = Joiner();
        long before = MemoryRegionHandle.LiveBytes;
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => JoinAsync(joiner, owner, new JoinOptions { Transport = TransportChoice.Tcp, RequireVerify = true }));
        Assert.Equal(CheckpointError.DigestMismatch, failure.Error);
        Assert.Empty(joiner.CheckpointNames);
        Assert.Equal(before, MemoryRegionHandle.LiveBytes);
    }

    [Fact]
    public async Task Join_PlainOwnerThatClosesAfterEachAnswer_IsEqual()
    {
        FakeOwner? made = null;
        await using var port = new ScriptedPort((stream, _, token) => FakeOwner.ServeAsync(stream, () => made!, request => request == 0 ? Task.CompletedTask : throw new IOException("closed"), token));
        await using var owner = made = new FakeOwner(s_lengths, version: 0, dataPort: port.EndPoint);
        await using ParameterServer joiner = Joiner();
        await JoinAsync(joiner, owner);
        SmallCheckpoint.AssertEqual(owner.Tensors, joiner.FindCheckpoint("join-checkpoint")!);
        Assert.True(port.Connections >= 4);
    }

    [Fact]
    public async Task Join_PlainOwnerWithRootsInTheMetas_IsVerified()
    {
        await using var owner = new FakeOwner(s_lengths, digest: root => root);
        await using ParameterServer joiner = Joiner();
        Assert.True((await JoinAsync(joiner, owner, new JoinOptions { Transport = TransportChoice.Tcp, RequireVerify = true })).Verified);
    }

    [Fact]
    public async Task Join_RootInTheMetasThatDiffers_FailsAndLeavesNothing()
    {
        await using var owner = new FakeOwner(s_lengths, digest: root => [.. root[..15], (byte)(root[15] ^ 1)]);
        await using ParameterServer joiner = Joiner();
        long before = MemoryRegionHandle.LiveBytes;
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => JoinAsync(joiner, owner));
        Assert.Equal(CheckpointError.DigestMismatch, failure.Error);
        Assert.Contains("'t0'", failure.Message, StringComparison.Ordinal);
        Assert.Equal(before, MemoryRegionHandle.LiveBytes);
    }

    // A server of this engine whose metas are replaced by some with roots.
    private static CheckpointMetas WithRoots(CheckpointMetas metas, Func<string, byte[]> root)
    {
        using var builder = new CheckpointMetasBuilder();
        MetasOwner owner = metas.Owners[0];
        foreach (MetasBuffer buffer in owner.Buffers)
        {
            for (int tensor = buffer.FirstTensor; tensor < buffer.FirstTensor + buffer.TensorCount; tensor++)
            {
                builder.AddTensorFrom(metas.Tensors, tensor, metas.Tensors.GetSlotBytes(tensor));
                builder.SetDigest(DigestAlgorithm.Xxh3, root(metas.Tensors.GetName(tensor)));
            }
            builder.EndBuffer(buffer.Address, buffer.SizeBytes);
        }
        builder.EndOwner(owner.Rank, owner.P2pStoreAddress, owner.RdmaDevice);
        return builder.Build();
    }

    [Fact]
    public async Task Join_DigestListThatDoesNotGiveTheRoot_Fails()
    {
        using var files = new SmallCheckpoint([("a", TensorDtype.U8, [9 << 20])]);
        await using var holder = new ParameterServer(new ParameterServerOptions());
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        CheckpointMetas metas = holder.GetMetas("model").Metas;
        await using ParameterServer joiner = Joiner();
        await joiner.JoinAsync(WithRoots(metas, name => FakeOwner.RootOf(files.Tensors[name])), new JoinOptions { Transport = TransportChoice.Tcp, RequireVerify = true }, null, Cancel);
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(
            () => joiner.JoinAsync(WithRoots(metas, _ => new byte[16]), new JoinOptions { Transport = TransportChoice.Tcp, CheckpointName = "second" }, null, Cancel));
        Assert.Equal(CheckpointError.DigestMismatch, failure.Error);
        Assert.Contains("chunk digests", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Join_OwnerThatDiesAmidTheTransfer_NamesPeerAndRangeAndLeavesNothing()
    {
        FakeOwner? made = null;
        ScriptedPort? dying = null;
        await using var port = dying = new ScriptedPort((stream, number, token) => FakeOwner.ServeAsync(stream, () => made!,
            request => number == 0 && request < 2 ? Task.CompletedTask : throw new IOException("dead"), token));
        await using var owner = made = new FakeOwner([64 << 20], dataPort: port.EndPoint);
        await using ParameterServer joiner = Joiner();
        long before = MemoryRegionHandle.LiveBytes;
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => JoinAsync(joiner, owner));
        Assert.Equal(CheckpointError.Unreachable, failure.Error);
        Assert.Contains($"rank 7 at {owner.Metas.Owners[0].P2pStoreAddress}", failure.Message, StringComparison.Ordinal);
        Assert.Contains("'t0'", failure.Message, StringComparison.Ordinal);
        Assert.Contains(" bytes at 0x", failure.Message, StringComparison.Ordinal);
        Assert.Equal(before, MemoryRegionHandle.LiveBytes);
        Assert.Empty(joiner.CheckpointNames);
    }

    [Fact]
    public async Task Join_OwnerThatBreaksNowAndThen_GoesOn()
    {
        FakeOwner? made = null;
        await using var port = new ScriptedPort((stream, _, token) => FakeOwner.ServeAsync(stream, () => made!,
            request => request < 3 ? Task.CompletedTask : throw new IOException("again"), token));
        await using var owner = made = new FakeOwner([40 << 20], dataPort: port.EndPoint);
        await using ParameterServer joiner = Joiner();
        await JoinAsync(joiner, owner, new JoinOptions { Transport = TransportChoice.Tcp, Lanes = 1 });
        SmallCheckpoint.AssertEqual(owner.Tensors, joiner.FindCheckpoint("join-checkpoint")!);
    }

    [Fact]
    public async Task Join_OwnerThatStalls_IsATimeoutWithinTheStallTimeout()
    {
        FakeOwner? made = null;
        await using var port = new ScriptedPort((stream, _, token) => FakeOwner.ServeAsync(stream, () => made!,
            request => request < 2 ? Task.CompletedTask : Task.Delay(Timeout.Infinite, token), token));
        await using var owner = made = new FakeOwner([64 << 20], dataPort: port.EndPoint);
        await using ParameterServer joiner = Joiner();
        long before = MemoryRegionHandle.LiveBytes;
        long start = Stopwatch.GetTimestamp();
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => JoinAsync(joiner, owner, new JoinOptions { Transport = TransportChoice.Tcp, StallTimeout = TimeSpan.FromMilliseconds(500) }));
        Assert.Equal(CheckpointError.Timeout, failure.Error);
        Assert.InRange(Stopwatch.GetElapsedTime(start).TotalSeconds, 0.4, 15);
        Assert.Contains("rank 7", failure.Message, StringComparison.Ordinal);
        Assert.Equal(before, MemoryRegionHandle.LiveBytes);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Join_CancelledOrOutOfTimeAmidTheTransfer_ReleasesEverything(bool byTime)
    {
        FakeOwner? made = null;
        using var begun = new SemaphoreSlim(0);
        await using var port = new ScriptedPort((stream, _, token) => FakeOwner.ServeAsync(stream, () => made!, request =>
        {
            if (request < 2)
            {
                return Task.CompletedTask;
            }
            begun.Release();
            return Task.Delay(Timeout.Infinite, token);
        }, token));
        await using var owner = made = new FakeOwner([64 << 20], dataPort: port.EndPoint);
        await using ParameterServer joiner = Joiner();
        long before = MemoryRegionHandle.LiveBytes;
        using var cancel = new CancellationTokenSource();
        Task joining = JoinAsync(joiner, owner, new JoinOptions { Transport = TransportChoice.Tcp, Timeout = byTime ? TimeSpan.FromMilliseconds(600) : Timeout.InfiniteTimeSpan }, cancel.Token);
        if (!byTime)
        {
            await begun.WaitAsync(Cancel);
            await cancel.CancelAsync();
        }
        Exception? failure = await Record.ExceptionAsync(() => joining.WaitAsync(TimeSpan.FromSeconds(20), Cancel));
        if (byTime)
        {
            Assert.Equal(CheckpointError.Timeout, Assert.IsType<CheckpointEngineException>(failure).Error);
        }
        else
        {
            Assert.IsAssignableFrom<OperationCanceledException>(failure);
        }
        // Unmapped: a lane that still wrote would end this process.
        Assert.Equal(before, MemoryRegionHandle.LiveBytes);
        Assert.Empty(joiner.CheckpointNames);
    }

    [Fact]
    public async Task Join_DestinationNullOfEmptyTensorsBeforeWholeChunks_StaysInItsStagingMemory()
    {
        await using var owner = new FakeOwner([0, 4 << 20, 0, 4 << 20, 1], digest: root => root);
        await using ParameterServer joiner = Joiner();
        JoinReport report = await JoinAsync(joiner, owner, new JoinOptions { Transport = TransportChoice.Tcp, Destination = JoinDestinationKind.Null, RequireVerify = true, Repeat = 3 });
        Assert.Equal((8 << 20) + 1, report.Bytes);
        Assert.Equal(3, report.Rounds.Count);
    }

    [Fact]
    public async Task Join_MoreThanThisHostHas_IsRefusedBeforeAnybodyIsAsked()
    {
        using var builder = new CheckpointMetasBuilder();
        builder.AddTensor("huge"u8, TensorDtype.U8, [1L << 46], 1L << 46);
        builder.EndBuffer(4096, 1L << 46);
        builder.EndOwner(0, "127.0.0.1:1", "");
        await using ParameterServer joiner = Joiner();
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(builder.Build(), new JoinOptions { Transport = TransportChoice.Tcp }, null, Cancel));
        Assert.Equal(CheckpointError.OutOfMemory, failure.Error);
    }
}

/// <summary>Joins into directories.</summary>
public sealed class JoinToDirectoryTests
{
    private static readonly int[] s_lengths = [1000, 5 << 20, 0, 5];

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    private static async Task<JoinReport> JoinAsync(FakeOwner owner, string path, bool keepPartial = false, TimeSpan? stall = null)
    {
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        return await joiner.JoinAsync(owner.Metas, new JoinOptions
        {
            Transport = TransportChoice.Tcp,
            Destination = JoinDestinationKind.Directory,
            DirectoryPath = path,
            KeepPartial = keepPartial,
            StallTimeout = stall ?? TimeSpan.FromSeconds(30),
        }, null, Cancel);
    }

    private static void AssertLoads(FakeOwner owner, string path)
    {
        using HeldCheckpoint loaded = CheckpointLoader.Load("copy", path, HoldMode.Map, PinMode.None, cancellationToken: Cancel);
        SmallCheckpoint.AssertEqual(owner.Tensors, loaded);
    }

    [Fact]
    public async Task Join_ParentMissingOrAFile_IsAnIoError()
    {
        await using var owner = new FakeOwner(s_lengths);
        using var directory = new TempDirectory();
        string file = directory.Write("file", "text");
        foreach (string path in new[] { Path.Combine(directory.Path, "missing", "copy"), Path.Combine(file, "copy"), file })
        {
            var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => JoinAsync(owner, path));
            Assert.Equal(CheckpointError.Io, failure.Error);
        }
        Assert.Equal([file], Directory.GetFileSystemEntries(directory.Path));
        Assert.Equal("text", await File.ReadAllTextAsync(file, Cancel));
    }

    [Theory]
    [InlineData("notes.pdf")]
    [InlineData("sub/config.json")]
    public async Task Join_ForeignFilesInThePlace_AreNotTouched(string foreign)
    {
        await using var owner = new FakeOwner(s_lengths);
        using var directory = new TempDirectory();
        string kept = directory.Write("place/" + foreign, "mine");
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => JoinAsync(owner, Path.Combine(directory.Path, "place")));
        Assert.Equal(CheckpointError.Io, failure.Error);
        Assert.Contains(foreign.Split('/')[0], failure.Message, StringComparison.Ordinal);
        Assert.Equal("mine", await File.ReadAllTextAsync(kept, Cancel));
        Assert.Single(Directory.GetFileSystemEntries(directory.Path));
    }

    [Fact]
    public async Task Join_CheckpointInThePlace_IsReplaced()
    {
        await using var owner = new FakeOwner(s_lengths);
        using var directory = new TempDirectory();
        directory.Write("place/model.safetensors", "old");
        directory.Write("place/config.json", "{}");
        string place = Path.Combine(directory.Path, "place");
        JoinReport report = await JoinAsync(owner, place);
        Assert.DoesNotContain(report.Warnings, warning => warning.Contains("file by file", StringComparison.Ordinal));
        AssertLoads(owner, place);
        Assert.Equal(["model.safetensors"], Directory.GetFiles(place).Select(Path.GetFileName));
        Assert.Equal([place], Directory.GetFileSystemEntries(directory.Path));
    }

    [Fact]
    public async Task Join_LeftoversOfAKilledJoin_AreRemoved()
    {
        await using var owner = new FakeOwner(s_lengths);
        using var directory = new TempDirectory();
        directory.Write(".place.ce-partial/model.safetensors", "half");
        directory.Write(".place.ce-partial/sub/deep.txt", "half");
        directory.Write(".place.ce-lock", "");
        string place = Path.Combine(directory.Path, "place");
        await JoinAsync(owner, place);
        AssertLoads(owner, place);
        Assert.Equal([place], Directory.GetFileSystemEntries(directory.Path));
    }

    [Fact]
    public async Task Join_ThatFails_LeavesWhatWasThereAndNothingElse()
    {
        FakeOwner? made = null;
        await using var port = new ScriptedPort((stream, _, token) => FakeOwner.ServeAsync(stream, () => made!,
            request => request == 0 ? Task.CompletedTask : Task.Delay(Timeout.Infinite, token), token));
        await using var owner = made = new FakeOwner([12 << 20], dataPort: port.EndPoint);
        using var directory = new TempDirectory();
        string old = directory.Write("place/model.safetensors", "old");
        await Assert.ThrowsAsync<CheckpointEngineException>(() => JoinAsync(owner, Path.Combine(directory.Path, "place"), stall: TimeSpan.FromMilliseconds(300)));
        Assert.Equal("old", await File.ReadAllTextAsync(old, Cancel));
        Assert.Single(Directory.GetFileSystemEntries(directory.Path));

        await Assert.ThrowsAsync<CheckpointEngineException>(() => JoinAsync(owner, Path.Combine(directory.Path, "place"), keepPartial: true, stall: TimeSpan.FromMilliseconds(300)));
        Assert.Equal("old", await File.ReadAllTextAsync(old, Cancel));
        Assert.Equal([".place.ce-partial", "place"], Directory.GetFileSystemEntries(directory.Path).Select(Path.GetFileName).Order(StringComparer.Ordinal));
    }

    [Fact]
    public async Task Join_WhileAnotherIsAtWorkOnThePlace_IsRefusedAndTheOtherCompletes()
    {
        FakeOwner? made = null;
        using var begun = new SemaphoreSlim(0);
        using var goOn = new SemaphoreSlim(0);
        await using var port = new ScriptedPort((stream, _, token) => FakeOwner.ServeAsync(stream, () => made!, async request =>
        {
            if (request == 1)
            {
                begun.Release();
                await goOn.WaitAsync(token);
            }
        }, token));
        await using var slow = made = new FakeOwner([12 << 20], dataPort: port.EndPoint);
        await using var quick = new FakeOwner(s_lengths);
        using var directory = new TempDirectory();
        string place = Path.Combine(directory.Path, "place");
        Task<JoinReport> first = JoinAsync(slow, place);
        await begun.WaitAsync(Cancel);
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => JoinAsync(quick, place));
        Assert.Equal(CheckpointError.AlreadyExists, failure.Error);
        goOn.Release(100);
        await first;
        AssertLoads(slow, place);
        Assert.Equal([place], Directory.GetFileSystemEntries(directory.Path));
    }

    [Fact]
    public async Task Join_DiskFull_IsAnIoErrorAndLeavesNothing()
    {
        using var directory = new TempDirectory();
        string disk = Path.Combine(directory.Path, "disk");
        Directory.CreateDirectory(disk);
        if (!await RunAsync("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk))
        {
            Assert.Skip("a tmpfs cannot be mounted here: it takes root and CAP_SYS_ADMIN");
        }
        try
        {
            await using var owner = new FakeOwner(s_lengths);
            var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => JoinAsync(owner, Path.Combine(disk, "copy")));
            Assert.Equal(CheckpointError.Io, failure.Error);
            Assert.Contains("bytes are needed", failure.Message, StringComparison.Ordinal);
            Assert.Empty(Directory.GetFileSystemEntries(disk));

            // A mount point itself cannot be exchanged: file by file, and said so.
            await using var small = new FakeOwner([1000, 5]);
            JoinReport report = await JoinAsync(small, disk);
            Assert.Contains(report.Warnings, warning => warning.Contains("mount point", StringComparison.Ordinal));
            AssertLoads(small, disk);
            Assert.Equal(["model.safetensors"], Directory.GetFileSystemEntries(disk).Select(Path.GetFileName));
        }
        finally
        {
            Assert.True(await RunAsync("umount", disk));
        }
    }

    private static async Task<bool> RunAsync(string command, params string[] arguments)
    {
        try
        {
            using var process = Process.Start(new ProcessStartInfo(command, arguments) { RedirectStandardError = true, RedirectStandardOutput = true })!;
            await process.WaitForExitAsync(Cancel);
            return process.ExitCode == 0;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return false;
        }
    }
}
