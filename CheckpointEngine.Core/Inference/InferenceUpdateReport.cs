namespace CheckpointEngine.Inference;

/// <summary>One bucket of an update.</summary>
/// <param name="Bytes">Bytes of tensors.</param>
/// <param name="Tensors">Number of tensors.</param>
/// <param name="CopySeconds">Copying it into the buffer, beside the loading of the bucket before.</param>
/// <param name="LoadSeconds">From its announcement to the answer of the slowest worker.</param>
public readonly record struct InferenceBucketReport(long Bytes, int Tensors, double CopySeconds, double LoadSeconds);

/// <summary>What one worker took, in seconds.</summary>
/// <param name="Uuid">Its device.</param>
/// <param name="HandleSeconds">From the request to its answer that the buffer is mapped.</param>
/// <param name="LoadSeconds">From announcement to answer, summed over the buckets.</param>
/// <param name="FinishSeconds">The closing messages, the server's post-processing among them.</param>
public readonly record struct InferenceDeviceReport(string Uuid, double HandleSeconds, double LoadSeconds, double FinishSeconds);

/// <summary>What an update did.</summary>
public sealed class InferenceUpdateReport
{
    /// <summary>The checkpoint.</summary>
    public required string Checkpoint { get; init; }

    /// <summary>Bytes of tensors that the server took.</summary>
    public required long Bytes { get; init; }

    /// <summary>Number of tensors.</summary>
    public required int Tensors { get; init; }

    /// <summary>Bytes of one half of the buffer; 0 for files.</summary>
    public long BucketBytes { get; init; }

    /// <summary>Seconds from the first byte copied to the server's answer; waiting for its health not counted.</summary>
    public required double Seconds { get; init; }

    /// <summary>Seconds from the call to the server's answer: waiting for it, opening devices and the join, if there was one, counted. What is let go of afterwards is not.</summary>
    public double TotalSeconds { get; init; }

    /// <summary>Seconds until the server was healthy.</summary>
    public required double HealthSeconds { get; init; }

    /// <summary>Seconds of opening the devices, for GPUs the driver's start and a context on each; beside the waiting for the server, or for the join. 0 for files.</summary>
    public double OpenSeconds { get; init; }

    /// <summary>Seconds of writing files; 0 for the other ways.</summary>
    public double WriteSeconds { get; init; }

    /// <summary>Seconds from the closing messages to the server's answer; for files from the request to it.</summary>
    public required double FinishSeconds { get; init; }

    /// <summary>The buckets in their order; empty for files.</summary>
    public IReadOnlyList<InferenceBucketReport> Buckets { get; init; } = [];

    /// <summary>The workers; empty for files.</summary>
    public IReadOnlyList<InferenceDeviceReport> Devices { get; init; } = [];

    /// <summary>Remarks for the user, one line each.</summary>
    public required IReadOnlyList<string> Notes { get; init; }

    /// <summary>GiB per second over <see cref="Seconds"/>.</summary>
    public double GibPerSecond => Seconds > 0 ? Bytes / Seconds / (1L << 30) : 0;
}
