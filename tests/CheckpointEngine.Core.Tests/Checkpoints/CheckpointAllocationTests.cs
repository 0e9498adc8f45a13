using CheckpointEngine.Checkpoints;
using CheckpointEngine.Internal;

namespace CheckpointEngine.Tests;

/// <summary>What is asked again and again while a checkpoint is held costs no managed memory.</summary>
public class CheckpointAllocationTests
{
    [Fact]
    public void LookUpsReadsAndMatches_Warm_AllocateNothing()
    {
        using var directory = new TempDirectory();
        string path = directory.Write("f.safetensors", Sample.File(new("layer.0.weight", TensorDtype.F32, [10]), new("layer.1.weight", TensorDtype.F32, [10])));
        using HeldCheckpoint held = CheckpointLoader.Load("c", path, HoldMode.Map, PinMode.None, null, TestContext.Current.CancellationToken);
        using SafetensorsFile file = SafetensorsFile.Open(path);
        var glob = new Glob("*.[1-3].w?ight");
        byte[] destination = new byte[40];
        Measure();
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 100; i++)
        {
            Measure();
        }
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);

        void Measure()
        {
            int tensor = held.Tensors.IndexOf("layer.1.weight"u8);
            held.GetTensorBytes(tensor).CopyTo(destination);
            held.GetTensorBytes("layer.0.weight").CopyTo(destination);
            RegularFile.ReadExactly(file.Handle, destination, file.DataStart, path);
            held.CheckBackingSizes();
            if (!glob.IsMatch("layer.1.weight"u8))
            {
                throw new InvalidOperationException();
            }
        }
    }
}
