using System.Runtime.InteropServices;
using CheckpointEngine.Interop;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Tcp;
using CsCheck;

namespace CheckpointEngine.Tests;

/// <summary>Whatever pieces the kernel takes, what goes out is each status and each payload in turn.</summary>
public sealed class AnswerBatchTests
{
    private static readonly byte[] s_opcodes = [DataHeader.Read, DataHeader.Read | DataHeader.Acknowledged, DataHeader.LineRead | DataHeader.Acknowledged];

    [Fact]
    public void NextAndAdvance_AnyPieces_GiveTheStream()
        => Gen.Select(Gen.Int[0, 3999].Array[1, AnswerBatch.MostAnswers], Gen.Int[1, 5000].Array[1, 20], Gen.Int[0, 2]).Sample((starts, pieces, opcode) =>
        {
            using var memory = new TestMemory(new MemoryRegistry(), 8192, TestMemory.OfTarget);
            var batch = new AnswerBatch();
            var expected = new List<byte>();
            foreach (int start in starts)
            {
                var header = new DataHeader((ulong)(start + 1), memory.Address + (ulong)start, s_opcodes[opcode]);
                Assert.True(memory.Range.TryBeginRead());
                batch.Add(memory.Range, header);
                expected.AddRange([.. DataPort.Status(DataHeader.StatusOk, 64)[..header.AnswerStatusSize], .. memory.Bytes(start, start + 1)]);
            }
            Assert.Equal(starts.Length, batch.Count);
            Assert.Equal((ulong)expected.Count, batch.BytesLeft);
            Assert.True(batch.Reads(memory.Range));
            var sent = new List<byte>();
            for (int i = 0; batch.BytesLeft != 0; i++)
            {
                byte[] piece = Take(batch, pieces[i % pieces.Length]);
                sent.AddRange(piece);
                batch.Advance(piece.Length);
            }
            batch.End(null);
            Assert.Equal(expected, sent);
            Assert.Equal(0, batch.Count);
            Assert.False(batch.Reads(memory.Range));
            memory.Range.Close();
            Assert.True(memory.Range.Drained.IsCompletedSuccessfully);      // as many ends as begins
        }, iter: 200);

    private static unsafe byte[] Take(AnswerBatch batch, int limitBytes)
    {
        Libc.IoVec* parts = stackalloc Libc.IoVec[AnswerBatch.MostParts];
        int count = batch.Next(parts, (ulong)limitBytes);
        var taken = new List<byte>();
        for (int i = 0; i < count; i++)
        {
            taken.AddRange(MemoryMarshal.CreateReadOnlySpan(ref *(byte*)parts[i].iov_base, (int)parts[i].iov_len));
        }
        Assert.InRange(taken.Count, 1, limitBytes);
        return [.. taken];
    }
}
