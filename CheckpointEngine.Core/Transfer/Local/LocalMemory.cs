using System.Runtime.InteropServices;
using CheckpointEngine.Internal;
using CheckpointEngine.Peers;
using Microsoft.Win32.SafeHandles;

namespace CheckpointEngine.Transfer.Local;

/// <summary>What an owner on this host has handed over of its memory.</summary>
/// <remarks>Owns its segments. Any number of threads read; Dispose when no lane is left.</remarks>
internal sealed class LocalMemory : IDisposable
{
    // Each costs a question and maybe a descriptor; a checkpoint has a few for each of its files.
    private const int MaxSegments = 16_384;

    private readonly PeerClient? _hold;             // open while memory of a process is read: the owner changes and frees nothing under it
    private readonly LocalSegment[] _segments;      // by rising address
    private string? _failure;

    private LocalMemory(LocalSegment[] segments, PeerClient? hold)
    {
        _segments = segments;
        _hold = hold;
    }

    /// <summary>Why not all of it can be attached to; null when it can.</summary>
    internal string? NoAttachReason => Array.Find(_segments, segment => segment.NoAttachReason is not null)?.NoAttachReason;

    /// <summary>Why it cannot be read any more; null while it can.</summary>
    internal string? Failure => Volatile.Read(ref _failure);

    /// <summary>One segment alone, owned from here on.</summary>
    internal static LocalMemory Of(LocalSegment segment) => new([segment], null);

    /// <summary>Asks the owner for all memory that holds <paramref name="runs"/>.</summary>
    /// <param name="peer">The conversation, over a Unix socket; taken over when this returns.</param>
    /// <param name="runs">Address and length in the owner's process.</param>
    /// <param name="attachFiles">Attach to files that others may write, too.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <exception cref="CheckpointEngineException">Why it cannot be had.</exception>
    internal static async Task<LocalMemory> OpenAsync(PeerClient peer, IEnumerable<(ulong Address, ulong LengthBytes)> runs, bool attachFiles, CancellationToken cancellationToken)
    {
        var segments = new List<LocalSegment>();
        try
        {
            foreach ((ulong address, ulong lengthBytes) in runs)
            {
                int at = IndexAfter(CollectionsMarshal.AsSpan(segments), address);
                if (at != 0 && segments[at - 1].Contains(address, lengthBytes))
                {
                    continue;
                }
                if (segments.Count == MaxSegments)
                {
                    ThrowHelper.Throw(CheckpointError.NotSupported, $"its memory lies in more than {MaxSegments:N0} pieces");
                }
                (MemoryAnswer answer, SafeFileHandle? file) = await peer.GetMemoryAsync(address, lengthBytes, cancellationToken).ConfigureAwait(false);
                segments.Insert(at, LocalSegment.Open(answer, file, peer.Credentials, attachFiles));
            }
            if (segments.Exists(segment => segment.IsOfProcess))
            {
                return new LocalMemory([.. segments], peer);
            }
            peer.Dispose();
            return new LocalMemory([.. segments], null);
        }
        catch
        {
            segments.ForEach(segment => segment.Dispose());
            throw;
        }
    }

    /// <summary>Maps what may be read through a mapping; <paramref name="all"/>: everything, to attach.</summary>
    /// <exception cref="CheckpointEngineException">The kernel refused.</exception>
    internal void Map(bool all)
    {
        foreach (LocalSegment segment in _segments)
        {
            if (all || segment.IsSealed)
            {
                segment.Map();
            }
        }
    }

    /// <summary>The segment that holds <c>[address, address + length)</c>.</summary>
    internal LocalSegment Find(ulong address, ulong lengthBytes)
    {
        int at = IndexAfter(_segments, address);
        return at != 0 && _segments[at - 1].Contains(address, lengthBytes)
            ? _segments[at - 1]
            : ThrowHelper.Throw<LocalSegment>(CheckpointError.ProtocolViolation, $"{lengthBytes:N0} bytes at 0x{address:x} are in no memory that the owner has handed over");
    }

    // Index of the first segment that begins behind `address`.
    private static int IndexAfter(ReadOnlySpan<LocalSegment> segments, ulong address)
    {
        int low = 0;
        int high = segments.Length;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (segments[middle].Address <= address)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }
        return low;
    }

    /// <summary>Whether the owner has ended the conversation, and with it the time in which its memory may be read.</summary>
    internal bool IsTakenBack => _hold is { HasEnded: true };

    /// <summary>Notes why it cannot be read any more.</summary>
    internal void Fail(string reason) => Interlocked.CompareExchange(ref _failure, reason, null);

    public void Dispose()
    {
        _hold?.Dispose();
        foreach (LocalSegment segment in _segments)
        {
            segment.Dispose();
        }
    }
}
