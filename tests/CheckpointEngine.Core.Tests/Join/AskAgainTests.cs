using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;

namespace CheckpointEngine.Tests;

/// <summary>An owner that is lost while it is read, and found again by its metas URL: started anew, with the same content or another.</summary>
public sealed class AskAgainTests
{
    private static readonly int[] s_lengths = [.. Enumerable.Repeat(4 << 20, 9), 12345];      // t0 to t9: by name they lie in the same order

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Join_OwnerDiesAndIsThereAgain_ReadsOnlyTheRest(bool toDirectory)
    {
        int answers = 0;
        FakeOwner? made = null;
        await using var port = new ScriptedPort((stream, _, token) => FakeOwner.ServeAsync(stream, () => made!, _ => Interlocked.Increment(ref answers) <= 5 ? Task.CompletedTask : throw new IOException("gone"), token));
        await using var owner = made = new FakeOwner(s_lengths, dataPort: port.EndPoint, digest: root => root);
        using var content = new SmallCheckpoint(owner.Tensors);       // packed into anonymous memory it lies as the fake owner's
        using var temp = new TempDirectory();
        await using var successor = new ParameterServer(new ParameterServerOptions { Hold = HoldMode.Anonymous });
        await successor.StartAsync(Cancel);
        await successor.RegisterAsync("model", [content.Path], Cancel);
        int asked = 0;
        JoinOptions options = Options(toDirectory ? temp["copy"] : null, _ => Task.FromResult(++asked == 1
            ? throw new CheckpointEngineException(CheckpointError.Unreachable, "still starting")
            : successor.GetMetas("model").Metas));

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(owner.Metas, options, null, Cancel);

        Assert.Equal(2, asked);
        Assert.True(report.Verified);
        Assert.InRange(report.ReusedBytes, 4 << 20, report.Bytes - 1);
        Assert.InRange(report.Transports["tcp"], 1, report.Bytes - report.ReusedBytes + (1 << 20));
        Assert.StartsWith("went on with the metas of now: ", Assert.Single(report.Warnings, warning => !warning.StartsWith("no side files", StringComparison.Ordinal)), StringComparison.Ordinal);
        if (toDirectory)
        {
            SmallCheckpoint.AssertEqual(owner.Tensors, await joiner.RegisterAsync("copy", [temp["copy"]], Cancel));
        }
        else
        {
            SmallCheckpoint.AssertEqual(owner.Tensors, joiner.FindCheckpoint("copy")!);
        }
    }

    [Fact]
    public async Task Join_OwnerIsThereAgainWithOtherContent_HasThatAloneAndNothingOfTheFirst()
    {
        int answers = 0;
        FakeOwner? made = null;
        await using var port = new ScriptedPort((stream, _, token) => FakeOwner.ServeAsync(stream, () => made!, _ => Interlocked.Increment(ref answers) <= 5 ? Task.CompletedTask : throw new IOException("gone"), token));
        await using var owner = made = new FakeOwner(s_lengths, dataPort: port.EndPoint, digest: root => root);
        var others = owner.Tensors.ToDictionary(tensor => tensor.Key, tensor => tensor.Value.Select(value => (byte)(value ^ 1)).ToArray());
        using var content = new SmallCheckpoint(others);
        await using var successor = new ParameterServer(new ParameterServerOptions { Hold = HoldMode.Anonymous });
        await successor.StartAsync(Cancel);
        await successor.RegisterAsync("model", [content.Path], Cancel);

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(owner.Metas, Options(null, _ => Task.FromResult(successor.GetMetas("model").Metas)), null, Cancel);

        Assert.True(report.Verified);
        Assert.Equal(0, report.ReusedBytes);
        SmallCheckpoint.AssertEqual(others, joiner.FindCheckpoint("copy")!);
    }

    [Fact]
    public async Task Join_IntoTheCallersTensors_OwnerIsThereAgain_BeginsAgain()
    {
        int answers = 0;
        FakeOwner? made = null;
        await using var port = new ScriptedPort((stream, _, token) => FakeOwner.ServeAsync(stream, () => made!, _ => Interlocked.Increment(ref answers) <= 5 ? Task.CompletedTask : throw new IOException("gone"), token));
        await using var owner = made = new FakeOwner(s_lengths, dataPort: port.EndPoint, digest: root => root);
        var others = owner.Tensors.ToDictionary(tensor => tensor.Key, tensor => tensor.Value.Select(value => (byte)(value ^ 1)).ToArray());
        using var content = new SmallCheckpoint(others);
        await using var successor = new ParameterServer(new ParameterServerOptions());
        await successor.StartAsync(Cancel);
        await successor.RegisterAsync("model", [content.Path], Cancel);
        using var tensors = new CallerTensors();
        var memory = new Dictionary<string, MemoryBuffer>();
        try
        {
            foreach ((string name, byte[] bytes) in others)
            {
                memory.Add(name, MemoryBuffer.AllocateAnonymous(bytes.Length));
                tensors.Add(name, TensorDtype.U8, [bytes.Length], memory[name].Address);
            }
            JoinOptions options = Options(null, _ => Task.FromResult(successor.GetMetas("model").Metas));
            (options.Destination, options.Tensors) = (JoinDestinationKind.Tensors, tensors);

            await using var joiner = new ParameterServer(new ParameterServerOptions());
            JoinReport report = await joiner.JoinAsync(owner.Metas, options, null, Cancel);

            Assert.True(report.Verified);
            Assert.StartsWith("went on with the metas of now: ", Assert.Single(report.Warnings), StringComparison.Ordinal);
            Assert.All(others, tensor => Assert.True(memory[tensor.Key].GetReadOnlySpan(0, tensor.Value.Length).SequenceEqual(tensor.Value), tensor.Key));
        }
        finally
        {
            foreach (MemoryBuffer buffer in memory.Values)
            {
                buffer.Dispose();
            }
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Join_NobodyIsThereAgain_FailsWithTheFirstReasonAndLeavesNothing(bool toDirectory)
    {
        FakeOwner? made = null;
        await using var port = new ScriptedPort((stream, _, token) => FakeOwner.ServeAsync(stream, () => made!, static _ => throw new IOException("gone"), token));
        await using var owner = made = new FakeOwner([4 << 20], dataPort: port.EndPoint, digest: root => root);
        DirectoryInfo temp = Directory.CreateTempSubdirectory("ce-test-");
        try
        {
            JoinOptions options = Options(toDirectory ? Path.Combine(temp.FullName, "copy") : null, _ => throw new CheckpointEngineException(CheckpointError.Unreachable, "nobody"));
            options.AskTimeout = TimeSpan.FromMilliseconds(300);

            await using var joiner = new ParameterServer(new ParameterServerOptions());
            var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(owner.Metas, options, null, Cancel));

            Assert.Contains("the connection broke", failure.Message, StringComparison.Ordinal);
            Assert.Empty(temp.EnumerateFileSystemInfos());
        }
        finally
        {
            temp.Delete(recursive: true);
        }
    }

    [Fact]
    public async Task Join_EarlierVersionIsGoneWhenItIsTriedAgain_DoesWithoutIt()
    {
        FakeOwner? made = null;
        await using var port = new ScriptedPort((stream, _, token) => FakeOwner.ServeAsync(stream, () => made!, static _ => throw new IOException("gone"), token));
        await using var owner = made = new FakeOwner([(4 << 20) + 1, 4 << 20], dataPort: port.EndPoint, digest: root => root);
        using var content = new SmallCheckpoint(owner.Tensors);
        await using var successor = new ParameterServer(new ParameterServerOptions());       // mapped: laid out otherwise, so that the memory of the first try is of no use
        await successor.StartAsync(Cancel);
        await successor.RegisterAsync("model", [content.Path], Cancel);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await joiner.RegisterAsync("live", [content.Path], Cancel);
        JoinOptions options = Options(null, async _ =>
        {
            Assert.True(await joiner.UnregisterAsync("live", Cancel));
            return successor.GetMetas("model").Metas;
        });
        options.EarlierCheckpoint = "live";

        JoinReport report = await joiner.JoinAsync(owner.Metas, options, null, Cancel);

        Assert.True(report.Verified);
        Assert.Equal(0, report.ReusedBytes);
        SmallCheckpoint.AssertEqual(owner.Tensors, joiner.FindCheckpoint("copy")!);
    }

    [Theory]
    [InlineData(60_000L)]
    [InlineData(-1L)]                               // for ever, as .NET says it,
    [InlineData(922_337_203_685_477L)]              // and as a caller in C comes to it
    public async Task Join_OwnerCannotBeReachedForAWhile_IsTriedUntilItCan(long askMs)
    {
        using var content = new SmallCheckpoint(new Dictionary<string, byte[]> { ["t0"] = new byte[4096] });
        CheckpointMetas told;
        int port;
        await using (var first = new ParameterServer(new ParameterServerOptions()))
        {
            await first.StartAsync(Cancel);
            await first.RegisterAsync("model", [content.Path], Cancel);
            told = first.GetMetas("model").Metas;
            port = EndpointName.Parse(first.P2pStoreAddress).Port;
        }
        ParameterServer? again = null;
        int asked = 0;
        JoinOptions options = Options(null, async _ =>
        {
            if (++asked == 8)           // more often than an owner that is read may be lost
            {
                again = new ParameterServer(new ParameterServerOptions { Port = port });
                await again.StartAsync(Cancel);
                await again.RegisterAsync("model", [content.Path], Cancel);
                told = again.GetMetas("model").Metas;
            }
            return told;                // of an owner that nobody reaches, until then
        });
        options.AskTimeout = TimeSpan.FromMilliseconds(askMs);

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(told, options, null, Cancel);

        Assert.True(report.Verified);
        Assert.Equal(8, asked);
        Assert.Single(report.Warnings);
        await again!.DisposeAsync();
    }

    [Fact]
    public async Task Join_RefusedByWhoStillHoldsIt_FailsAtOnce()
    {
        using var content = new SmallCheckpoint(new Dictionary<string, byte[]> { ["t0"] = new byte[4096] });
        await using var holder = new ParameterServer(new ParameterServerOptions { PlainPeers = PlainPeers.None });       // our lanes prove nothing where there is no token
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [content.Path], Cancel);
        int asked = 0;
        JoinOptions options = Options(null, _ =>
        {
            asked++;
            return Task.FromResult(holder.GetMetas("model").Metas);
        });
        options.AskTimeout = TimeSpan.FromMinutes(5);

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(holder.GetMetas("model").Metas, options, null, Cancel));

        Assert.Equal(CheckpointError.Refused, failure.Error);
        Assert.Equal(1, asked);
    }

    [Fact]
    public async Task Join_OwnerDoesNotAnswerTheQuestion_FailsWhenItsTimeIsUp()
    {
        FakeOwner? made = null;
        await using var port = new ScriptedPort((stream, _, token) => FakeOwner.ServeAsync(stream, () => made!, static _ => throw new IOException("gone"), token));
        await using var owner = made = new FakeOwner([4 << 20], dataPort: port.EndPoint, digest: root => root);
        JoinOptions options = Options(null, async token =>
        {
            await Task.Delay(Timeout.Infinite, token);
            throw new InvalidOperationException();
        });
        options.AskTimeout = TimeSpan.FromMilliseconds(200);

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(owner.Metas, options, null, Cancel));

        Assert.Equal(CheckpointError.Unreachable, failure.Error);
    }

    [Fact]
    public async Task Join_SupersededTwiceMeanwhile_HasTheLastGeneration()
    {
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(4 << 20);
        using var tensors = new CallerTensors();
        tensors.Add("a", TensorDtype.U8, [4 << 20], memory.Address);
        await using var holder = new ParameterServer(new ParameterServerOptions());
        await holder.StartAsync(Cancel);
        holder.RegisterTensors("live", tensors);
        CheckpointMetas stale = holder.GetMetas("live").Metas;
        byte version = 0;
        async Task<CheckpointMetas> NextAsync()
        {
            CheckpointMetas told = holder.GetMetas("live").Metas;
            if (version < 2)                    // what is told is superseded at once
            {
                await holder.BeginUpdateAsync("live");
                memory.GetSpan(0, 4 << 20).Fill(++version);
                holder.CommitUpdate("live");
            }
            return told;
        }
        _ = await NextAsync();

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(stale, Options(null, _ => NextAsync()), null, Cancel);

        Assert.True(report.Verified);
        Assert.Equal(2, report.Warnings.Count);
        Assert.Equal(-1, joiner.FindCheckpoint("copy")!.GetTensorBytes("a").IndexOfAnyExcept((byte)2));
    }

    [Fact]
    public async Task Join_SupersededWithoutEnd_GivesUp()
    {
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(4096);
        using var tensors = new CallerTensors();
        tensors.Add("a", TensorDtype.U8, [4096], memory.Address);
        await using var holder = new ParameterServer(new ParameterServerOptions());
        await holder.StartAsync(Cancel);
        holder.RegisterTensors("live", tensors);
        async Task<CheckpointMetas> NextAsync(CancellationToken _)
        {
            CheckpointMetas told = holder.GetMetas("live").Metas;
            await holder.BeginUpdateAsync("live");
            holder.CommitUpdate("live");
            return told;
        }

        await using var joiner = new ParameterServer(new ParameterServerOptions());
        CheckpointMetas stale = await NextAsync(Cancel);
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => joiner.JoinAsync(stale, Options(null, NextAsync), null, Cancel));

        Assert.Equal(CheckpointError.Superseded, failure.Error);
        Assert.Empty(joiner.CheckpointNames);
    }

    private static JoinOptions Options(string? directory, Func<CancellationToken, Task<CheckpointMetas>> ask) => new()
    {
        Transport = TransportChoice.Tcp,
        CheckpointName = "copy",
        Lanes = 1,
        Destination = directory is null ? JoinDestinationKind.Memory : JoinDestinationKind.Directory,
        DirectoryPath = directory,
        AskForMetas = ask,
    };
}
