using System.IO.Hashing;
using System.Runtime.InteropServices;
using CheckpointEngine.Checkpoints;
using CsCheck;
using Xunit;

namespace CheckpointEngine.Core.Tests.Checkpoints;

/// <summary>Hashing in steps and while copying, against System.IO.Hashing.</summary>
public sealed unsafe class Xxh3StateTests
{
    private const int MostBytes = 20_000;

    private static void SkipWithoutAvx2() => Assert.SkipUnless(Xxh3State.IsSupported, "this processor has no AVX2: digests are made in one go there");

    [Fact]
    public void StepsOfAnySizeGiveTheDigestOfTheWhole()
    {
        SkipWithoutAvx2();
        Gen.Select(Gen.Byte.Array[Xxh3State.LeastBytes, MostBytes], Gen.Int[0, MostBytes].Array[0, 8], Gen.Bool).Sample((input, steps, isNarrow) =>
        {
            Array.Sort(steps);
            Span<byte> digest = stackalloc byte[16];
            fixed (byte* start = input)
            {
                var state = default(Xxh3State);
                state.Begin(input.Length);
                foreach (int available in steps)
                {
                    if (isNarrow)
                    {
                        state.AdvanceNarrow(start, Math.Min(available, input.Length));
                    }
                    else
                    {
                        state.Advance(start, Math.Min(available, input.Length));
                    }
                    Assert.True(state.HashedBytes < Math.Max(1, Math.Min(available, input.Length)) || state.HashedBytes == 0);
                }
                state.End(start, digest);
            }
            Assert.Equal(XxHash128.Hash(input), digest.ToArray());
            Xxh3State.Hash(input, digest);
            Assert.Equal(XxHash128.Hash(input), digest.ToArray());
        });
    }

    [Theory]
    [InlineData(241)]
    [InlineData(1023)]
    [InlineData(1024)]
    [InlineData(1025)]
    [InlineData(1055)]
    [InlineData(1056)]
    [InlineData(2048)]
    [InlineData(2049)]
    [InlineData(65_536)]
    [InlineData((4 << 20) - 1)]
    [InlineData(4 << 20)]
    public void ACopyIsTheInputAndGivesItsDigestWhateverTheAlignment(int length)
    {
        SkipWithoutAvx2();
        const int Guard = 64;
        byte* source = (byte*)NativeMemory.AlignedAlloc((nuint)(length + 2 * Guard), 64);
        byte* target = (byte*)NativeMemory.AlignedAlloc((nuint)(length + 2 * Guard), 64);
        try
        {
            Random.Shared.NextBytes(new Span<byte>(source, length + 2 * Guard));
            Span<byte> digest = stackalloc byte[16];
            foreach (int sourceShift in (int[])[0, 1, 8, 31])
            {
                foreach (int targetShift in (int[])[0, 1, 8, 24, 31, 33])
                {
                    var whole = new Span<byte>(target, length + 2 * Guard);
                    whole.Fill(0xa5);
                    var state = default(Xxh3State);
                    state.Begin(length);
                    state.CopyAll(source + sourceShift, target + targetShift);
                    state.End(source + sourceShift, digest);

                    var input = new ReadOnlySpan<byte>(source + sourceShift, length);
                    Assert.True(input.SequenceEqual(whole.Slice(targetShift, length)));
                    Assert.Equal(-1, whole[..targetShift].IndexOfAnyExcept((byte)0xa5));
                    Assert.Equal(-1, whole[(targetShift + length)..].IndexOfAnyExcept((byte)0xa5));
                    Assert.Equal(XxHash128.Hash(input), digest.ToArray());
                }
            }
        }
        finally
        {
            NativeMemory.AlignedFree(source);
            NativeMemory.AlignedFree(target);
        }
    }
}
