using System.Runtime.CompilerServices;
using CheckpointEngine.Interop;

namespace CheckpointEngine.Transfer.Tcp;

/// <summary>Answers that go out together: of each the status, then the memory that was asked for. One system call sends many small ones.</summary>
/// <remarks>The connection's thread alone, but for <see cref="Reads"/>. Allocates nothing once made. Source: sendmsg(2).</remarks>
internal sealed unsafe class AnswerBatch
{
    /// <summary>The most answers.</summary>
    internal const int MostAnswers = 16;

    /// <summary>The most parts that <see cref="Next"/> gives.</summary>
    internal const int MostParts = 2 * MostAnswers;

    private static readonly byte[] s_ok = MakeOk();
    private readonly RegisteredRange?[] _ranges = new RegisteredRange?[MostAnswers];
    private readonly Libc.IoVec[] _parts = new Libc.IoVec[MostParts];
    private int _answers;
    private int _firstPart;     // all before it are sent
    private int _endOfParts;

    /// <summary>Bytes that are not sent yet.</summary>
    internal ulong BytesLeft { get; private set; }

    /// <summary>Whether one more may come.</summary>
    internal bool HasRoom => _answers < MostAnswers;

    /// <summary>Answers in it.</summary>
    internal int Count => _answers;

    /// <summary>Whether the next bytes are of a status, not of memory.</summary>
    internal bool IsAtStatus => IsStatus(_parts[_firstPart]);

    /// <summary>Bytes of what comes next: the rest of a status or of a range.</summary>
    internal ulong NextPartBytes => _parts[_firstPart].iov_len;

    /// <summary>Adds an answer.</summary>
    /// <param name="range">Where it reads, begun; ended by <see cref="End"/>.</param>
    /// <param name="header">What was asked for, inside of the range.</param>
    internal void Add(RegisteredRange range, in DataHeader header)
    {
        Volatile.Write(ref _ranges[_answers++], range);
        AddPart(Unsafe.AsPointer(ref s_ok[0]), (ulong)header.AnswerStatusSize);
        AddPart((void*)header.Address, header.LengthBytes);
    }

    /// <summary>Writes down what comes next.</summary>
    /// <param name="parts">Room for <see cref="MostParts"/>.</param>
    /// <param name="limitBytes">The most bytes in all of them.</param>
    /// <returns>How many.</returns>
    internal int Next(Libc.IoVec* parts, ulong limitBytes)
    {
        int count = 0;
        for (int i = _firstPart; i < _endOfParts && limitBytes != 0; i++)
        {
            parts[count] = _parts[i];
            parts[count].iov_len = (nuint)Math.Min(_parts[i].iov_len, limitBytes);
            limitBytes -= parts[count++].iov_len;
        }
        return count;
    }

    /// <summary>Counts bytes as sent.</summary>
    internal void Advance(int bytes)
    {
        BytesLeft -= (ulong)bytes;
        for (nuint left = (nuint)bytes; left != 0;)
        {
            ref Libc.IoVec part = ref _parts[_firstPart];
            nuint ofPart = Math.Min(left, part.iov_len);
            part.iov_base = (byte*)part.iov_base + ofPart;
            part.iov_len -= ofPart;
            left -= ofPart;
            _firstPart += part.iov_len == 0 ? 1 : 0;
        }
    }

    /// <summary>Whether an answer reads from that range. Any thread.</summary>
    internal bool Reads(RegisteredRange range)
    {
        foreach (ref RegisteredRange? read in _ranges.AsSpan())
        {
            if (Volatile.Read(ref read) == range)
            {
                return true;
            }
        }
        return false;
    }

    /// <summary>Lets go of all ranges, sent or not, and is empty.</summary>
    /// <param name="zeroCopy">Where the kernel may still read from them.</param>
    internal void End(ZeroCopySends? zeroCopy)
    {
        for (int i = 0; i < _answers; i++)
        {
            RegisteredRange range = _ranges[i]!;
            if (zeroCopy is null)
            {
                range.EndRead();
            }
            else
            {
                zeroCopy.EndRequest(range);
            }
            Volatile.Write(ref _ranges[i], null);
        }
        _answers = _firstPart = _endOfParts = 0;
        BytesLeft = 0;
    }

    private void AddPart(void* bytes, ulong lengthBytes)
    {
        if (lengthBytes != 0)
        {
            _parts[_endOfParts++] = new Libc.IoVec { iov_base = bytes, iov_len = (nuint)lengthBytes };
            BytesLeft += lengthBytes;
        }
    }

    private static bool IsStatus(in Libc.IoVec part)
        => (nuint)part.iov_base - (nuint)Unsafe.AsPointer(ref s_ok[0]) < DataHeader.LineStatusSize;

    private static byte[] MakeOk()
    {
        byte[] ok = GC.AllocateArray<byte>(DataHeader.LineStatusSize, pinned: true);
        System.Buffers.Binary.BinaryPrimitives.WriteUInt64LittleEndian(ok, DataHeader.StatusOk);
        return ok;
    }
}
