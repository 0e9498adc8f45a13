using System.Net.Sockets;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Tests;

/// <summary>Joins by the memory of the same host: attached, copied out of a mapping, read from a descriptor, read from a process.</summary>
[Collection(CountsMemory.Name)]
public sealed class LocalPlaneTests
{
    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    private static async Task<ParameterServer> StartAsync(Action<ParameterServerOptions>? configure = null)
    {
        var options = new ParameterServerOptions();
        configure?.Invoke(options);
        var server = new ParameterServer(options);
        await server.StartAsync(Cancel);
        return server;
    }

    private static void MakeWritableByOthers(SmallCheckpoint files)
    {
        foreach (string file in Directory.GetFiles(files.Path, "*.safetensors"))
        {
            if (OperatingSystem.IsLinux())
            {
                File.SetUnixFileMode(file, (UnixFileMode)0b110_110_110);
            }
        }
    }

    [Theory]
    [InlineData(HoldMode.Map)]
    [InlineData(HoldMode.Memfd)]
    public async Task Join_IntoMemory_MapsTheOwnersMemoryAndServesItOn(HoldMode hold)
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync(options => options.Hold = hold);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        await using ParameterServer joiner = await StartAsync();
        long owned = MemoryRegionHandle.LiveBytes;
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions(), null, Cancel);

        HeldCheckpoint held = joiner.FindCheckpoint("join-checkpoint")!;
        SmallCheckpoint.AssertEqual(files.Tensors, held);
        Assert.Equal(report.Bytes, report.AttachedBytes);
        Assert.Equal(report.Bytes, Assert.Single(report.Transports, pair => pair.Key == "local").Value);
        OwnerPlane plane = Assert.Single(report.Planes);
        Assert.True(plane is { Transport: "local", Attached: true, Reason: null }, plane.ToString());
        Assert.False(report.Verified);
        Assert.Equal("shared-mapping", report.UnverifiedReason);
        Assert.Equal("config.json", Assert.Single(held.SideFiles).Name);
        foreach (HeldBuffer buffer in held.Buffers.ToArray().Where(buffer => buffer.SizeBytes != 0))
        {
            Assert.True(buffer.Memory.IsReadOnly);
            Assert.Equal(hold == HoldMode.Memfd ? MemoryBufferKind.Memfd : MemoryBufferKind.MappedFile, buffer.Memory.Kind);
        }

        // The third one attaches to what the second has attached to, the fourth reads it over TCP.
        await using ParameterServer third = await StartAsync();
        report = await third.JoinAsync(joiner.GetMetas("join-checkpoint").Metas, new JoinOptions { RequireVerify = true }, null, Cancel);
        Assert.True(report.Verified);
        Assert.Equal(report.Bytes, report.AttachedBytes);
        SmallCheckpoint.AssertEqual(files.Tensors, third.FindCheckpoint("join-checkpoint")!);
        await using ParameterServer fourth = await StartAsync();
        report = await fourth.JoinAsync(joiner.GetMetas("join-checkpoint").Metas, new JoinOptions { Transport = TransportChoice.Tcp, RequireVerify = true }, null, Cancel);
        Assert.True(report.Verified);
        SmallCheckpoint.AssertEqual(files.Tensors, fourth.FindCheckpoint("join-checkpoint")!);

        await third.UnregisterAsync("join-checkpoint", Cancel);
        await fourth.UnregisterAsync("join-checkpoint", Cancel);
        await joiner.UnregisterAsync("join-checkpoint", Cancel);
        Assert.Equal(owned, MemoryRegionHandle.LiveBytes);
    }

    [Theory]
    [InlineData(HoldMode.Map, false)]
    [InlineData(HoldMode.Map, true)]
    [InlineData(HoldMode.Memfd, false)]
    [InlineData(HoldMode.Memfd, true)]
    [InlineData(HoldMode.Anonymous, false)]
    [InlineData(HoldMode.Anonymous, true)]
    public async Task Join_WithCopy_HasMemoryOfItsOwn(HoldMode hold, bool verify)
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync(options => options.Hold = hold);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        await using ParameterServer joiner = await StartAsync();
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("model").Metas,
            new JoinOptions { Transport = TransportChoice.Local, Copy = true, Verify = verify, RequireVerify = verify, Repeat = 2 }, null, Cancel);

        Assert.Equal(verify, report.Verified);
        Assert.Equal(0, report.AttachedBytes);
        Assert.Equal(["local"], report.Transports.Keys);
        HeldCheckpoint held = joiner.FindCheckpoint("join-checkpoint")!;
        Assert.All(held.Buffers.ToArray(), buffer => Assert.Equal(MemoryBufferKind.Anonymous, buffer.Memory.Kind));
        SmallCheckpoint.AssertEqual(files.Tensors, held);
    }

    [Theory]
    [InlineData(HoldMode.Map, true)]
    [InlineData(HoldMode.Memfd, true)]
    [InlineData(HoldMode.Memfd, false)]
    [InlineData(HoldMode.Anonymous, true)]
    public async Task Join_OfSomeTensors_HasThoseOnly(HoldMode hold, bool serveOn)
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync(options => options.Hold = hold);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        await using ParameterServer joiner = await StartAsync();
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("model").Metas,
            new JoinOptions { Transport = TransportChoice.Local, Include = ["layers.*", "odd", "empty", "scalar"], Exclude = ["layers.1?.w"] }, null, Cancel);
        Dictionary<string, byte[]> wanted = files.Tensors.Where(tensor => tensor.Key is "odd" or "empty" or "scalar"
            || (tensor.Key.StartsWith("layers.", StringComparison.Ordinal) && !(tensor.Key.StartsWith("layers.1", StringComparison.Ordinal) && tensor.Key.Length == 11))).ToDictionary();
        SmallCheckpoint.AssertEqual(wanted, joiner.FindCheckpoint("join-checkpoint")!);
        Assert.Equal(hold == HoldMode.Anonymous ? 0 : report.Bytes, report.AttachedBytes);
        if (serveOn)
        {
            CheckpointMetas metas = joiner.GetMetas("join-checkpoint").Metas;
            metas.ValidateForLoading();
            await using ParameterServer next = await StartAsync();
            report = await next.JoinAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp, RequireVerify = true }, null, Cancel);
            Assert.True(report.Verified);
            SmallCheckpoint.AssertEqual(wanted, next.FindCheckpoint("join-checkpoint")!);
        }
    }

    [Theory]
    [InlineData(HoldMode.Map)]
    [InlineData(HoldMode.Memfd)]
    [InlineData(HoldMode.Anonymous)]
    public async Task Join_ElsewhereThanIntoMemory_CopiesLocally(HoldMode hold)
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync(options => options.Hold = hold);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        CheckpointMetas metas = holder.GetMetas("model").Metas;
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        using var parent = new TempDirectory();

        string place = Path.Combine(parent.Path, "copy");
        JoinReport report = await joiner.JoinAsync(metas, new JoinOptions { Destination = JoinDestinationKind.Directory, DirectoryPath = place, RequireVerify = true }, null, Cancel);
        Assert.Equal(["local"], report.Transports.Keys);
        using (HeldCheckpoint loaded = CheckpointLoader.Load("copy", place, HoldMode.Map, PinMode.None, cancellationToken: Cancel))
        {
            SmallCheckpoint.AssertEqual(files.Tensors, loaded);
        }

        report = await joiner.JoinAsync(metas, new JoinOptions { Destination = JoinDestinationKind.Null, RequireVerify = true }, null, Cancel);
        Assert.Equal(["local"], report.Transports.Keys);

        var seen = new Dictionary<string, byte[]>();
        report = await joiner.JoinAsync(metas, new JoinOptions
        {
            Destination = JoinDestinationKind.Buckets,
            BucketBytes = 1 << 20,
            RequireVerify = true,
            OnBucket = bucket =>
            {
                for (int i = 0; i < bucket.TensorCount; i++)
                {
                    seen.Add(bucket.Tensors.GetName(bucket.GetTensor(i)), bucket.GetBytes(i).ToArray());
                }
            },
        }, null, Cancel);
        Assert.Equal(["local"], report.Transports.Keys);
        Assert.Equal(files.Tensors.Count, seen.Count);
        Assert.All(files.Tensors, tensor => Assert.True(tensor.Value.AsSpan().SequenceEqual(seen[tensor.Key]), tensor.Key));
    }

    [Theory]
    [InlineData(HoldMode.Map)]
    [InlineData(HoldMode.Memfd)]
    public async Task Attached_WhenTheOwnerLetsGoAndEnds_StaysAsItWas(HoldMode hold)
    {
        using var files = SmallCheckpoint.OfManySizes();
        ParameterServer holder = await StartAsync(options => options.Hold = hold);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        await using (holder)
        {
            await holder.RegisterAsync("model", [files.Path], Cancel);
            await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Local }, null, Cancel);
            await holder.UnregisterAsync("model", Cancel);
            SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("join-checkpoint")!);
        }
        foreach (string file in Directory.GetFiles(files.Path, "*.safetensors"))
        {
            File.Delete(file);
        }
        SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("join-checkpoint")!);
    }

    [Fact]
    public async Task FilesThatOthersMayWrite_AreCopiedUnlessTheRiskIsTaken()
    {
        using var files = SmallCheckpoint.OfManySizes();
        MakeWritableByOthers(files);
        await using ParameterServer holder = await StartAsync();
        await holder.RegisterAsync("model", [files.Path], Cancel);
        await using var joiner = new ParameterServer(new ParameterServerOptions());

        JoinReport report = await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { CheckpointName = "copied", Transport = TransportChoice.Local, RequireVerify = true }, null, Cancel);
        Assert.Equal(0, report.AttachedBytes);
        Assert.Contains("others", Assert.Single(report.Planes).Reason, StringComparison.Ordinal);
        SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("copied")!);

        report = await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { CheckpointName = "attached", Transport = TransportChoice.Local, AttachFiles = true }, null, Cancel);
        Assert.Equal(report.Bytes, report.AttachedBytes);
        SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("attached")!);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task AFileThatIsTruncated_IsATypedErrorAndLeavesNothing(bool beforeItIsHandedOver)
    {
        using var files = new SmallCheckpoint([("a", TensorDtype.U8, [24 << 20])]);
        MakeWritableByOthers(files);
        string file = Assert.Single(Directory.GetFiles(files.Path, "*.safetensors"));
        await using ParameterServer holder = await StartAsync(options => options.Digest = DigestAlgorithm.None);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        long owned = MemoryRegionHandle.LiveBytes;

        void Truncate()
        {
            using var stream = new FileStream(file, FileMode.Open, FileAccess.Write, FileShare.ReadWrite);
            stream.SetLength(5 << 20);
        }

        if (beforeItIsHandedOver)
        {
            Truncate();
        }
        // In between: the first report of the transfer comes when everything is handed over, and before a byte is read.
        var progress = new CallOnce<JoinProgress>(report => report.Phase == "transfer", beforeItIsHandedOver ? static () => { } : Truncate);
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(
            () => joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Local, Verify = false }, progress, Cancel));
        Assert.True(failure.Error is CheckpointError.Io or CheckpointError.Unreachable, failure.ToString());
        Assert.Contains(beforeItIsHandedOver ? "bytes" : "truncated", failure.Message, StringComparison.Ordinal);
        Assert.Empty(joiner.CheckpointNames);
        Assert.Equal(owned, MemoryRegionHandle.LiveBytes);
    }

    [Fact]
    public async Task ATokenThatIsDemanded_IsDemandedHereToo()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync(options => options.Token = AccessToken.FromText("correct horse"));
        await holder.RegisterAsync("model", [files.Path], Cancel);
        await using var right = new ParameterServer(new ParameterServerOptions { Token = AccessToken.FromText("correct horse") });
        JoinReport report = await right.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Local }, null, Cancel);
        Assert.Equal(report.Bytes, report.AttachedBytes);
        await using var wrong = new ParameterServer(new ParameterServerOptions { Token = AccessToken.FromText("battery staple") });
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(
            () => wrong.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Local }, null, Cancel));
        Assert.Equal(CheckpointError.Refused, failure.Error);
    }

    [Fact]
    public async Task AHolderOfTcpAlone_IsReadOverTcpAndTheReasonIsTold()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync(options => options.Transport = TransportChoice.Tcp);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        CheckpointMetas metas = holder.GetMetas("model").Metas;
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(metas, new JoinOptions { RequireVerify = true }, null, Cancel);
        Assert.Equal(["tcp"], report.Transports.Keys);
        Assert.Contains("--transport tcp", Assert.Single(report.Planes).Reason, StringComparison.Ordinal);
        SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("join-checkpoint")!);

        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(
            () => joiner.JoinAsync(metas, new JoinOptions { CheckpointName = "second", Transport = TransportChoice.Local }, null, Cancel));
        Assert.Equal(CheckpointError.NotSupported, failure.Error);
    }

    [Fact]
    public async Task ASocketThatADeadHolderLeft_IsTakenAndOneThatIsGone_FallsBack()
    {
        using var files = SmallCheckpoint.OfManySizes();
        using var place = new TempDirectory();
        string path = Path.Combine(place.Path, "engine.sock");
        using (var dead = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            dead.Bind(new UnixDomainSocketEndPoint(path));
            string aside = path + ".aside";
            File.Move(path, aside);      // closing removes the file at the name that it was bound to
            dead.Close();
            File.Move(aside, path);
        }
        Assert.True(File.Exists(path));
        await using ParameterServer holder = await StartAsync(options => options.LocalSocket = path);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { CheckpointName = "first" }, null, Cancel);
        Assert.Equal(report.Bytes, report.AttachedBytes);

        File.Delete(path);
        report = await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { CheckpointName = "second" }, null, Cancel);
        Assert.Equal(["tcp"], report.Transports.Keys);
        Assert.Contains(path, Assert.Single(report.Planes).Reason, StringComparison.Ordinal);
        SmallCheckpoint.AssertEqual(files.Tensors, joiner.FindCheckpoint("second")!);
    }

    [Fact]
    public async Task AnotherProcessAtTheOwnersSocket_IsNotTaken()
    {
        using var files = SmallCheckpoint.OfManySizes();
        using var place = new TempDirectory();
        string path = Path.Combine(place.Path, "engine.sock");
        await using ParameterServer holder = await StartAsync(options => options.LocalSocket = path);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        await using ParameterServer squatter = await StartAsync(options => options.LocalSocket = path + ".2");
        File.Move(path + ".2", path, overwrite: true);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { RequireVerify = true }, null, Cancel);
        Assert.Equal(["tcp"], report.Transports.Keys);
        Assert.Contains("another process than the owner", Assert.Single(report.Planes).Reason, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task AnUpdate_WaitsForWhoReadsOutOfTheProcessAndThenCutsIt(bool cut)
    {
        using var tensors = new CallerTensors();
        using var memory = MemoryBuffer.AllocateAnonymous(16 << 20);
        tensors.Add("a", TensorDtype.U8, [8 << 20], memory.Address);
        tensors.Add("b", TensorDtype.U8, [8 << 20], memory.Address + (8 << 20));
        await using ParameterServer holder = await StartAsync(options => options.DrainTimeout = cut ? TimeSpan.FromMilliseconds(100) : TimeSpan.FromMinutes(5));
        holder.RegisterTensors("live", tensors);
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        Task? begin = null;
        var completed = new List<bool>();
        Task<JoinReport> join = joiner.JoinAsync(holder.GetMetas("live").Metas, new JoinOptions
        {
            Transport = TransportChoice.Local,
            Destination = JoinDestinationKind.Buckets,
            BucketBytes = 1,
            Verify = false,
            OnBucket = _ =>
            {
                begin ??= holder.BeginUpdateAsync("live");
                if (cut)
                {
                    begin.Wait(TimeSpan.FromSeconds(60), Cancel);      // the reader is cut: it does not wait for it for ever
                }
                completed.Add(begin.IsCompleted);
            },
        }, null, Cancel);
        if (cut)
        {
            var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => join);
            Assert.True(failure.Error is CheckpointError.Superseded or CheckpointError.Refused or CheckpointError.Unreachable, failure.ToString());
        }
        else
        {
            await join;
        }
        Assert.All(completed, done => Assert.Equal(cut, done));
        await begin!.WaitAsync(TimeSpan.FromSeconds(60), Cancel);
        await holder.UnregisterAsync("live", Cancel);
    }

    [Fact]
    public async Task AMemfdOfAJoiner_CanBeAttachedToByOthers()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync(options => options.Hold = HoldMode.Anonymous);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        await using ParameterServer joiner = await StartAsync(options => options.Hold = HoldMode.Memfd);
        await joiner.JoinAsync(holder.GetMetas("model").Metas, new JoinOptions { Transport = TransportChoice.Local }, null, Cancel);
        await using var third = new ParameterServer(new ParameterServerOptions());
        JoinReport report = await third.JoinAsync(joiner.GetMetas("join-checkpoint").Metas, new JoinOptions { Transport = TransportChoice.Local }, null, Cancel);
        Assert.Equal(report.Bytes, report.AttachedBytes);
        SmallCheckpoint.AssertEqual(files.Tensors, third.FindCheckpoint("join-checkpoint")!);
    }

    [Fact]
    public async Task Probe_TellsThePlaneAndMovesNothing()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await StartAsync();
        await holder.RegisterAsync("model", [files.Path], Cancel);
        CheckpointMetas metas = holder.GetMetas("model").Metas;
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        OwnerPlane plane = Assert.Single(await joiner.ProbeAsync(metas, new JoinOptions(), Cancel));
        Assert.True(plane is { Transport: "local", Attached: true, Reason: null });
        plane = Assert.Single(await joiner.ProbeAsync(metas, new JoinOptions { Transport = TransportChoice.Tcp }, Cancel));
        Assert.True(plane is { Transport: "tcp", Attached: false, Reason: not null });
        await holder.UnregisterAsync("model", Cancel);
        plane = Assert.Single(await joiner.ProbeAsync(metas, new JoinOptions(), Cancel));
        Assert.True(plane is { Transport: "none", Reason: not null });
        Assert.Empty(joiner.CheckpointNames);
    }

    private sealed class CallOnce<T>(Predicate<T> when, Action call) : IProgress<T>
    {
        private bool _called;

        public void Report(T value)
        {
            if (!_called && when(value))
            {
                _called = true;
                call();
            }
        }
    }
}
