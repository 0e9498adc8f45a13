using System.Buffers.Binary;
using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace CheckpointEngine.Checkpoints;

/// <summary>
/// XXH3-128 (seed 0) of one input whose length is known from the start, hashed in steps: while its bytes arrive, or while they are copied.
/// </summary>
/// <remarks>
/// <para>Gives the digests of <see cref="System.IO.Hashing.XxHash128"/>, which is used for short inputs. That class hashes in steps as well, but 256
/// bytes at a time through memory, and not while it copies: what has left the cache between its arrival and its hash is read from memory once more,
/// which costs more than the hash. In one go it takes half as long again as this, or twice where vectors are 64 bytes wide: that is for code that is compiled as it
/// runs, for what ships ahead of time is built for x86-64-v3, which has none.</para>
/// <para>One thread at a time. Allocates nothing. Source: xxhash 0.8, doc/xxhash_spec.md, "XXH3 algorithm: large inputs".</para>
/// </remarks>
internal unsafe struct Xxh3State
{
    /// <summary>Shorter inputs are hashed by other rules.</summary>
    internal const int LeastBytes = 241;

    private const int StripeBytes = 64;
    private const int StripesPerBlock = 16;         // (the secret's length - a stripe) / 8
    private const int BlockBytes = StripeBytes * StripesPerBlock;
    private const int VectorBytes = 32;

    private const ulong Prime64_1 = 0x9E3779B185EBCA87;
    private const ulong Prime64_2 = 0xC2B2AE3D27D4EB4F;
    private const ulong Prime64_3 = 0x165667B19E3779F9;
    private const ulong Prime64_4 = 0x85EBCA77C2B2AE63;
    private const ulong Prime64_5 = 0x27D4EB2F165667C5;
    private const uint Prime32_1 = 0x9E3779B1;
    private const uint Prime32_2 = 0x85EBCA77;
    private const uint Prime32_3 = 0xC2B2AE3D;

    private fixed ulong _accumulators[8];
    private long _lengthBytes;
    private long _blocksDone;

    // kSecret of the specification.
    private static ReadOnlySpan<byte> Secret =>
    [
        0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb,
        0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
        0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb,
        0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
        0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31,
        0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
        0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc,
        0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
    ];

    /// <summary>Whether this machine can; where it can not, bytes are hashed in one go when all are there.</summary>
    internal static bool IsSupported => Avx2.IsSupported;

    /// <summary>Bytes that are hashed; always whole blocks of 1 KiB, and never the last byte.</summary>
    internal readonly long HashedBytes => _blocksDone * BlockBytes;

    /// <summary>Hashes an input in one go.</summary>
    /// <param name="input">At least <see cref="LeastBytes"/>.</param>
    /// <param name="digest">At least 16 bytes.</param>
    internal static void Hash(ReadOnlySpan<byte> input, Span<byte> digest)
    {
        var state = default(Xxh3State);
        state.Begin(input.Length);
        fixed (byte* start = input)
        {
            state.End(start, digest);
        }
    }

    /// <summary>Begins an input.</summary>
    /// <param name="lengthBytes">Its length, at least <see cref="LeastBytes"/>.</param>
    internal void Begin(long lengthBytes)
    {
        Debug.Assert(lengthBytes >= LeastBytes && IsSupported);
        _lengthBytes = lengthBytes;
        _blocksDone = 0;
        fixed (ulong* accumulators = _accumulators)
        {
            Vector256.Create((ulong)Prime32_3, Prime64_1, Prime64_2, Prime64_3).Store(accumulators);
            Vector256.Create(Prime64_4, Prime32_2, Prime64_5, Prime32_1).Store(accumulators + 4);
        }
    }

    /// <summary>Hashes what has come since the last call, as far as it fills blocks.</summary>
    /// <param name="input">The input's first byte; another address at every call is fine.</param>
    /// <param name="availableBytes">Bytes that are there, from the first on.</param>
    internal void Advance(byte* input, long availableBytes)
    {
        if (BlocksTo(availableBytes) is var blocks and > 0)
        {
            HashBlocks(input + HashedBytes, blocks);
        }
    }

    /// <summary>The same with vectors of 32 bytes, also where there are wider ones.</summary>
    internal void AdvanceNarrow(byte* input, long availableBytes)
    {
        if (BlocksTo(availableBytes) is var blocks and > 0)
        {
            HashBlocksNarrow(input + HashedBytes, blocks);
        }
    }

    private readonly long BlocksTo(long availableBytes)
    {
        Debug.Assert(availableBytes <= _lengthBytes);
        return (Math.Min(availableBytes, _lengthBytes) - 1) / BlockBytes - _blocksDone;
    }

    /// <summary>Copies a whole input and hashes it on the way; the copy goes past the caches, so that they keep the source's next bytes.</summary>
    /// <param name="input">The input; not changed by anybody meanwhile.</param>
    /// <param name="copy">As long, no byte in common.</param>
    internal void CopyAll(byte* input, byte* copy)
    {
        Debug.Assert(_blocksDone == 0);
        long blocks = (_lengthBytes - 1) / BlockBytes;
        // Stores past the cache want aligned addresses: what is copied with a block begins up to 31 bytes behind what is hashed of it.
        long head = -(long)copy & (VectorBytes - 1);
        long copyBlocks = (_lengthBytes - head) / BlockBytes;
        Unsafe.CopyBlockUnaligned(copy, input, (uint)head);
        CopyBlocks(input, copy, head, Math.Min(blocks, copyBlocks));
        HashBlocks(input + HashedBytes, blocks - _blocksDone);
        long copied = head + Math.Min(blocks, copyBlocks) * BlockBytes;
        Buffer.MemoryCopy(input + copied, copy + copied, _lengthBytes - copied, _lengthBytes - copied);
    }

    /// <summary>Ends the input: hashes what is left and writes the digest, 16 big-endian bytes.</summary>
    /// <param name="input">The input's first byte; all of it is there.</param>
    /// <param name="digest">At least 16 bytes.</param>
    internal void End(byte* input, Span<byte> digest)
    {
        Advance(input, _lengthBytes);
        fixed (byte* secret = &MemoryMarshal.GetReference(Secret))
        fixed (ulong* accumulators = _accumulators)
        {
            Vector256<ulong> low = Vector256.Load(accumulators);
            Vector256<ulong> high = Vector256.Load(accumulators + 4);
            byte* block = input + HashedBytes;
            long stripes = (_lengthBytes - 1 - HashedBytes) / StripeBytes;
            for (long stripe = 0; stripe < stripes; stripe++)
            {
                low = Accumulate(low, Load(block + stripe * StripeBytes), secret + stripe * 8);
                high = Accumulate(high, Load(block + stripe * StripeBytes + VectorBytes), secret + stripe * 8 + VectorBytes);
            }
            byte* last = input + _lengthBytes - StripeBytes;       // may overlap what was hashed
            low = Accumulate(low, Load(last), secret + Secret.Length - StripeBytes - 7);
            high = Accumulate(high, Load(last + VectorBytes), secret + Secret.Length - StripeBytes - 7 + VectorBytes);
            low.Store(accumulators);
            high.Store(accumulators + 4);
            ulong length = (ulong)_lengthBytes;
            BinaryPrimitives.WriteUInt64BigEndian(digest, Merge(accumulators, secret + Secret.Length - StripeBytes - 11, ~(length * Prime64_2)));
            BinaryPrimitives.WriteUInt64BigEndian(digest[8..], Merge(accumulators, secret + 11, length * Prime64_1));
        }
    }

    private void HashBlocks(byte* block, long count)
    {
        if (Vector512.IsHardwareAccelerated && Avx512F.IsSupported)
        {
            HashBlocksWide(block, count);
        }
        else
        {
            HashBlocksNarrow(block, count);
        }
    }

    private void HashBlocksNarrow(byte* block, long count)
    {
        fixed (byte* secret = &MemoryMarshal.GetReference(Secret))
        fixed (ulong* accumulators = _accumulators)
        {
            Vector256<ulong> low = Vector256.Load(accumulators);
            Vector256<ulong> high = Vector256.Load(accumulators + 4);
            for (byte* end = block + count * BlockBytes; block != end; block += BlockBytes)
            {
                for (int stripe = 0; stripe < StripesPerBlock; stripe += 4)
                {
                    byte* at = block + stripe * StripeBytes;
                    byte* key = secret + stripe * 8;
                    low = Accumulate(low, Load(at), key);
                    high = Accumulate(high, Load(at + 32), key + 32);
                    low = Accumulate(low, Load(at + 64), key + 8);
                    high = Accumulate(high, Load(at + 96), key + 40);
                    low = Accumulate(low, Load(at + 128), key + 16);
                    high = Accumulate(high, Load(at + 160), key + 48);
                    low = Accumulate(low, Load(at + 192), key + 24);
                    high = Accumulate(high, Load(at + 224), key + 56);
                }
                low = Scramble(low, secret + Secret.Length - StripeBytes);
                high = Scramble(high, secret + Secret.Length - VectorBytes);
            }
            low.Store(accumulators);
            high.Store(accumulators + 4);
            _blocksDone += count;
        }
    }

    // The same with all eight accumulators in one register.
    private void HashBlocksWide(byte* block, long count)
    {
        fixed (byte* secret = &MemoryMarshal.GetReference(Secret))
        fixed (ulong* accumulators = _accumulators)
        {
            Vector512<ulong> all = Vector512.Load(accumulators);
            Vector512<uint> prime = Vector512.Create(Prime32_1);
            for (byte* end = block + count * BlockBytes; block != end; block += BlockBytes)
            {
                for (int stripe = 0; stripe < StripesPerBlock; stripe += 8)
                {
                    byte* at = block + stripe * StripeBytes;
                    byte* key = secret + stripe * 8;
                    all = AccumulateWide(all, at, key);
                    all = AccumulateWide(all, at + 64, key + 8);
                    all = AccumulateWide(all, at + 128, key + 16);
                    all = AccumulateWide(all, at + 192, key + 24);
                    all = AccumulateWide(all, at + 256, key + 32);
                    all = AccumulateWide(all, at + 320, key + 40);
                    all = AccumulateWide(all, at + 384, key + 48);
                    all = AccumulateWide(all, at + 448, key + 56);
                }
                all = Avx512F.Xor(Avx512F.Xor(all, Avx512F.ShiftRightLogical(all, 47)), Vector512.Load((ulong*)(secret + Secret.Length - StripeBytes)));
                Vector512<ulong> low = Avx512F.Multiply(all.AsUInt32(), prime);
                Vector512<ulong> high = Avx512F.Multiply(Avx512F.ShiftRightLogical(all, 32).AsUInt32(), prime);
                all = Avx512F.Add(low, Avx512F.ShiftLeftLogical(high, 32));
            }
            all.Store(accumulators);
            _blocksDone += count;
        }
    }

    // Hashes `count` blocks from the input's start, and copies as many, which begin `head` bytes later.
    private void CopyBlocks(byte* input, byte* copy, long head, long count)
    {
        fixed (byte* secret = &MemoryMarshal.GetReference(Secret))
        fixed (ulong* accumulators = _accumulators)
        {
            Vector256<ulong> low = Vector256.Load(accumulators);
            Vector256<ulong> high = Vector256.Load(accumulators + 4);
            byte* block = input;
            byte* to = copy + head;
            for (byte* end = input + count * BlockBytes; block != end; block += BlockBytes, to += BlockBytes)
            {
                for (int stripe = 0; stripe < StripesPerBlock; stripe += 2)
                {
                    byte* at = block + stripe * StripeBytes;
                    byte* key = secret + stripe * 8;
                    Sse.Prefetch0(at + PrefetchBytes);
                    Sse.Prefetch0(at + PrefetchBytes + 64);
                    Store(to + stripe * StripeBytes, Load(at + head));
                    Store(to + stripe * StripeBytes + 32, Load(at + head + 32));
                    Store(to + stripe * StripeBytes + 64, Load(at + head + 64));
                    Store(to + stripe * StripeBytes + 96, Load(at + head + 96));
                    low = Accumulate(low, Load(at), key);
                    high = Accumulate(high, Load(at + 32), key + 32);
                    low = Accumulate(low, Load(at + 64), key + 8);
                    high = Accumulate(high, Load(at + 96), key + 40);
                }
                low = Scramble(low, secret + Secret.Length - StripeBytes);
                high = Scramble(high, secret + Secret.Length - VectorBytes);
            }
            Sse.StoreFence();
            low.Store(accumulators);
            high.Store(accumulators + 4);
            _blocksDone += count;
        }
    }

    // Twice what the hardware looks ahead by itself; without it a copy of memory that is in no cache is a tenth slower, at 4 KiB it is no faster.
    private const int PrefetchBytes = 1024;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<ulong> Load(byte* address) => Vector256.Load((ulong*)address);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(byte* address, Vector256<ulong> value) => value.StoreAlignedNonTemporal((ulong*)address);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<ulong> Accumulate(Vector256<ulong> accumulators, Vector256<ulong> data, byte* secret)
    {
        Vector256<ulong> key = Avx2.Xor(data, Load(secret));
        Vector256<ulong> product = Avx2.Multiply(key.AsUInt32(), Avx2.ShiftRightLogical(key, 32).AsUInt32());
        Vector256<ulong> swapped = Avx2.Shuffle(data.AsUInt32(), 0b_01_00_11_10).AsUInt64();       // the neighbour's 64 bits
        return Avx2.Add(accumulators, Avx2.Add(product, swapped));        // one addition waits for the stripe before, not two: half as fast again
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<ulong> AccumulateWide(Vector512<ulong> accumulators, byte* stripe, byte* secret)
    {
        Vector512<ulong> data = Vector512.Load((ulong*)stripe);
        Vector512<ulong> key = Avx512F.Xor(data, Vector512.Load((ulong*)secret));
        Vector512<ulong> product = Avx512F.Multiply(key.AsUInt32(), Avx512F.ShiftRightLogical(key, 32).AsUInt32());
        Vector512<ulong> swapped = Avx512F.Shuffle(data.AsUInt32(), 0b_01_00_11_10).AsUInt64();
        return Avx512F.Add(accumulators, Avx512F.Add(product, swapped));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<ulong> Scramble(Vector256<ulong> accumulators, byte* secret)
    {
        accumulators = Avx2.Xor(Avx2.Xor(accumulators, Avx2.ShiftRightLogical(accumulators, 47)), Load(secret));
        Vector256<uint> prime = Vector256.Create(Prime32_1);
        Vector256<ulong> low = Avx2.Multiply(accumulators.AsUInt32(), prime);
        Vector256<ulong> high = Avx2.Multiply(Avx2.ShiftRightLogical(accumulators, 32).AsUInt32(), prime);
        return Avx2.Add(low, Avx2.ShiftLeftLogical(high, 32));
    }

    private static ulong Merge(ulong* accumulators, byte* secret, ulong start)
    {
        ulong result = start;
        for (int i = 0; i < 4; i++)
        {
            ulong high = Math.BigMul(
                accumulators[2 * i] ^ Unsafe.ReadUnaligned<ulong>(secret + 16 * i),
                accumulators[2 * i + 1] ^ Unsafe.ReadUnaligned<ulong>(secret + 16 * i + 8),
                out ulong low);
            result += high ^ low;
        }
        result ^= result >> 37;
        result *= 0x165667919E3779F9;
        return result ^ (result >> 32);
    }
}
