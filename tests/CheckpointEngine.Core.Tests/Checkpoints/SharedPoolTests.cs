using CheckpointEngine.Checkpoints;

namespace CheckpointEngine.Tests;

/// <summary>One checkpoint's memory is kept for the next one, and never more than that.</summary>
public sealed class SharedPoolTests
{
    private static SmallCheckpoint Version(int rows) => new(
        [("embed", TensorDtype.BF16, [rows, 3000]), ("scalar", TensorDtype.F32, [])],
        [.. Enumerable.Range(0, 20).Select(i => ($"layers.{i}.w", TensorDtype.F16, new long[] { 16 + i, 65 }))]);

    [Fact]
    public async Task Register_VersionAfterVersion_LiesInTheSameMemoryAndIsReadAsItIs()
    {
        using SmallCheckpoint files = Version(100);
        await using var holder = new ParameterServer(new ParameterServerOptions { SharedPool = true });
        await holder.StartAsync(TestContext.Current.CancellationToken);
        var addresses = new HashSet<nint>();
        for (int version = 0; version < 20; version++)
        {
            // The same layout, other bytes: those of one tensor are changed in its file.
            byte[] content = files.Tensors["embed"];
            string shard = Directory.GetFiles(files.Path, "*-00001-of-*")[0];
            byte[] bytes = await File.ReadAllBytesAsync(shard, TestContext.Current.CancellationToken);
            int at = bytes.AsSpan().IndexOf(content);
            Assert.True(at > 0);
            Array.Fill(content, (byte)version);
            content.CopyTo(bytes, at);
            await File.WriteAllBytesAsync(shard, bytes, TestContext.Current.CancellationToken);

            HeldCheckpoint held = await holder.RegisterAsync("m", [files.Path], TestContext.Current.CancellationToken);
            Assert.Equal(MemoryBufferKind.Anonymous, held.Buffers[0].Memory.Kind);
            addresses.Add(held.Buffers[0].Memory.Address);
            SmallCheckpoint.AssertEqual(files.Tensors, held);
            await using var joiner = new ParameterServer(new ParameterServerOptions());
            var options = new JoinOptions { RequireVerify = true, Transport = Transfer.TransportChoice.Tcp };
            Assert.True((await joiner.JoinAsync(holder.GetMetas("m").Metas, options, cancellationToken: TestContext.Current.CancellationToken)).Verified);
            SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("join-checkpoint")!);
            Assert.True(await holder.UnregisterAsync("m", TestContext.Current.CancellationToken));
        }
        Assert.Single(addresses);
    }

    [Fact]
    public async Task Register_OfAnotherLayout_FreesWhatWasKept()
    {
        using SmallCheckpoint small = Version(100);
        using SmallCheckpoint large = Version(400);
        await using var holder = new ParameterServer(new ParameterServerOptions { SharedPool = true });
        HeldCheckpoint held = await holder.RegisterAsync("m", [small.Path], TestContext.Current.CancellationToken);
        MemoryBuffer memory = held.Buffers[0].Memory;
        await holder.UnregisterAsync("m", TestContext.Current.CancellationToken);
        Assert.False(memory.Region.IsClosed);       // kept
        held = await holder.RegisterAsync("m", [large.Path], TestContext.Current.CancellationToken);
        Assert.True(memory.Region.IsClosed);
        SmallCheckpoint.AssertEqual(large.Tensors, held);
    }

    [Fact]
    public async Task Register_SaidOfTheRegistration_IsKeptForThoseThatSaySo()
    {
        using SmallCheckpoint files = Version(100);
        var pooled = new RegistrationOptions { SharedPool = true };
        await using var holder = new ParameterServer(new ParameterServerOptions());
        MemoryBuffer memory = (await holder.RegisterAsync("m", [files.Path], null, pooled, TestContext.Current.CancellationToken)).Buffers[0].Memory;
        Assert.Equal(MemoryBufferKind.Anonymous, memory.Kind);
        await holder.UnregisterAsync("m", TestContext.Current.CancellationToken);
        Assert.False(memory.Region.IsClosed);
        Assert.Equal(MemoryBufferKind.MappedFile, (await holder.RegisterAsync("mapped", [files.Path], TestContext.Current.CancellationToken)).Buffers[0].Memory.Kind);
        HeldCheckpoint next = await holder.RegisterAsync("next", [files.Path], null, pooled, TestContext.Current.CancellationToken);
        Assert.Same(memory, next.Buffers[0].Memory);
        SmallCheckpoint.AssertEqual(files.Tensors, next);
    }

    [Fact]
    public async Task Unregister_ByForce_FreesItsMemoryAndWhatWasKept()
    {
        using SmallCheckpoint files = Version(100);
        await using var holder = new ParameterServer(new ParameterServerOptions { SharedPool = true });
        MemoryBuffer one = (await holder.RegisterAsync("one", [files.Path], TestContext.Current.CancellationToken)).Buffers[0].Memory;
        MemoryBuffer two = (await holder.RegisterAsync("two", [files.Path], TestContext.Current.CancellationToken)).Buffers[0].Memory;
        await holder.UnregisterAsync("one", TestContext.Current.CancellationToken);
        Assert.False(one.Region.IsClosed);
        Assert.True(await holder.UnregisterAsync("two", freeSharedPool: true, TestContext.Current.CancellationToken));
        Assert.True(one.Region.IsClosed);
        Assert.True(two.Region.IsClosed);
    }

    [Fact]
    public async Task Dispose_WithMemoryKept_FreesIt()
    {
        using SmallCheckpoint files = Version(100);
        var holder = new ParameterServer(new ParameterServerOptions { SharedPool = true });
        MemoryBuffer memory = (await holder.RegisterAsync("m", [files.Path], TestContext.Current.CancellationToken)).Buffers[0].Memory;
        await holder.UnregisterAsync("m", TestContext.Current.CancellationToken);
        Assert.False(memory.Region.IsClosed);
        await holder.DisposeAsync();
        Assert.True(memory.Region.IsClosed);
    }

    [Fact]
    public async Task Register_TwoAtATime_HaveMemoryOfTheirOwn()
    {
        using SmallCheckpoint files = Version(100);
        await using var holder = new ParameterServer(new ParameterServerOptions { SharedPool = true });
        HeldCheckpoint one = await holder.RegisterAsync("one", [files.Path], TestContext.Current.CancellationToken);
        HeldCheckpoint two = await holder.RegisterAsync("two", [files.Path], TestContext.Current.CancellationToken);
        MemoryBuffer ofOne = one.Buffers[0].Memory;
        Assert.NotEqual(ofOne.Address, two.Buffers[0].Memory.Address);
        await holder.UnregisterAsync("one", TestContext.Current.CancellationToken);
        await holder.UnregisterAsync("two", TestContext.Current.CancellationToken);
        Assert.True(ofOne.Region.IsClosed);         // that of one checkpoint is kept, the last one's
    }
}
