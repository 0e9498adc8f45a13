using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>Brings the tensors of a header into the order of their data and checks that they cover it exactly.</summary>
internal static class SafetensorsOrder
{
    /// <summary>The same tensors by rising offset.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: a name is there twice, or the first overlap or gap by offset.</exception>
    internal static TensorTable SortAndCheck(TensorTable tensors, long dataBytes, string fileName)
    {
        TensorTable sorted = Sort(tensors);
        int duplicate = sorted.FindDuplicateName();
        if (duplicate >= 0)
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, $"{fileName}: tensor {TensorNames.Quote(sorted, duplicate)} is there twice");
        }
        CheckCover(sorted, dataBytes, fileName);
        return sorted;
    }

    private static TensorTable Sort(TensorTable tensors)
    {
        int at = 1;
        while (at < tensors.Count && Compare(tensors, at - 1, at) <= 0)
        {
            at++;
        }
        if (at >= tensors.Count)
        {
            return tensors;   // most writers keep the order
        }
        int[] order = new int[tensors.Count];
        for (int i = 0; i < order.Length; i++)
        {
            order[i] = i;
        }
        Array.Sort(order, (a, b) => Compare(tensors, a, b));
        using var builder = new TensorTableBuilder();
        foreach (int tensor in order)
        {
            builder.AddFrom(tensors, tensor, tensors.GetSlotBytes(tensor), tensors.GetOffset(tensor));
        }
        return builder.Build();
    }

    private static int Compare(TensorTable tensors, int a, int b)
    {
        int order = tensors.GetOffset(a).CompareTo(tensors.GetOffset(b));
        if (order == 0)
        {
            order = tensors.GetSlotBytes(a).CompareTo(tensors.GetSlotBytes(b));
        }
        return order != 0 ? order : tensors.GetNameUtf8(a).SequenceCompareTo(tensors.GetNameUtf8(b));
    }

    private static void CheckCover(TensorTable tensors, long dataBytes, string fileName)
    {
        long covered = 0;
        for (int tensor = 0; tensor < tensors.Count; tensor++)
        {
            long begin = tensors.GetOffset(tensor);
            if (begin < covered)
            {
                ThrowHelper.Throw(CheckpointError.InvalidData,
                    $"{fileName}: tensors {TensorNames.Quote(tensors, tensor - 1)} and {TensorNames.Quote(tensors, tensor)} overlap in bytes {begin:N0} to {Math.Min(covered, begin + tensors.GetSlotBytes(tensor)):N0} of the data");
            }
            if (begin > covered)
            {
                string before = tensor == 0 ? "" : $" behind tensor {TensorNames.Quote(tensors, tensor - 1)}";
                ThrowHelper.Throw(CheckpointError.InvalidData,
                    $"{fileName}: no tensor covers bytes {covered:N0} to {begin:N0} of the data{before}, before tensor {TensorNames.Quote(tensors, tensor)}");
            }
            covered += tensors.GetSlotBytes(tensor);
        }
        if (covered != dataBytes)
        {
            ThrowHelper.Throw(CheckpointError.InvalidData, $"{fileName}: no tensor covers bytes {covered:N0} to {dataBytes:N0} of the data, its end");
        }
    }
}
