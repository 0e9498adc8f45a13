using CheckpointEngine.Checkpoints;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>Takes from a seed what its owners' digests say is the same, and leaves the rest to be read from them.</summary>
internal static class SeedPass
{
    // Hashing and copying are bound by memory long before this many.
    private const int MostThreads = 8;

    /// <summary>Goes through all units once.</summary>
    /// <param name="plan">The plan.</param>
    /// <param name="isRead">Whether anything of an owner is to be read.</param>
    /// <param name="destination">Receives what is taken.</param>
    /// <param name="verifier">Has all digests that the owners gave.</param>
    /// <param name="seed">The seed.</param>
    /// <param name="swarms">By owner how it is cut, where others cut it alike; null: as its memory is read.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <returns>By owner what is left to be read, and bytes that were taken, padding included.</returns>
    internal static async Task<(ReadUnit[]?[] Left, long TakenBytes)> RunAsync(TransferPlan plan, Predicate<int> isRead, IJoinDestination destination, DigestVerifier verifier, IJoinSeed seed,
        SwarmWork?[]? swarms, CancellationToken cancellationToken)
    {
        var left = new ReadUnit[]?[plan.Metas.Owners.Length];
        long taken = 0;
        for (int owner = 0; owner < left.Length; owner++)
        {
            if (plan.OwnerBytes[owner] != 0 && isRead(owner))
            {
                var work = new OwnerWork(plan, owner, destination, swarms?[owner]?.Units);
                var rest = new List<ReadUnit>();
                await Task.WhenAll(Enumerable.Range(0, Math.Min(MostThreads, Environment.ProcessorCount)).Select(_ => Task.Run(() => Go(work, rest), cancellationToken))).ConfigureAwait(false);
                rest.Sort(static (a, b) => a.Range != b.Range ? a.Range.CompareTo(b.Range) : a.OffsetInRange.CompareTo(b.OffsetInRange));
                left[owner] = [.. rest];
            }
        }
        return (left, taken);

        void Go(OwnerWork work, List<ReadUnit> rest)
        {
            using MemoryBuffer staging = MemoryBuffer.AllocateAnonymous(TensorDigest.ChunkBytes);
            long own = 0;
            while (work.TryTake(out ReadUnit unit))
            {
                cancellationToken.ThrowIfCancellationRequested();
                if (TryTake(unit, staging))
                {
                    own += unit.LengthBytes;
                    continue;
                }
                lock (rest)
                {
                    rest.Add(unit);
                }
            }
            Interlocked.Add(ref taken, own);
        }

        unsafe bool TryTake(in ReadUnit unit, MemoryBuffer staging)
        {
            nint place = destination.AddressOf(unit);
            byte* at = (byte*)(place != 0 ? place : staging.Address);
            var bytes = new Span<byte>(at, unit.LengthBytes);
            if (!seed.TryRead(unit, bytes) || !verifier.TryAccept(unit, at))
            {
                return false;
            }
            if (place == 0 && !seed.IsInPlace)
            {
                destination.Write(unit, bytes);
            }
            destination.Completed(unit);
            return true;
        }
    }
}
