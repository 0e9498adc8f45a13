using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Tests;

/// <summary>Waiting for the next version of metas over the peer service; over HTTP it is tested with the endpoints.</summary>
public sealed class FollowTests
{
    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Follow_ThePeerService_TellsEveryChangeOnce()
    {
        using MemoryBuffer memory = MemoryBuffer.AllocateAnonymous(4096);
        using var tensors = new CallerTensors();
        tensors.Add("a", TensorDtype.U8, [4096], memory.Address);
        await using var holder = new ParameterServer(new ParameterServerOptions());
        await holder.StartAsync(Cancel);
        holder.RegisterTensors("live", tensors);
        using var client = new MetasClient();
        string url = holder.PeerUrl + "/live";

        PublishedMetas first = (await client.FollowAsync(url, null, TimeSpan.FromMinutes(1), Cancel))!;
        Assert.Null(await client.FollowAsync(url, first.EntityTag, TimeSpan.Zero, Cancel));
        Task<PublishedMetas?> next = client.FollowAsync(url, first.EntityTag, TimeSpan.FromMinutes(1), Cancel);
        await holder.BeginUpdateAsync("live");
        Assert.False(next.IsCompleted);
        holder.CommitUpdate("live");
        PublishedMetas second = (await next)!;

        Assert.NotEqual(first.EntityTag, second.EntityTag);
        Assert.True(second.Metas.Owners[0].Generation > first.Metas.Owners[0].Generation);
    }

    [Fact]
    public async Task Follow_WhatIsTakenAwayMeanwhile_IsNotFound()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await HoldAsync(files);
        using var client = new MetasClient();
        PublishedMetas first = (await client.FollowAsync(holder.PeerUrl + "/model", null, TimeSpan.Zero, Cancel))!;

        Task<PublishedMetas?> next = client.FollowAsync(holder.PeerUrl + "/model", first.EntityTag, TimeSpan.FromMinutes(1), Cancel);
        await holder.UnregisterAsync("model", Cancel);

        Assert.Equal(CheckpointError.NotFound, (await Assert.ThrowsAsync<CheckpointEngineException>(() => next)).Error);
    }

    [Fact]
    public async Task Follow_AWaitThatIsCancelled_Ends()
    {
        using var files = SmallCheckpoint.OfManySizes();
        await using ParameterServer holder = await HoldAsync(files);
        using var client = new MetasClient();
        PublishedMetas first = (await client.FollowAsync(holder.PeerUrl + "/model", null, TimeSpan.Zero, Cancel))!;
        using var stop = new CancellationTokenSource();

        Task<PublishedMetas?> next = client.FollowAsync(holder.PeerUrl + "/model", first.EntityTag, TimeSpan.FromMinutes(1), stop.Token);
        await stop.CancelAsync();

        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => next);
    }

    private static async Task<ParameterServer> HoldAsync(SmallCheckpoint files)
    {
        var holder = new ParameterServer(new ParameterServerOptions());
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("model", [files.Path], Cancel);
        return holder;
    }
}
