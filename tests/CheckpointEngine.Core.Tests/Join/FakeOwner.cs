using System.Net;
using System.Net.Sockets;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Handshake;
using CheckpointEngine.Transfer.Tcp;
using Microsoft.Extensions.Logging.Abstractions;

namespace CheckpointEngine.Tests;

/// <summary>An owner of U8 tensors whose every part a test decides: a plain Mooncake one, or with a conversation; its data port real or scripted.</summary>
internal sealed class FakeOwner : IAsyncDisposable
{
    private readonly HandshakeListener _handshakes;
    private readonly PeerListener? _peers;
    private readonly TcpDataListener? _data;

    /// <param name="lengths">Lengths of the tensors t0, t1 and so on, slots padded to 256 bytes.</param>
    /// <param name="version">Of the TCP framing that it announces.</param>
    /// <param name="dataPort">A scripted data port; null for a real one.</param>
    /// <param name="responder">What its conversation answers from; null for a plain owner.</param>
    /// <param name="digest">Gives the root in the metas from the right one; null for none.</param>
    internal FakeOwner(int[] lengths, int version = 2, IPEndPoint? dataPort = null, IPeerResponder? responder = null, Func<byte[], byte[]>? digest = null)
    {
        long size = lengths.Sum(length => (length + 255L) / 256 * 256);
        Memory = MemoryBuffer.AllocateAnonymous(size);
        new Random(11).NextBytes(Memory.GetSpan(0, (int)size));
        Range = Registry.Register(Memory, (ulong)Memory.Address, (ulong)size);
        if (dataPort is null)
        {
            _data = new TcpDataListener(new IPEndPoint(IPAddress.Loopback, 0), Registry, new TcpDataListenerOptions(), NullLogger.Instance);
        }
        _peers = responder is null ? null : new PeerListener(new IPEndPoint(IPAddress.Loopback, 0), responder, null, NullLogger.Instance);
        _handshakes = HandshakeListener.Start([new IPEndPoint(IPAddress.Loopback, 0)], new RecordingResponder(new SegmentDescriptor
        {
            Name = "127.0.0.1:1",
            Protocol = SegmentDescriptor.TcpProtocol,
            TcpDataPort = (dataPort ?? _data!.LocalEndPoint).Port,
            TcpProtoVersion = version,
            Buffers = [new SegmentBuffer((ulong)Memory.Address, (ulong)size, "127.0.0.1:1")],
            Engine = _peers is null ? null : new EngineAnnouncement { Peer = _peers.LocalEndPoint.ToString() },
        }));
        using var builder = new CheckpointMetasBuilder();
        long offset = 0;
        for (int tensor = 0; tensor < lengths.Length; tensor++)
        {
            long slot = (lengths[tensor] + 255L) / 256 * 256;
            builder.AddTensor(System.Text.Encoding.UTF8.GetBytes($"t{tensor}"), TensorDtype.U8, [lengths[tensor]], slot);
            byte[] content = Memory.GetReadOnlySpan(offset, lengths[tensor]).ToArray();
            Tensors.Add($"t{tensor}", content);
            if (digest is not null)
            {
                builder.SetDigest(DigestAlgorithm.Xxh3, digest(RootOf(content)));
            }
            offset += slot;
        }
        builder.EndBuffer((ulong)Memory.Address, size);
        builder.EndOwner(7, EndpointName.FromEndPoint(_handshakes.EndPoints[0]).ToString(), "");
        Metas = builder.Build();
    }

    internal MemoryRegistry Registry { get; } = new();

    internal RegisteredRange Range { get; }

    internal MemoryBuffer Memory { get; }

    internal Dictionary<string, byte[]> Tensors { get; } = [];

    internal CheckpointMetas Metas { get; }

    internal static byte[] ChunksOf(byte[] content)
    {
        var chunks = new List<byte>();
        byte[] digest = new byte[16];
        for (int at = 0; at < content.Length; at += TensorDigest.ChunkBytes)
        {
            TensorDigest.Hash(DigestAlgorithm.Xxh3, content.AsSpan(at, Math.Min(TensorDigest.ChunkBytes, content.Length - at)), digest);
            chunks.AddRange(digest);
        }
        return [.. chunks];
    }

    internal static byte[] RootOf(byte[] content)
    {
        byte[] root = new byte[16];
        TensorDigest.Hash(DigestAlgorithm.Xxh3, ChunksOf(content), root);
        return root;
    }

    /// <summary>Plays the data port for one connection: <paramref name="beforeAnswer"/> sees the number of each request and may wait or throw.</summary>
    internal static async Task ServeAsync(NetworkStream stream, Func<FakeOwner> owner, Func<int, Task> beforeAnswer, CancellationToken cancellationToken)
    {
        for (int request = 0; ; request++)
        {
            DataHeader header = await ScriptedPort.ReadHeaderAsync(stream, cancellationToken);
            await beforeAnswer(request);
            if (header.IsAcknowledged)
            {
                await stream.WriteAsync(DataPort.Status(DataHeader.StatusOk, header.AnswerStatusSize), cancellationToken);
            }
            await stream.WriteAsync(owner().Memory.AsMemory((long)(header.Address - (ulong)owner().Memory.Address), (int)header.LengthBytes), cancellationToken);
        }
    }

    public async ValueTask DisposeAsync()
    {
        await _handshakes.DisposeAsync();
        if (_peers is not null)
        {
            await _peers.DisposeAsync();
        }
        if (_data is not null)
        {
            await _data.DisposeAsync();
        }
        Memory.Dispose();
    }
}
