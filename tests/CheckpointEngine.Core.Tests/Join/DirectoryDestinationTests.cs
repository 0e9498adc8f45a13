using CheckpointEngine.Checkpoints;
using CheckpointEngine.Join;
using CheckpointEngine.Metas;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Tests;

public sealed class DirectoryDestinationTests
{
    [Fact]
    public void Write_UnitOfATensorAbove2GiBWithAnotherBehind_IsWritten()
    {
        using var builder = new CheckpointMetasBuilder();
        const long Large = 3L << 30;
        builder.AddTensor("large"u8, TensorDtype.U8, [Large], Large);
        builder.AddTensor("behind"u8, TensorDtype.U8, [16], 16);
        builder.EndBuffer(1 << 20, Large + 16);
        builder.EndOwner(0, "127.0.0.1:1", "");
        TransferPlan plan = TransferPlanner.Plan(builder.Build(), TensorFilter.All);
        string parent = Directory.CreateTempSubdirectory("ce-large-").FullName;
        Assert.SkipUnless(new DriveInfo(parent).AvailableFreeSpace > 2 * Large, $"{parent} has not the {Large:N0} bytes that the shard sets aside");
        try
        {
            using var destination = new DirectoryDestination(plan, Path.Combine(parent, "copy"), keepPartial: true);
            var cursor = new ReadUnitCursor(plan, 0);
            Assert.True(cursor.TryTake(out ReadUnit unit));
            byte[] bytes = new byte[unit.LengthBytes];
            bytes.AsSpan().Fill(7);
            destination.Write(unit, bytes);

            using FileStream shard = File.OpenRead(Path.Combine(parent, ".copy.ce-partial", "model.safetensors"));
            byte[] prefix = new byte[sizeof(ulong)];
            shard.ReadExactly(prefix);
            shard.Position = sizeof(ulong) + BitConverter.ToInt64(prefix);       // where the data begins
            byte[] written = new byte[bytes.Length];
            shard.ReadExactly(written);
            Assert.Equal(bytes, written);
        }
        finally
        {
            Directory.Delete(parent, recursive: true);
        }
    }
}
