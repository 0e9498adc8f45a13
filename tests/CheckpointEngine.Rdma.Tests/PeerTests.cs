using System.Text.Json;
using CheckpointEngine.Rdma.Tests.Support;

namespace CheckpointEngine.Rdma.Tests;

/// <summary>The independent peer against itself: what the engine is held against has to be right.</summary>
public sealed class PeerTests
{
    private const string Size = "1300001";  // odd, and not a whole number of reads

    [Fact]
    public async Task Peer_Messages_AreThoseOfRealEngines()
    {
        Assert.SkipUnless(File.Exists(Peer.Python), $"there is no {Peer.Python}");

        Outcome outcome = await ChildProcess.RunAsync(Peer.Python, ["-B", Repository.Lab("test_peer.py")]);

        Assert.True(outcome.ExitCode == 0 && outcome.Errors.Contains("OK", StringComparison.Ordinal), outcome.ToString());
    }

    [LabTheory]
    [InlineData(new[] { 0 }, new[] { 1 }, "rxe1-rxe0")]
    [InlineData(new[] { 2 }, new[] { 2 }, "rxe2-rxe2")]
    [InlineData(new[] { 0, 1 }, new[] { 2, 3 }, "rxe2-rxe0 rxe3-rxe1")]
    [InlineData(new[] { 0 }, new[] { 1, 2 }, "rxe1-rxe0 rxe2-rxe0")]
    public async Task Read_BetweenDevices_HasThePattern(int[] holding, int[] reading, string endpoints)
    {
        await using Peer peer = await Peer.HoldAsync(holding, "--size", Size, "--seed", "5");

        JsonElement read = (await peer.ReadAllAsync(reading, "--seed", "5")).Succeeded().Json();

        Assert.Equal(1300001, read.GetProperty("bytes").GetInt64());
        Assert.Equal(endpoints, string.Join(' ', read.GetProperty("endpoints").EnumerateArray().Select(one => one.GetString())));
    }

    [LabFact]
    public async Task Read_OtherSeed_IsAnError()
    {
        await using Peer peer = await Peer.HoldAsync([0], "--size", Size, "--seed", "5");

        Outcome outcome = await peer.ReadAllAsync([1], "--seed", "6");

        Assert.Equal(1, outcome.ExitCode);
        Assert.Contains("wrong bytes", outcome.Json().GetProperty("error").GetString(), StringComparison.Ordinal);
    }

    // What each says the other must not need: releases before 0.3.11 have no GID in their messages, those before 0.3.12 no ready-ack.
    [LabTheory]
    [InlineData("", "--no-ready-ack")]
    [InlineData("--no-ready-ack", "")]
    [InlineData("", "--no-local-gid --no-ready-ack")]
    [InlineData("--no-local-gid --no-ready-ack", "")]
    public async Task Read_OfAndByOlderReleases_HasThePattern(string holder, string reader)
    {
        await using Peer peer = await Peer.HoldAsync([0], ["--size", Size, "--seed", "5", .. Words(holder)]);

        (await peer.ReadAllAsync([1], ["--seed", "5", .. Words(reader)])).Succeeded();
    }

    [LabFact]
    public async Task Read_WrongKey_IsRefusedByTheDevice()
    {
        await using Peer peer = await Peer.HoldAsync([0], "--size", Size, "--seed", "5");

        Outcome outcome = await peer.ReadAllAsync([1], "--wrong-rkey");

        Assert.Equal(1, outcome.ExitCode);
        Assert.Equal(10, outcome.Json().GetProperty("status").GetInt32());      // IBV_WC_REM_ACCESS_ERR
    }

    [LabTheory]
    [InlineData("", "refused: null")]
    [InlineData("not today", "refused: not today")]
    public async Task Connect_Refused_SaysWhy(string reason, string error)
    {
        await using Peer peer = await Peer.HoldAsync([0], "--size", "4096", "--refuse", reason);

        Outcome outcome = await Peer.ConnectAsync([1], peer.Segment, times: 1);

        Assert.Equal((1, error), (outcome.ExitCode, outcome.Json().GetProperty("error").GetString()));
    }

    [LabFact]
    public async Task Connect_Often_LeavesThePeerReadable()
    {
        await using Peer peer = await Peer.HoldAsync([0, 1], "--size", Size, "--seed", "5");

        (await Peer.ConnectAsync([2, 3], peer.Segment, times: 50)).Succeeded();

        (await peer.ReadAllAsync([2], "--seed", "5")).Succeeded();
        peer.Process.CloseInput();
        (await peer.Process.EndAsync()).Succeeded();
    }

    private static string[] Words(string text) => text.Split(' ', StringSplitOptions.RemoveEmptyEntries);
}
