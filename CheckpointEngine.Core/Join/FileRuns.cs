using CheckpointEngine.Planning;

namespace CheckpointEngine.Join;

/// <summary>A piece of a unit that lies in one piece in its shard.</summary>
/// <param name="Start">Its first byte in the unit.</param>
/// <param name="End">The byte behind its last one.</param>
/// <param name="FileOffset">Where it lies in the shard.</param>
internal readonly record struct FileRun(int Start, int End, long FileOffset);

/// <summary>The pieces of a unit as its shard has them: neighbours in a buffer are neighbours in the file too, but for the padding of slots.</summary>
/// <remarks>Allocates nothing.</remarks>
internal struct FileRuns
{
    private readonly long[] _fileOffsets;
    private UnitParts _parts;
    private bool _hasNext;         // _parts has one that is not in a piece yet

    /// <param name="plan">The plan.</param>
    /// <param name="fileOffsets">Where each tensor of the plan lies in its shard.</param>
    /// <param name="unit">The unit.</param>
    internal FileRuns(TransferPlan plan, long[] fileOffsets, in ReadUnit unit)
    {
        _fileOffsets = fileOffsets;
        _parts = new UnitParts(plan, unit);
        _hasNext = _parts.MoveNext();
    }

    /// <summary>The piece that <see cref="MoveNext"/> found.</summary>
    public FileRun Current { readonly get; private set; }

    public readonly FileRuns GetEnumerator() => this;

    public bool MoveNext()
    {
        if (!_hasNext)
        {
            return false;
        }
        var run = new FileRun(_parts.Current.Start, _parts.Current.Start + _parts.Current.LengthBytes, PlaceOf(_parts.Current));
        while ((_hasNext = _parts.MoveNext()) && _parts.Current.Start == run.End && PlaceOf(_parts.Current) == run.FileOffset + (run.End - run.Start))
        {
            run = run with { End = run.End + _parts.Current.LengthBytes };
        }
        Current = run;
        return true;
    }

    private readonly long PlaceOf(in UnitPart part) => _fileOffsets[part.Tensor] + part.Offset;
}
