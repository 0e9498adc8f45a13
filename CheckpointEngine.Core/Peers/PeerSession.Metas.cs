using System.Buffers;
using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Peers;

// What is told of a checkpoint: metas, digests, the files beside it.
internal sealed partial class PeerSession
{
    private async ValueTask AnswerMetasAsync(byte[] payload, CancellationToken cancellationToken)
    {
        PublishedMetas metas = _responder.GetMetas(Encoding.UTF8.GetString(payload));
        var json = new ArrayBufferWriter<byte>(4096);
        MetasJsonWriter.Write(metas.Metas, json);
        await WriteAsync(PeerMessage.Metas, json.WrittenMemory, cancellationToken).ConfigureAwait(false);
    }

    // Request: milliseconds to wait (u32), length of the entity tag (u16), the tag, the name. Answer: length of the tag (u16), the tag, the metas as JSON;
    // no more than a length of 0 when nothing has changed.
    private async ValueTask AnswerFollowAsync(byte[] payload, CancellationToken cancellationToken)
    {
        int tagBytes = payload.Length < FollowHeadBytes ? 0 : BinaryPrimitives.ReadUInt16LittleEndian(payload.AsSpan(4));
        if (payload.Length < FollowHeadBytes + tagBytes)
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation, "a follow request of the wrong length");
        }
        string tag = Encoding.UTF8.GetString(payload.AsSpan(FollowHeadBytes, tagBytes));
        string name = Encoding.UTF8.GetString(payload.AsSpan(FollowHeadBytes + tagBytes));
        using var wait = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        wait.CancelAfter(TimeSpan.FromMilliseconds(Math.Min(BinaryPrimitives.ReadUInt32LittleEndian(payload), MaxFollowMs)));
        var answer = new ArrayBufferWriter<byte>(4096);
        try
        {
            PublishedMetas metas = await _responder.WaitForMetasAsync(name, tag, wait.Token).ConfigureAwait(false);
            byte[] newTag = Encoding.UTF8.GetBytes(metas.EntityTag);
            BinaryPrimitives.WriteUInt16LittleEndian(answer.GetSpan(2), (ushort)newTag.Length);
            answer.Advance(2);
            answer.Write(newTag);
            MetasJsonWriter.Write(metas.Metas, answer);
        }
        catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
        {
            answer.Clear();
            answer.Write<byte>([0, 0]);
        }
        await WriteAsync(PeerMessage.Follow, answer.WrittenMemory, cancellationToken).ConfigureAwait(false);
    }

    // Request: count (u32), then address and length (u64 each) of every tensor. Answer: the generation (u64; 0 when no tensor is held here), then for
    // every tensor its number of chunks (u32) and their digests; 0xffffffff for one that is not held here, has no digests, or is of another generation.
    private async ValueTask AnswerDigestsAsync(byte[] payload, CancellationToken cancellationToken)
    {
        if (payload.Length < 4 || BinaryPrimitives.ReadUInt32LittleEndian(payload) is var count && (count > MaxTensorsPerRequest || payload.Length != 4 + count * 16))
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation, "a digest request of the wrong length");
        }
        var answer = new ArrayBufferWriter<byte>(4096);
        answer.GetSpan(8);
        answer.Advance(8);
        long generation = 0;
        int chunks = 0;
        for (int i = 4; i < payload.Length; i += 16)
        {
            ulong address = BinaryPrimitives.ReadUInt64LittleEndian(payload.AsSpan(i));
            ulong length = BinaryPrimitives.ReadUInt64LittleEndian(payload.AsSpan(i + 8));
            HeldTensor? found = _responder.AcquireTensor(address, length);
            if (found is not HeldTensor held)
            {
                BinaryPrimitives.WriteUInt32LittleEndian(answer.GetSpan(4), uint.MaxValue);
                answer.Advance(4);
                continue;
            }
            using (held)
            {
                generation = generation == 0 ? held.Generation : generation;
                if (held.Digests is null || held.Generation != generation)
                {
                    BinaryPrimitives.WriteUInt32LittleEndian(answer.GetSpan(4), uint.MaxValue);
                    answer.Advance(4);
                    continue;
                }
                int tensorChunks = held.Digests.ChunkCountOf(held.Tensor);
                chunks += tensorChunks;
                if (chunks > MaxChunksPerRequest && chunks != tensorChunks)
                {
                    ThrowHelper.Throw(CheckpointError.ProtocolViolation, $"a digest request for more than {MaxChunksPerRequest:N0} chunks");
                }
                await held.Digests.EnsureAsync(held.Checkpoint, held.Tensor, cancellationToken).ConfigureAwait(false);
                int bytes = tensorChunks * held.Digests.Algorithm.DigestBytes();
                Span<byte> span = answer.GetSpan(4 + bytes);
                BinaryPrimitives.WriteInt32LittleEndian(span, tensorChunks);
                held.Digests.TryGetChunks(held.Tensor, span[4..]);
                answer.Advance(4 + bytes);
            }
        }
        BinaryPrimitives.WriteInt64LittleEndian(MemoryMarshal.AsMemory(answer.WrittenMemory).Span, generation);
        await WriteAsync(PeerMessage.Digests, answer.WrittenMemory, cancellationToken).ConfigureAwait(false);
    }

    // Request: an address (u64). Answer: count (u32), then for every file the length of its name (u16), the name, its length (u32), its bytes.
    private async ValueTask AnswerSideFilesAsync(byte[] payload, CancellationToken cancellationToken)
    {
        if (payload.Length != 8)
        {
            ThrowHelper.Throw(CheckpointError.ProtocolViolation, "a side file request of the wrong length");
        }
        IReadOnlyList<SideFile> files = _responder.FindSideFiles(BinaryPrimitives.ReadUInt64LittleEndian(payload)) ?? [];
        var answer = new ArrayBufferWriter<byte>(4096);
        BinaryPrimitives.WriteInt32LittleEndian(answer.GetSpan(4), files.Count);
        answer.Advance(4);
        foreach (SideFile file in files)
        {
            int nameBytes = Encoding.UTF8.GetByteCount(file.Name);
            Span<byte> head = answer.GetSpan(2 + nameBytes + 4);
            BinaryPrimitives.WriteUInt16LittleEndian(head, checked((ushort)nameBytes));
            Encoding.UTF8.GetBytes(file.Name, head[2..]);
            BinaryPrimitives.WriteInt32LittleEndian(head[(2 + nameBytes)..], file.Bytes.Length);
            answer.Advance(2 + nameBytes + 4);
            answer.Write(file.Bytes.Span);
        }
        await WriteAsync(PeerMessage.SideFiles, answer.WrittenMemory, cancellationToken).ConfigureAwait(false);
    }
}
