using System.Globalization;

namespace CheckpointEngine.Inference;

/// <summary>How large a bucket may be.</summary>
/// <param name="maxBytes"><c>PS_MAX_BUCKET_SIZE_GB</c>, in bytes: a tensor that is larger gets a bucket of its size.</param>
/// <param name="deviceBytes">What the device has for one half of the buffer: a tensor that is larger is an error.</param>
internal readonly struct BucketLimits(long maxBytes, long deviceBytes)
{
    internal readonly long MaxBytes = maxBytes;
    internal readonly long DeviceBytes = deviceBytes;

    private const double DefaultMaxGib = 8;
    private const double DefaultFraction = 0.9;

    /// <summary>Reads the two variables that upstream reads.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.InvalidData"/>: one is no number in its range.</exception>
    internal static BucketLimits FromEnvironment(long freeBytes) => new(
        (long)(Read("PS_MAX_BUCKET_SIZE_GB", DefaultMaxGib, 1 << 20) * (1L << 30)),
        (long)(freeBytes * Read("PS_MEM_FRACTION", DefaultFraction, 1)) / 2);

    private static double Read(string name, double otherwise, double most)
    {
        if (Environment.GetEnvironmentVariable(name) is not { Length: > 0 } text)
        {
            return otherwise;
        }
        return double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double value) && value > 0 && value <= most
            ? value
            : throw new CheckpointEngineException(CheckpointError.InvalidData, $"{name}: '{text}' is no number above 0 and at most {most:0}");
    }
}
