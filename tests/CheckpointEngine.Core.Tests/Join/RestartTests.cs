using System.Net;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Tests;

/// <summary>An owner that is started anew where another was: what a joiner knew of the first must not hold for the second.</summary>
public sealed class RestartTests
{
    private const int Bytes = 5_000_001;

    [Fact]
    public async Task Join_OwnerRestartedAtTheSamePort_ReadsFromTheNewOne()
    {
        CancellationToken cancellationToken = TestContext.Current.CancellationToken;
        await using var joiner = new ParameterServer(new ParameterServerOptions());
        int port = 0;
        for (int life = 1; life <= 2; life++)
        {
            using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(Bytes);
            new Random(life).NextBytes(memory.GetSpan(0, Bytes));
            using var tensors = new CallerTensors();
            tensors.Add("t", TensorDtype.U8, [Bytes], memory.Address);
            await using var owner = new ParameterServer(new ParameterServerOptions { Port = port });
            await owner.StartAsync(cancellationToken);
            port = IPEndPoint.Parse(owner.P2pStoreAddress).Port;
            owner.RegisterTensors("m", tensors);
            CheckpointMetas metas = owner.GetMetas("m").Metas;

            await joiner.JoinAsync(metas, new JoinOptions { CheckpointName = $"life-{life}", Transport = TransportChoice.Tcp }, null, cancellationToken);

            Assert.True(memory.GetSpan(0, Bytes).SequenceEqual(joiner.FindCheckpoint($"life-{life}")!.GetTensorBytes("t")));
        }
    }
}
