using System.Buffers.Binary;
using System.IO.Hashing;
using CheckpointEngine.Planning;

namespace CheckpointEngine.Relay;

/// <summary>The units of one owner as the joiners of a swarm count them: the same for all that read the same, wherever they put it.</summary>
internal static class SwarmUnits
{
    /// <summary>Cuts what is read from <paramref name="owner"/>, in order.</summary>
    /// <returns>Null when there are more than a swarm can have.</returns>
    internal static ReadUnit[]? Cut(TransferPlan plan, int owner)
    {
        var units = new List<ReadUnit>();
        var cursor = new ReadUnitCursor(plan, owner);
        while (cursor.TryTake(out ReadUnit unit))
        {
            if (unit.LengthBytes != 0)      // nothing but empty tensors
            {
                units.Add(unit);
            }
            if (units.Count > SwarmRequest.MostUnits)
            {
                return null;
            }
        }
        return [.. units];
    }

    /// <summary>What tells units from others: where they lie with their owner.</summary>
    internal static UInt128 LayoutOf(TransferPlan plan, ReadUnit[] units)
    {
        var hash = new XxHash128();
        Span<byte> entry = stackalloc byte[12];
        foreach (ReadUnit unit in units)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(entry, plan.Ranges[unit.Range].RemoteAddress + (ulong)unit.OffsetInRange);
            BinaryPrimitives.WriteInt32LittleEndian(entry[8..], unit.LengthBytes);
            hash.Append(entry);
        }
        return hash.GetCurrentHashAsUInt128();
    }
}
