namespace CheckpointEngine.Internal;

/// <summary>What a failure to write says about room.</summary>
internal static class FreeSpace
{
    /// <summary>What to do when room is what lacks, to be put behind a message; empty when there is enough, or nobody knows.</summary>
    /// <param name="directory">Where it was written.</param>
    /// <param name="neededBytes">How much there is to write.</param>
    internal static string Advice(string directory, long neededBytes)
    {
        try
        {
            long free = new DriveInfo(directory).AvailableFreeSpace;
            return free < neededBytes ? $"; {free:N0} bytes are free there: make room, or name another place" : "";
        }
        catch (Exception unknown) when (unknown is IOException or UnauthorizedAccessException or ArgumentException)
        {
            return "";
        }
    }
}
