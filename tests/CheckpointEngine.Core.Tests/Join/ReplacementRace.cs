using System.Globalization;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;

namespace CheckpointEngine.Tests;

/// <summary>
/// Joins that race with the replacing of what they read: each has one version's bytes or says that it has not. CHECKPOINT_ENGINE_RACE_JOINS says how many there are of
/// each kind.
/// </summary>
internal static class ReplacementRace
{
    private const int Versions = 4;
    private const int Tensors = 24;
    private const int Each = 192 << 10;

    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    /// <summary>Runs until so many joins have succeeded, and fails if one of them has bytes of two versions.</summary>
    /// <param name="usual">How many, if the variable does not say.</param>
    /// <param name="holding">The holder's options.</param>
    /// <param name="joining">The joiners' options.</param>
    /// <param name="transport">What they read over.</param>
    /// <param name="verify">With digests, or by the leases alone.</param>
    internal static async Task RunAsync(int usual, ParameterServerOptions holding, Func<ParameterServerOptions> joining, TransportChoice transport, bool verify)
    {
        int joins = int.Parse(Environment.GetEnvironmentVariable("CHECKPOINT_ENGINE_RACE_JOINS") ?? usual.ToString(CultureInfo.InvariantCulture), CultureInfo.InvariantCulture);
        SmallCheckpoint[] versions = [.. Enumerable.Range(1, Versions).Select(MakeVersion)];
        await using var holder = new ParameterServer(holding);
        await holder.StartAsync(Cancel);
        await holder.RegisterAsync("live", [versions[0].Path], Cancel);
        int whole = 0;
        int refused = 0;
        using var done = new CancellationTokenSource();
        Task replacing = Task.Run(async () =>
        {
            for (int version = 1; !done.IsCancellationRequested; version = (version + 1) % Versions)
            {
                await holder.RegisterAsync("live", [versions[version].Path], null, new RegistrationOptions { Replace = true }, Cancel);
            }
        }, Cancel);
        await Task.WhenAll(Enumerable.Range(0, 2).Select(number => Task.Run(async () =>
        {
            await using var joiner = new ParameterServer(joining());
            while (Volatile.Read(ref whole) < joins)
            {
                try
                {
                    await joiner.JoinAsync(holder.GetMetas("live").Metas, new JoinOptions { CheckpointName = "copy", Transport = transport, Verify = verify, RequireVerify = verify, Copy = number == 0 }, null, Cancel);
                }
                catch (CheckpointEngineException failure) when (failure.Error is CheckpointError.Superseded or CheckpointError.Refused or CheckpointError.Unreachable)
                {
                    Interlocked.Increment(ref refused);
                    continue;
                }
                HeldCheckpoint copy = joiner.FindCheckpoint("copy")!;
                byte version = copy.GetTensorBytes("t00")[0];
                for (int tensor = 0; tensor < Tensors; tensor++)
                {
                    Assert.Equal(-1, copy.GetTensorBytes($"t{tensor:d2}").IndexOfAnyExcept(version));
                }
                Interlocked.Increment(ref whole);
                await joiner.UnregisterAsync("copy", Cancel);
            }
        }, Cancel)));
        await done.CancelAsync();
        await replacing;
        TestContext.Current.TestOutputHelper?.WriteLine($"{whole} joins whole, {refused} told that they were not");
        Assert.True(whole >= joins);
        Array.ForEach(versions, version => version.Dispose());
    }

    // Its tensors are filled with its number.
    private static SmallCheckpoint MakeVersion(int number)
        => new(Enumerable.Range(0, Tensors).ToDictionary(tensor => $"t{tensor:d2}", _ => Enumerable.Repeat((byte)number, Each).ToArray()));
}
