using System.Globalization;

namespace CheckpointEngine.Http.Status;

/// <summary>Numbers for people.</summary>
internal static class Quantity
{
    private static readonly string[] s_units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

    /// <summary>Bytes in the unit that leaves one to four digits before the point.</summary>
    internal static string Bytes(double bytes)
    {
        int unit = 0;
        while (bytes >= 1024 && unit < s_units.Length - 1)
        {
            bytes /= 1024;
            unit++;
        }
        return bytes.ToString(unit == 0 ? "0" : "0.00", CultureInfo.InvariantCulture) + " " + s_units[unit];
    }

    /// <summary>Bytes per second; a dash when it is not known.</summary>
    internal static string Rate(double? bytesPerSecond) => bytesPerSecond is double rate ? Bytes(rate) + "/s" : "\u2013";

    /// <summary>Seconds to the millisecond, without the unit.</summary>
    internal static string Seconds(double seconds) => seconds.ToString("0.000", CultureInfo.InvariantCulture);

    /// <summary>A time in its two largest units.</summary>
    internal static string Time(TimeSpan time) => time switch
    {
        { TotalDays: >= 1 } => string.Create(CultureInfo.InvariantCulture, $"{(int)time.TotalDays} d {time.Hours} h"),
        { TotalHours: >= 1 } => string.Create(CultureInfo.InvariantCulture, $"{time.Hours} h {time.Minutes} min"),
        { TotalMinutes: >= 1 } => string.Create(CultureInfo.InvariantCulture, $"{time.Minutes} min {time.Seconds} s"),
        _ => string.Create(CultureInfo.InvariantCulture, $"{Math.Max(0, time.TotalSeconds):0} s"),
    };

    internal static string Count(long count) => count.ToString("N0", CultureInfo.InvariantCulture);
}
