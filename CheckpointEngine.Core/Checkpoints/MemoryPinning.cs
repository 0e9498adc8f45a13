using CheckpointEngine.Internal;

namespace CheckpointEngine.Checkpoints;

/// <summary>Locks the memory of a checkpoint as its <see cref="PinMode"/> asks.</summary>
internal static class MemoryPinning
{
    /// <summary>Locks all buffers, or none and tells why.</summary>
    /// <exception cref="CheckpointEngineException">Native: <see cref="PinMode.Mlock"/> was asked for and is not allowed; nothing is to be kept then.</exception>
    internal static void Lock(List<HeldBuffer> buffers, PinMode pin, bool onFault, List<string> warnings)
    {
        if (pin == PinMode.None)
        {
            return;
        }
        string? reason = CheckLimit(buffers.Sum(buffer => buffer.Memory.LengthBytes));
        foreach (HeldBuffer buffer in buffers)
        {
            if (reason is not null || !buffer.Memory.TryLock(onFault, out reason))
            {
                break;
            }
        }
        if (reason is null)
        {
            return;
        }
        if (pin == PinMode.Mlock)
        {
            ThrowHelper.Throw(CheckpointError.Native, reason);
        }
        buffers.ForEach(buffer => buffer.Memory.Unlock());   // a part that is locked helps nobody and uses the limit up
        warnings.Add($"memory is not locked and may be swapped or dropped: {reason}");
    }

    // For all buffers at once: the kernel's refusal of the last of many would tell a limit that is too low for the others.
    private static string? CheckLimit(long lengthBytes)
        => HostMemory.HasIpcLock() || lengthBytes <= HostMemory.LockLimitBytes() - HostMemory.LockedBytes()
            ? null
            : $"mlock {lengthBytes:N0} bytes: {HostMemory.LockAdvice(lengthBytes)}";
}
