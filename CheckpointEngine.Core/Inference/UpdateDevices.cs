using CheckpointEngine.Internal;

namespace CheckpointEngine.Inference;

/// <summary>Makes the devices of an update.</summary>
internal static class UpdateDevices
{
    /// <summary>One for each worker.</summary>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.NotSupported"/>.</exception>
    internal static IUpdateDevice[] Make(UpdateDeviceKind kind, int count) => kind switch
    {
        UpdateDeviceKind.Host => HostUpdateDevice.Make(count),
        _ => ThrowHelper.Throw<IUpdateDevice[]>(CheckpointError.NotSupported,
            "update: buffers in GPU memory are not supported by this build; hand the weights over as files (--engine vllm-files, sglang-files), which needs none"),
    };
}
