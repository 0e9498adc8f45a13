using System.Buffers.Binary;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;
using CheckpointEngine.Access;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Interop;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Local;
using CsCheck;
using Microsoft.Extensions.Logging.Abstractions;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Tests;

/// <summary>The conversation over Unix sockets, in which memory is handed over, with ends that break its rules.</summary>
[Collection(CountsMemory.Name)]
public sealed class LocalPeerTests
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    private static int CountDescriptors() => Directory.GetFiles("/proc/self/fd").Length;

    /// <summary>A memfd of 64 KiB, sealed as an owner's or not at all.</summary>
    private static MemoryBuffer Memory(bool frozen = true)
    {
        MemoryBuffer memory = MemoryBuffer.AllocateMemfd(64 << 10, "test");
        memory.GetSpan(0, 64 << 10).Fill(7);
        if (frozen)
        {
            memory.Freeze();
        }
        return memory;
    }

    private static RegisteredRange ReadRange(MemoryBuffer memory)
    {
        var range = new RegisteredRange(memory, (ulong)memory.Address, (ulong)memory.LengthBytes, null);
        Assert.True(range.TryBeginRead());
        return range;
    }

    private static byte[] Answer(MemoryAnswer answer)
    {
        byte[] payload = new byte[MemoryAnswer.Size];
        answer.Encode(payload);
        return PeerSessionTests.Frame(PeerMessage.Memory, payload);
    }

    [Fact]
    public async Task Memory_AskedFor_ComesWithItsDescriptor()
    {
        using MemoryBuffer memory = Memory();
        var answer = new MemoryAnswer(MemoryAccess.Attach, (ulong)memory.Address, (ulong)memory.LengthBytes, 0);
        string name = LocalSocketName.MakeUnique();
        await using var listener = new PeerListener(name, new PeerSessionTests.Responder { Memory = () => new HeldMemory(answer, memory.FileDescriptor, ReadRange(memory)) },
            null, NullLogger.Instance, new PeerListenerOptions());
        using PeerClient client = await PeerClient.ConnectLocallyAsync(name, null, s_patience, Cancel);
        Assert.Equal(new PeerCredentials(Environment.ProcessId, Libc.geteuid()), client.Credentials);
        for (int round = 0; round < 3; round++)
        {
            (MemoryAnswer got, SafeFileHandle? file) = await client.GetMemoryAsync((ulong)memory.Address + 5, 100, Cancel);
            using (file)
            {
                Assert.Equal(answer, got);
                byte[] bytes = new byte[4];
                Assert.Equal(4, RandomAccess.Read(file!, bytes, 5));
                Assert.Equal([7, 7, 7, 7], bytes);
                Assert.Throws<UnauthorizedAccessException>(() => RandomAccess.Write(file!, bytes, 0));
            }
            Assert.Equal(1, (await client.LeaseAsync(1, Cancel)).Generation);       // the conversation goes on as before
        }
    }

    [Fact]
    public async Task Memory_OverTcp_IsNotHandedOver()
    {
        await using PeerListener listener = PeerSessionTests.Listen();
        using PeerClient client = await PeerClient.ConnectAsync(Transfer.Handshake.EndpointName.FromEndPoint(listener.LocalEndPoint), null, s_patience, Cancel);
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => client.GetMemoryAsync(4096, 100, Cancel));
        Assert.Equal(CheckpointError.NotSupported, failure.Error);
    }

    public static TheoryData<string> BrokenAnswers => ["no descriptor", "a descriptor too many", "two descriptors", "another range", "an unknown kind", "half an answer", "a huge frame", "an error", "garbage"];

    [Theory]
    [MemberData(nameof(BrokenAnswers))]
    public async Task Memory_OfAServerThatBreaksTheRules_IsATypedErrorAndLeaksNothing(string what)
    {
        await AskAsync("an error");         // what the runtime opens at first use is open now
        int before = CountDescriptors();
        await AskAsync(what);
        Assert.Equal(before, CountDescriptors());
    }

    private static async Task AskAsync(string what)
    {
        using MemoryBuffer memory = Memory();
        var attach = new MemoryAnswer(MemoryAccess.Attach, 4096, 64 << 10, 0);
        string name = LocalSocketName.MakeUnique();
        using Socket listener = UnixSocketListener.Bind(LocalSocketName.ToEndPoint(name));
        listener.Listen(1);
        Task server = Task.Run(async () =>
        {
            using Socket socket = await listener.AcceptAsync(Cancel);
            byte[] request = new byte[4096];
            await socket.ReceiveAsync(request, Cancel);
            await socket.SendAsync(PeerSessionTests.Frame(PeerMessage.Hello, Encoding.UTF8.GetBytes($$"""{"protocol":2,"nonce":"{{new string('0', 64)}}"}""")), Cancel);
            await socket.ReceiveAsync(request, Cancel);
            switch (what)
            {
                case "no descriptor":
                    await socket.SendAsync(Answer(attach), Cancel);
                    break;
                case "a descriptor too many":
                    DescriptorPassing.Send(socket, Answer(attach with { Access = MemoryAccess.Process }), memory.FileDescriptor!);
                    break;
                case "two descriptors":
                    SendTwo(socket, Answer(attach), (int)memory.FileDescriptor!.DangerousGetHandle());
                    break;
                case "another range":
                    DescriptorPassing.Send(socket, Answer(attach with { Address = 1 << 20 }), memory.FileDescriptor!);
                    break;
                case "an unknown kind":
                    DescriptorPassing.Send(socket, Answer(attach with { Access = (MemoryAccess)9 }), memory.FileDescriptor!);
                    break;
                case "half an answer":
                    DescriptorPassing.Send(socket, Answer(attach).AsSpan(0, 20), memory.FileDescriptor!);
                    break;
                case "a huge frame":
                    byte[] header = new byte[8];
                    BinaryPrimitives.WriteInt32LittleEndian(header, int.MaxValue);
                    DescriptorPassing.Send(socket, header, memory.FileDescriptor!);
                    break;
                case "an error":
                    await socket.SendAsync(PeerSessionTests.Frame(PeerMessage.Error, [(byte)CheckpointError.Refused, 0, (byte)'n', (byte)'o']), Cancel);
                    break;
                default:
                    await socket.SendAsync(Enumerable.Range(0, 64).Select(i => (byte)(i * 37)).ToArray(), Cancel);
                    break;
            }
            socket.Shutdown(SocketShutdown.Send);
            try
            {
                while (await socket.ReceiveAsync(request, Cancel) != 0)
                {
                }
            }
            catch (SocketException)
            {
                // It has left without reading all.
            }
        }, Cancel);
        using (PeerClient client = await PeerClient.ConnectLocallyAsync(name, null, s_patience, Cancel))
        {
            var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => client.GetMemoryAsync(4096, 64 << 10, Cancel));
            CheckpointError expected = what switch { "an error" => CheckpointError.Refused, "half an answer" => CheckpointError.Unreachable, _ => CheckpointError.ProtocolViolation };
            Assert.Equal(expected, failure.Error);
        }
        await server;
    }

    [Fact]
    public async Task ConnectLocally_ToNobody_SaysWhatToTry()
    {
        var failure = await Assert.ThrowsAsync<CheckpointEngineException>(() => PeerClient.ConnectLocallyAsync("@checkpoint-engine.nobody", null, s_patience, Cancel));
        Assert.Equal(CheckpointError.Unreachable, failure.Error);
        Assert.Contains("network namespace", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public unsafe void Freeze_NobodyWritesAnyMore()
    {
        using MemoryBuffer memory = Memory(frozen: false);
        Assert.False(memory.IsReadOnly);
        nint address = memory.Address;
        memory.Freeze();
        memory.Freeze();
        Assert.True(memory.IsReadOnly);
        Assert.Equal(address, memory.Address);
        Assert.Equal(-1, memory.GetReadOnlySpan(0, 64 << 10).IndexOfAnyExcept((byte)7));
        Assert.Throws<InvalidOperationException>(() => memory.GetSpan(0, 1));

        int fd = (int)memory.FileDescriptor!.DangerousGetHandle();
        const int Expected = Libc.F_SEAL_SHRINK | Libc.F_SEAL_GROW | Libc.F_SEAL_WRITE | Libc.F_SEAL_SEAL;
        Assert.Equal(Expected, Libc.fcntl(fd, Libc.F_GET_SEALS, 0) & Expected);
        Assert.True(MemoryBuffer.IsSealed(memory.FileDescriptor));
        Assert.True(Libc.mmap(null, 4096, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED, fd, 0) == Libc.MAP_FAILED);
        Assert.Throws<UnauthorizedAccessException>(() => RandomAccess.Write(memory.FileDescriptor, [1], 0));
        Assert.NotEqual(0, Libc.ftruncate(fd, 10));
        Assert.Throws<CheckpointEngineException>(() => Internal.RegularFile.Open($"/proc/self/fd/{fd}/nowhere", out _));
        using SafeFileHandle again = File.OpenHandle($"/proc/self/fd/{fd}", FileMode.Open, FileAccess.ReadWrite);      // the seal stands before every descriptor
        Assert.ThrowsAny<Exception>(() => RandomAccess.Write(again, [1], 0));
    }

    [Fact]
    public unsafe void Segment_OfWhatCouldChange_IsNeverMappedAndNotAttachedTo()
    {
        // An unsealed memfd: whoever has it may shorten it.
        byte name = 0;
        int fd = Libc.memfd_create(&name, Libc.MFD_CLOEXEC | Libc.MFD_ALLOW_SEALING);
        Assert.True(fd >= 0);
        Assert.Equal(0, Libc.ftruncate(fd, 8192));
        var owner = new PeerCredentials(Environment.ProcessId, Libc.geteuid());
        using (LocalSegment segment = LocalSegment.Open(new MemoryAnswer(MemoryAccess.Read, 4096, 8192, 0), new SafeFileHandle(fd, ownsHandle: true), owner, attachFiles: false))
        {
            Assert.False(segment.IsSealed);
            Assert.NotNull(segment.NoAttachReason);
            byte[] bytes = new byte[8192];
            fixed (byte* p = bytes)
            {
                Assert.Equal(0, segment.Read(4096, (nint)p, 8192));
                Assert.Equal(0, Libc.ftruncate(fd, 100));
                Assert.Equal(Libc.ENODATA, segment.Read(4096, (nint)p, 8192));
            }
        }

        using var place = new TempDirectory();
        string path = place.Write("short", new byte[100]);
        int before = CountDescriptors();
        var failure = Assert.Throws<CheckpointEngineException>(
            () => LocalSegment.Open(new MemoryAnswer(MemoryAccess.Attach, 4096, 101, 0), Internal.RegularFile.Open(path, out _), owner, attachFiles: true));
        Assert.Equal(CheckpointError.Io, failure.Error);
        failure = Assert.Throws<CheckpointEngineException>(
            () => LocalSegment.Open(new MemoryAnswer(MemoryAccess.Attach, 4096, 100, 0), File.OpenHandle("/dev/null"), owner, attachFiles: true));
        Assert.Contains("no regular file", failure.Message, StringComparison.Ordinal);
        Assert.Equal(before, CountDescriptors());
    }

    [Fact]
    public void Segment_OfAnotherUsersFile_IsNotAttachedTo()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess, "needs root to give a file to another user");
        using var place = new TempDirectory();
        string path = place.Write("theirs", new byte[100]);
        Assert.Equal(0, System.Diagnostics.Process.Start("chown", ["12345", path]) is { } chown && chown.WaitForExit(10_000) ? chown.ExitCode : -1);
        var owner = new PeerCredentials(1, 0);
        using LocalSegment segment = LocalSegment.Open(new MemoryAnswer(MemoryAccess.Attach, 4096, 100, 0), Internal.RegularFile.Open(path, out _), owner, attachFiles: false);
        Assert.Contains("user 12345", segment.NoAttachReason, StringComparison.Ordinal);
        using LocalSegment risked = LocalSegment.Open(new MemoryAnswer(MemoryAccess.Attach, 4096, 100, 0), Internal.RegularFile.Open(path, out _), owner, attachFiles: true);
        Assert.Null(risked.NoAttachReason);
    }

    [Theory]
    [InlineData(0, "namespace")]
    [InlineData(int.MaxValue - 1, "is gone")]
    public void Segment_OfAProcessThatCannotBeSeen_SaysWhy(int process, string reason)
    {
        var failure = Assert.Throws<CheckpointEngineException>(
            () => LocalSegment.Open(new MemoryAnswer(MemoryAccess.Process, 4096, 100, 0), null, new PeerCredentials(process, 0), attachFiles: false));
        Assert.Equal(CheckpointError.NotSupported, failure.Error);
        Assert.Contains(reason, failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void MemoryAnswer_AnyBytes_AreAnAnswerInBoundsOrNone()
        => Gen.Byte.Array[0, 40].Sample(bytes =>
        {
            if (MemoryAnswer.TryDecode(bytes, out MemoryAnswer answer))
            {
                Assert.True(answer.Address + answer.LengthBytes >= answer.Address && answer.LengthBytes != 0 && answer.FileOffset + answer.LengthBytes <= long.MaxValue);
                byte[] again = new byte[MemoryAnswer.Size];
                answer.Encode(again);
                Assert.True(MemoryAnswer.TryDecode(again, out MemoryAnswer second) && second == answer);
            }
        });

    [Theory]
    [InlineData("own", true, false)]
    [InlineData("all", true, true)]
    [InlineData("4711", true, false)]
    [InlineData("4711, 4712", true, true)]
    public void LocalPeers_AllowsTheOwnUserAndThoseNamed(string text, bool own, bool other)
    {
        LocalPeers peers = LocalPeers.Parse(text);
        Assert.Equal(own, peers.Allows(Libc.geteuid()));
        Assert.True(peers.Allows(0));
        Assert.Equal(other, peers.Allows(4712));
    }

    [Theory]
    [InlineData("me")]
    [InlineData("1000,x")]
    [InlineData("-1")]
    [InlineData("4294967296")]
    public void LocalPeers_NoNumber_IsRefused(string text) => Assert.Throws<FormatException>(() => LocalPeers.Parse(text));

    [Theory]
    [InlineData("/run/ce.sock", true)]
    [InlineData("@name", true)]
    [InlineData("", false)]
    [InlineData("@", false)]
    [InlineData("/", false)]
    [InlineData("ce.sock", false)]
    [InlineData("/run/\0x", false)]
    public void LocalSocketName_IsAPathOrAName(string name, bool valid) => Assert.Equal(valid, LocalSocketName.IsValid(name));

    [Fact]
    public void LocalSocketName_TooLong_IsNone()
    {
        Assert.True(LocalSocketName.IsValid("/" + new string('x', 106)));
        Assert.False(LocalSocketName.IsValid("/" + new string('x', 107)));
        Assert.False(LocalSocketName.IsValid("/" + new string('é', 54)));
    }

    [Fact]
    public unsafe void StreamingCopy_IsTheSourceWhateverTheAlignment()
        => Gen.Select(Gen.Int[0, 200_000], Gen.Int[0, 70], Gen.Int[0, 70]).Sample((length, from, to) =>
        {
            byte[] source = new byte[length + 70];
            byte[] target = new byte[length + 200];
            Random.Shared.NextBytes(source);
            fixed (byte* s = source, t = target)
            {
                StreamingCopy.Copy(s + from, t + to, length);
            }
            Assert.True(source.AsSpan(from, length).SequenceEqual(target.AsSpan(to, length)));
            Assert.Equal(-1, target.AsSpan(0, to).IndexOfAnyExcept((byte)0));
            Assert.Equal(-1, target.AsSpan(to + length).IndexOfAnyExcept((byte)0));
        }, iter: 200);

    private static unsafe void SendTwo(Socket socket, byte[] bytes, int descriptor)
    {
        byte* control = stackalloc byte[24];
        new Span<byte>(control, 24).Clear();
        var header = (Libc.CMsgHdr*)control;
        header->cmsg_len = (nuint)(sizeof(Libc.CMsgHdr) + 2 * sizeof(int));
        header->cmsg_level = Libc.SOL_SOCKET;
        header->cmsg_type = Libc.SCM_RIGHTS;
        ((int*)(header + 1))[0] = descriptor;
        ((int*)(header + 1))[1] = descriptor;
        fixed (byte* start = bytes)
        {
            var vector = new Libc.IoVec { iov_base = start, iov_len = (nuint)bytes.Length };
            var message = new Libc.MsgHdr { msg_iov = &vector, msg_iovlen = 1, msg_control = control, msg_controllen = 24 };
            Assert.Equal(bytes.Length, Libc.sendmsg((int)socket.Handle, &message, Libc.MSG_NOSIGNAL));
        }
    }
}
