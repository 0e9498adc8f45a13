using System.Runtime.InteropServices;
using System.Security.Cryptography;
using CheckpointEngine.Inference;

namespace CheckpointEngine.Tests.Inference;

/// <summary>Threads that put buckets together: every byte in its place once, whatever pieces and steps are.</summary>
public sealed unsafe class CopyCrewTests
{
    private const int StepBytes = 1000;
    private const byte Padding = 0xEE;

    // Pieces shorter and longer than a step, side by side and with room between; the second half is begun while the first is copied.
    [Fact]
    public void Begin_TwoHalves_EveryByteIsInItsPlaceAndNothingElseIsTouched()
    {
        var random = new Random(7);
        for (int round = 0; round < 50; round++)
        {
            byte[] source = RandomNumberGenerator.GetBytes(60_000);
            fixed (byte* bytes = source)
            {
                using var crew = new Crew();
                byte*[] rooms = [crew.Room(64_000), crew.Room(64_000)];
                UpdatePiece[][] halves = [Pieces(random, (nint)bytes), Pieces(random, (nint)bytes)];
                for (int half = 0; half < 2; half++)
                {
                    crew.Begin(half, halves[half], (nint)rooms[half]);
                }
                for (int half = 0; half < 2; half++)
                {
                    Assert.InRange(crew.Wait(half), 0, 60);
                    byte[] expected = new byte[64_000];
                    Array.Fill(expected, Padding);
                    foreach (UpdatePiece piece in halves[half])
                    {
                        new ReadOnlySpan<byte>((void*)piece.Source, (int)piece.Bytes).CopyTo(expected.AsSpan((int)piece.Offset));
                    }
                    Assert.True(new ReadOnlySpan<byte>(rooms[half], 64_000).SequenceEqual(expected));
                }
                Assert.Equal([0, 1], crew.Order);
                Assert.Equal(halves.Sum(half => half.Sum(piece => piece.Bytes)), crew.Copied);
            }
        }
    }

    [Fact]
    public void Begin_NoPieces_IsDoneAndTold()
    {
        using var crew = new Crew();
        crew.Begin(1, default, 0);
        crew.Wait(1);
        Assert.Equal([1], crew.EndedHalves);
    }

    [Fact]
    public void Wait_AThreadFails_ThrowsWhatItWasForBothHalves()
    {
        byte[] source = new byte[60_000];
        fixed (byte* bytes = source)
        {
            using var crew = new Crew { FailsAt = 3000 };
            nint room = (nint)crew.Room(64_000);
            for (int half = 0; half < 2; half++)
            {
                crew.Begin(half, new UpdatePiece[] { new((nint)bytes, 0, source.Length) }, room);
            }
            for (int half = 0; half < 2; half++)
            {
                var failure = Assert.Throws<CheckpointEngineException>(() => crew.Wait(half));
                Assert.Equal(CheckpointError.Native, failure.Error);
                Assert.Contains("no room at 3000", failure.Message, StringComparison.Ordinal);
            }
        }
    }

    private static UpdatePiece[] Pieces(Random random, nint source)
    {
        var pieces = new List<UpdatePiece>();
        long offset = random.Next(3) * 100;
        long from = 0;
        while (from < 50_000)
        {
            long bytes = random.Next(4) == 0 ? random.Next(1, 9000) : random.Next(1, 300);
            pieces.Add(new UpdatePiece(source + (nint)from, offset, bytes));
            from += bytes;
            offset += bytes + (random.Next(2) == 0 ? 0 : random.Next(256));
            if (offset > 50_000)
            {
                break;
            }
        }
        return [.. pieces];
    }

    private sealed class Crew : CopyCrew
    {
        private readonly List<nint> _rooms = [];
        private long _copied;

        internal Crew() : base(3, StepBytes) => Start();

        internal List<int> Order { get; } = [];

        internal List<int> EndedHalves { get; } = [];

        internal long Copied => _copied;

        internal long FailsAt { get; init; } = -1;

        internal byte* Room(int bytes)
        {
            void* room = NativeMemory.Alloc((nuint)bytes);
            new Span<byte>(room, bytes).Fill(Padding);
            _rooms.Add((nint)room);
            return (byte*)room;
        }

        public override void Dispose()
        {
            Stop();
            _rooms.ForEach(static room => NativeMemory.Free((void*)room));
        }

        protected override void Begun(Copy copy) => Order.Add(copy.Half);

        protected override byte* RoomFor(Copy copy, long offset)
            => offset == FailsAt ? throw new InvalidOperationException($"no room at {offset}") : (byte*)copy.Destination + offset;

        protected override void CopyBytes(byte* source, byte* destination, long bytes)
        {
            Interlocked.Add(ref _copied, bytes);
            Buffer.MemoryCopy(source, destination, bytes, bytes);
        }

        protected override void Ended(Copy copy, Exception? failure) => EndedHalves.Add(copy.Half);
    }
}
