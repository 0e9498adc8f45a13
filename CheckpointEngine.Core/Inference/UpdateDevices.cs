namespace CheckpointEngine.Inference;

/// <summary>Makes the devices of an update.</summary>
internal static class UpdateDevices
{
    /// <summary>One for each worker.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>.</exception>
    internal static IUpdateDevice[] Make(UpdateDeviceKind kind, int count) => kind switch
    {
        UpdateDeviceKind.Host => HostUpdateDevice.Make(count),
        UpdateDeviceKind.Cuda => CudaDevices.Make(count),
        UpdateDeviceKind.Auto => CudaDevices.IsSupported(out _) && CudaDevices.Names().Length >= count ? CudaDevices.Make(count) : HostUpdateDevice.Make(count),
        _ => throw new ArgumentOutOfRangeException(nameof(kind)),
    };
}
