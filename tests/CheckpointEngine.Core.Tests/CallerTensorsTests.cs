using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Tests;

/// <summary>Tensors of the caller: held in place, changed between begin and commit, filled by a join.</summary>
public sealed class CallerTensorsTests : IDisposable
{
    private const int Bytes = 24 << 20;
    private readonly MemoryBuffer _memory = MemoryBuffer.AllocateAnonymous(Bytes);

    public CallerTensorsTests() => new Random(5).NextBytes(Memory);

    private Span<byte> Memory => _memory.GetSpan(0, Bytes);

    private nint Address => _memory.Address;

    public void Dispose() => _memory.Dispose();

    private static async Task<ParameterServer> StartAsync()
    {
        var server = new ParameterServer(new ParameterServerOptions());
        await server.StartAsync(TestContext.Current.CancellationToken);
        return server;
    }

    // Neighbours, a gap, a scalar, an empty one, tied weights (the same bytes twice), and one that overlaps by half.
    private CallerTensors Tensors(out Dictionary<string, (int Offset, int Length)> places)
    {
        places = new()
        {
            ["a"] = (0, 6 << 20),
            ["b"] = (6 << 20, 1000),
            ["scalar"] = ((6 << 20) + 1000, 4),
            ["far"] = (8 << 20, 9 << 20),
            ["tied"] = (8 << 20, 9 << 20),
            ["half"] = (12 << 20, 9 << 20),
            ["empty"] = (0, 0),
        };
        var tensors = new CallerTensors();
        foreach ((string name, (int offset, int length)) in places.Reverse())
        {
            tensors.Add(name, name == "scalar" ? TensorDtype.F32 : TensorDtype.U8, name == "scalar" ? [] : [length], length == 0 ? 0 : Address + offset);
        }
        return tensors;
    }

    private void AssertEqual(Dictionary<string, (int Offset, int Length)> places, HeldCheckpoint held)
    {
        Assert.Equal(places.Count, held.Tensors.Count);
        foreach ((string name, (int offset, int length)) in places)
        {
            Assert.True(Memory.Slice(offset, length).SequenceEqual(held.GetTensorBytes(name)), name);
        }
    }

    [Fact]
    public async Task RegisterTensors_JoinsEqual_AndCopiesNothing()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        await using ParameterServer holder = await StartAsync();
        using CallerTensors tensors = Tensors(out var places);
        HeldCheckpoint held = holder.RegisterTensors("live", tensors);
        Assert.Equal(Address, held.GetAddress(held.Tensors.IndexOf("a")));
        Assert.Equal(Address + (8 << 20), held.GetAddress(held.Tensors.IndexOf("tied")));

        await using ParameterServer joiner = await StartAsync();
        Assert.True((await joiner.JoinAsync(holder.GetMetas("live").Metas, new JoinOptions { Transport = TransportChoice.Tcp, RequireVerify = true }, null, cancel)).Verified);
        AssertEqual(places, joiner.FindCheckpoint("join-checkpoint")!);

        // The joiner's copy has its own memory, and the caller's is free again.
        Assert.True(await holder.UnregisterAsync("live", cancel));
        Memory.Clear();
        Assert.NotEqual(0, joiner.FindCheckpoint("join-checkpoint")!.GetTensorBytes("a")[..4096].IndexOfAnyExcept((byte)0) + 1);
    }

    [Fact]
    public async Task RegisterTensors_WhatLiesBetweenThem_CannotBeRead()
    {
        await using ParameterServer holder = await StartAsync();
        using CallerTensors tensors = Tensors(out _);
        holder.RegisterTensors("live", tensors);
        foreach (MetasBuffer buffer in holder.GetMetas("live").Metas.Owners[0].Buffers)
        {
            long start = (long)buffer.Address - Address;
            Assert.True(buffer.SizeBytes == 0 || (start >= 0 && (start + buffer.SizeBytes <= (6 << 20) + 1004 || start >= 8 << 20)), $"{start}");
        }
    }

    [Fact]
    public async Task RegisterTensors_MemoryOfAnotherCheckpoint_IsRefusedAndLeavesNothing()
    {
        await using ParameterServer holder = await StartAsync();
        using CallerTensors tensors = Tensors(out _);
        holder.RegisterTensors("live", tensors);
        using var overlapping = new CallerTensors();
        overlapping.Add("x", TensorDtype.U8, [10], Address + (20 << 20));
        var failure = Assert.Throws<CheckpointEngineException>(() => holder.RegisterTensors("other", overlapping));
        Assert.Equal(CheckpointError.AlreadyExists, failure.Error);
        Assert.Equal(["live"], holder.CheckpointNames);
        Assert.Equal(CheckpointError.AlreadyExists, Assert.Throws<CheckpointEngineException>(() => holder.RegisterTensors("live", tensors)).Error);
    }

    [Fact]
    public void Add_WhatCannotBe_IsAnArgumentError()
    {
        using var tensors = new CallerTensors();
        Assert.Throws<ArgumentException>(() => tensors.Add("", TensorDtype.U8, [1], Address));
        Assert.Throws<ArgumentException>(() => tensors.Add([0xff, 0xfe], TensorDtype.U8, [1], Address));
        Assert.Throws<ArgumentException>(() => tensors.Add("x", TensorDtype.Unknown, [1], Address));
        Assert.Throws<ArgumentException>(() => tensors.Add("x", (TensorDtype)99, [1], Address));
        Assert.Throws<ArgumentException>(() => tensors.Add("x", TensorDtype.U8, [-1], Address));
        Assert.Throws<ArgumentException>(() => tensors.Add("x", TensorDtype.U8, [long.MaxValue, 2], Address));
        Assert.Throws<ArgumentException>(() => tensors.Add("x", TensorDtype.F4, [3], Address));
        Assert.Throws<ArgumentException>(() => tensors.Add("x", TensorDtype.U8, [1], 0));
        Assert.Throws<ArgumentException>(() => tensors.Add("x", TensorDtype.U8, [1], -1));
        Assert.Throws<ArgumentException>(() => tensors.Add("x", TensorDtype.U8, [2], unchecked((nint)((1UL << 47) - 1))));
        Assert.Equal(0, tensors.Count);
    }

    [Fact]
    public async Task RegisterTensors_NoneOrTwoOfAName_IsAnArgumentError()
    {
        await using ParameterServer holder = await StartAsync();
        using var tensors = new CallerTensors();
        Assert.Throws<ArgumentException>(() => holder.RegisterTensors("live", tensors));
        tensors.Add("x", TensorDtype.U8, [1], Address);
        tensors.Add("x", TensorDtype.U8, [1], Address + 1);
        Assert.Throws<ArgumentException>(() => holder.RegisterTensors("live", tensors));
        Assert.Empty(holder.CheckpointNames);
    }

    [Fact]
    public async Task CommitUpdate_WhileItsMemoryIsRegistered_OthersAreAnswered()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        await using ParameterServer holder = await StartAsync();
        using CallerTensors tensors = Tensors(out _);
        holder.RegisterTensors("live", tensors);
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(4096);
        using var otherTensors = new CallerTensors();
        otherTensors.Add("y", TensorDtype.U8, [4096], memory.Address);
        holder.RegisterTensors("other", otherTensors);
        await holder.BeginUpdateAsync("live");
        using var entered = new ManualResetEventSlim();
        using var mayLeave = new ManualResetEventSlim();
        holder.Registry.Observe(_ =>
        {
            entered.Set();
            Assert.True(mayLeave.Wait(TimeSpan.FromSeconds(60), cancel));
        }, _ => { });

        Task committing = Task.Factory.StartNew(() => holder.CommitUpdate("live"), cancel, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        Assert.True(entered.Wait(TimeSpan.FromSeconds(60), cancel));
        Task<CheckpointError> asking = Task.Run(() =>
        {
            Assert.Contains("other", holder.CheckpointNames);
            holder.GetMetas("other");
            Assert.Throws<InvalidOperationException>(() => holder.CommitUpdate("live"));
            return Assert.Throws<CheckpointEngineException>(() => holder.GetMetas("live")).Error;
        }, cancel);
        CheckpointError error = await asking.WaitAsync(TimeSpan.FromSeconds(60), cancel);
        Task<bool> leaving = holder.UnregisterAsync("live", cancel);       // waits: the memory is being registered

        Assert.Equal(CheckpointError.Busy, error);
        Assert.False(committing.IsCompleted);
        Assert.False(leaving.IsCompleted);
        mayLeave.Set();
        await committing.WaitAsync(TimeSpan.FromSeconds(60), cancel);
        Assert.True(await leaving.WaitAsync(TimeSpan.FromSeconds(60), cancel));
        Assert.Equal(["other"], holder.CheckpointNames);
        Assert.False(holder.Registry.TryFind((ulong)Address, 1, out _));
    }

    [Fact]
    public async Task CommitUpdate_MemoryIsRefused_MayBeTriedAgain()
    {
        await using ParameterServer holder = await StartAsync();
        using CallerTensors tensors = Tensors(out _);
        holder.RegisterTensors("live", tensors);
        string before = holder.GetMetas("live").EntityTag;
        await holder.BeginUpdateAsync("live");
        bool refuses = true;
        holder.Registry.Observe(_ =>
        {
            if (refuses)
            {
                throw new CheckpointEngineException(CheckpointError.OutOfMemory, "no more");
            }
        }, _ => { });

        Assert.Throws<CheckpointEngineException>(() => holder.CommitUpdate("live"));
        Assert.Equal(CheckpointError.Busy, Assert.Throws<CheckpointEngineException>(() => holder.GetMetas("live")).Error);
        refuses = false;
        holder.CommitUpdate("live");

        Assert.NotEqual(before, holder.GetMetas("live").EntityTag);
        Assert.True(holder.Registry.TryFind((ulong)Address, 1, out _));
    }

    [Fact]
    public async Task Update_IsBusyMeanwhile_AndBringsANewGeneration()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        await using ParameterServer holder = await StartAsync();
        using CallerTensors tensors = Tensors(out var places);
        holder.RegisterTensors("live", tensors);
        PublishedMetas before = holder.GetMetas("live");
        await using ParameterServer joiner = await StartAsync();
        await joiner.JoinAsync(before.Metas, new JoinOptions { Transport = TransportChoice.Tcp, CheckpointName = "old", RequireVerify = true }, null, cancel);

        Assert.Throws<InvalidOperationException>(() => holder.CommitUpdate("live"));
        await holder.BeginUpdateAsync("live");
        await Assert.ThrowsAsync<InvalidOperationException>(() => holder.BeginUpdateAsync("live"));
        Assert.Equal(CheckpointError.Busy, Assert.Throws<CheckpointEngineException>(() => holder.GetMetas("live")).Error);
        var refused = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(before.Metas, new JoinOptions { Transport = TransportChoice.Tcp, CheckpointName = "between" }, null, cancel));
        Assert.Contains(refused.Error, new[] { CheckpointError.Refused, CheckpointError.Superseded });
        using var client = new MetasClient();
        Assert.Equal(CheckpointError.Busy, (await Assert.ThrowsAsync<CheckpointEngineException>(() => client.FetchAsync($"{holder.PeerUrl}/live", cancel))).Error);
        new Random(6).NextBytes(Memory);
        holder.CommitUpdate("live");

        PublishedMetas after = holder.GetMetas("live");
        Assert.NotEqual(before.EntityTag, after.EntityTag);
        Assert.True((await joiner.JoinAsync(after.Metas, new JoinOptions { Transport = TransportChoice.Tcp, CheckpointName = "new", RequireVerify = true }, null, cancel)).Verified);
        AssertEqual(places, joiner.FindCheckpoint("new")!);
        Assert.Equal(["new", "old"], joiner.CheckpointNames);
    }

    [Fact]
    public async Task Update_OfFilesOrOfNothing_IsRefused()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync();
        await holder.RegisterAsync("files", [files.Path], cancel);
        await Assert.ThrowsAsync<InvalidOperationException>(() => holder.BeginUpdateAsync("files"));
        Assert.Equal(CheckpointError.NotFound, (await Assert.ThrowsAsync<CheckpointEngineException>(() => holder.BeginUpdateAsync("nothing"))).Error);
        Assert.Equal(CheckpointError.NotFound, Assert.Throws<CheckpointEngineException>(() => holder.CommitUpdate("nothing")).Error);
    }

    [Theory]
    [InlineData(true, TransportChoice.Tcp)]
    [InlineData(false, TransportChoice.Tcp)]
    [InlineData(true, TransportChoice.Local)]
    [InlineData(false, TransportChoice.Local)]
    public async Task Update_WhileOthersJoin_NeverMixesGenerations(bool verify, TransportChoice transport)
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        await using ParameterServer holder = await StartAsync();
        using var tensors = new CallerTensors();
        const int Count = 96;
        const int Each = Bytes / Count;
        for (int tensor = 0; tensor < Count; tensor++)
        {
            tensors.Add($"t{tensor:d3}", TensorDtype.U8, [Each], Address + tensor * Each);
        }
        Memory.Clear();
        holder.RegisterTensors("live", tensors);
        int joined = 0;
        Task joins = Task.Run(async () =>
        {
            await using var joiner = new ParameterServer(new ParameterServerOptions());
            for (int i = 0; i < 60 || Volatile.Read(ref joined) == 0; i++)
            {
                try
                {
                    await joiner.JoinAsync(holder.GetMetas("live").Metas, new JoinOptions { Transport = transport, Verify = verify, RequireVerify = verify, CheckpointName = "copy" }, null, cancel);
                }
                catch (CheckpointEngineException failure) when (failure.Error is CheckpointError.Busy or CheckpointError.Refused or CheckpointError.DigestMismatch or CheckpointError.Superseded or CheckpointError.Unreachable)
                {
                    continue;
                }
                HeldCheckpoint copy = joiner.FindCheckpoint("copy")!;
                byte first = copy.GetTensorBytes("t000")[0];
                for (int tensor = 0; tensor < Count; tensor++)
                {
                    Assert.Equal(-1, copy.GetTensorBytes($"t{tensor:d3}").IndexOfAnyExcept(first));
                }
                Interlocked.Increment(ref joined);
                await joiner.UnregisterAsync("copy", cancel);
            }
        }, cancel);
        byte generation = 0;
        while (!joins.IsCompleted)
        {
            await holder.BeginUpdateAsync("live");
            Memory.Fill(++generation);
            holder.CommitUpdate("live");
            if (generation % 4 == 0)
            {
                int before = Volatile.Read(ref joined);
                while (!joins.IsCompleted && Volatile.Read(ref joined) == before)
                {
                    await Task.Yield();          // let one through
                }
            }
        }
        await joins;
        Assert.True(joined > 0);
    }

    [Fact]
    public async Task JoinIntoTensors_FillsThemAndNothingElse()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync();
        HeldCheckpoint held = await holder.RegisterAsync("model", [files.Path], cancel);
        long size = 0;
        for (int tensor = 0; tensor < held.Tensors.Count; tensor++)
        {
            size += held.Tensors.GetByteLength(tensor) + 64;
        }
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(size);
        memory.GetSpan(0, checked((int)size)).Fill(0xee);
        using var into = new CallerTensors();
        var places = new Dictionary<string, long>();
        long at = 64;
        for (int tensor = held.Tensors.Count - 1; tensor >= 0; tensor--)
        {
            if (tensor % 5 != 3)         // not all of them: only what is given is read
            {
                into.Add(held.Tensors.GetNameUtf8(tensor), held.Tensors.GetDtype(tensor), held.Tensors.GetShape(tensor), memory.Address + (nint)at);
                places.Add(held.Tensors.GetName(tensor), at);
                at += held.Tensors.GetByteLength(tensor) + 64;
            }
        }
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Tcp, Destination = JoinDestinationKind.Tensors, Tensors = into, RequireVerify = true }, null, cancel);
        Assert.Equal(places.Count, report.Tensors);
        Assert.True(report.Verified);
        Assert.Empty(joiner.CheckpointNames);
        foreach ((string name, long place) in places)
        {
            ReadOnlySpan<byte> expected = held.GetTensorBytes(name);
            Assert.True(memory.GetReadOnlySpan(place, expected.Length).SequenceEqual(expected), name);
            Assert.Equal(-1, memory.GetReadOnlySpan(place - 64, 64).IndexOfAnyExcept((byte)0xee));
        }
    }

    [Fact]
    public async Task JoinIntoTensors_AnotherShapeOrAMissingOne_IsToldByName()
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        using var files = new SmallCheckpoint([("a", TensorDtype.F32, [8, 4]), ("b", TensorDtype.F32, [8])]);
        await using ParameterServer holder = await StartAsync();
        await holder.RegisterAsync("model", [files.Path], cancel);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        foreach ((string name, TensorDtype dtype, long[] shape, CheckpointError expected) in new[]
        {
            ("a", TensorDtype.F32, new long[] { 4, 8 }, CheckpointError.WrongShape),
            ("a", TensorDtype.I32, [8, 4], CheckpointError.WrongShape),
            ("c", TensorDtype.F32, [8], CheckpointError.NotFound),
        })
        {
            using var into = new CallerTensors();
            into.Add("b", TensorDtype.F32, [8], Address);
            into.Add(name, dtype, shape, Address + 4096);
            var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(
                holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Tcp, Destination = JoinDestinationKind.Tensors, Tensors = into }, null, cancel));
            Assert.Equal(expected, failure.Error);
            Assert.Contains($"'{name}'", failure.Message);
        }
        await Assert.ThrowsAsync<ArgumentNullException>(() => joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Tcp, Destination = JoinDestinationKind.Tensors }, null, cancel));
    }
}
