using Microsoft.Extensions.Hosting;

namespace CheckpointEngine.Http.Hosting;

/// <summary>Leaves signals to the process: a library takes none.</summary>
internal sealed class SilentLifetime : IHostLifetime
{
    public Task WaitForStartAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;
}
