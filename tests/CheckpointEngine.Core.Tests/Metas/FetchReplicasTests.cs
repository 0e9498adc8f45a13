using CheckpointEngine.Metas;

namespace CheckpointEngine.Tests;

/// <summary>Metas of several URLs at once, of which some cannot be had.</summary>
public sealed class FetchReplicasTests
{
    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Fact]
    public async Task FetchReplicas_OneIsGone_HasTheOthersAndTellsWhich()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer one = await HolderAsync(files.Path);
        await using ParameterServer two = await HolderAsync(files.Path);
        string gone = await GoneAsync();
        using var client = new MetasClient();
        var leftOut = new List<CheckpointEngineException>();

        CheckpointMetas metas = await client.FetchReplicasAsync([gone, one.PeerUrl + "/model", two.PeerUrl + "/model"], leftOut.Add, Cancel);

        Assert.Equal(2, metas.Owners.Length);
        Assert.Equal((0, one.P2pStoreAddress), (metas.Owners[0].Rank, metas.Owners[0].P2pStoreAddress));
        Assert.Equal((1, two.P2pStoreAddress), (metas.Owners[1].Rank, metas.Owners[1].P2pStoreAddress));
        Assert.Equal(CheckpointError.Unreachable, Assert.Single(leftOut).Error);
    }

    [Fact]
    public async Task FetchReplicas_AllAreGone_FailsAsTheFirst()
    {
        string gone = await GoneAsync();
        using var client = new MetasClient();
        Assert.Equal(CheckpointError.Unreachable, (await Assert.ThrowsAsync<CheckpointEngineException>(() => client.FetchReplicasAsync([gone, "file:///no/such"], null, Cancel))).Error);
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(() => client.FetchReplicasAsync([], null, Cancel));
    }

    [Fact]
    public async Task FetchReplicas_Cancelled_EndsThoughOneHasCome()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer one = await HolderAsync(files.Path);
        using var client = new MetasClient();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => client.FetchReplicasAsync([one.PeerUrl + "/model"], null, new CancellationToken(canceled: true)));
    }

    private static async Task<ParameterServer> HolderAsync(string path)
    {
        var holder = new ParameterServer(new ParameterServerOptions());
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [path], Cancel);
        return holder;
    }

    private static async Task<string> GoneAsync()
    {
        await using var holder = new ParameterServer(new ParameterServerOptions());
        await holder.StartAsync(Cancel);
        return holder.PeerUrl + "/model";
    }
}
