namespace CheckpointEngine.Rdma.Tests.Support;

/// <summary>The guest that <c>tests/rdma-lab/lab</c> boots, seen from inside: devices rxe0, rxe1 … with the addresses 198.18.0.1, 198.18.0.2 …</summary>
public static class RdmaLab
{
    public const string NoDevices = "no RDMA device here; ./build.sh lab runs these in a guest";

    private const string Devices = "/sys/class/infiniband";

    /// <summary>How many devices whoever booted the guest asked for; null outside of it.</summary>
    public static int? Expected { get; } = int.TryParse(Environment.GetEnvironmentVariable("CHECKPOINT_ENGINE_LAB_DEVICES"), out int count) ? count : null;

    /// <summary>Whether tests that need devices run. In the guest they always do: a guest without devices must fail, not skip.</summary>
    public static bool HasDevices => Expected is not null || Found.Length > 0;

    /// <summary>The names of the devices, in order.</summary>
    public static string[] Found { get; } = Directory.Exists(Devices)
        ? [.. Directory.GetDirectories(Devices).Select(path => Path.GetFileName(path)).Order(StringComparer.Ordinal)]
        : [];

    /// <summary>Devices by their numbers, as <c>--devices</c> takes them.</summary>
    public static string Names(int[] devices) => string.Join(',', devices.Select(index => Found[index]));

    /// <summary>The address of device number <paramref name="index"/> (0-based).</summary>
    public static string Address(int index) => $"198.18.0.{index + 1}";

    /// <summary>A file below a device's first port, without white space at its ends.</summary>
    public static string ReadPort(string device, string file) => File.ReadAllText(Path.Combine(Devices, device, "ports", "1", file)).Trim();
}
