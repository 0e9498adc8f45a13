using CheckpointEngine.Checkpoints;
using CheckpointEngine.Inference;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Http;

/// <summary>The real store.</summary>
internal sealed class ParameterServerStore(ParameterServer server) : ICheckpointStore
{
    public IReadOnlyList<string> CheckpointNames => server.CheckpointNames;

    public int CountHeld() => server.CheckpointNames.Count(name => server.FindCheckpoint(name) is not null);

    public ServerStatus GetStatus() => server.GetStatus();

    public Task RegisterAsync(string name, IReadOnlyList<string> paths, RegistrationOptions options, CancellationToken cancellationToken)
        => server.RegisterAsync(name, paths, null, options, cancellationToken);

    // Not cancelled with its request: once begun it goes to its end, whoever still listens.
    public Task UnregisterAsync(string name, bool freeSharedPool) => server.UnregisterAsync(name, freeSharedPool);

    public IReadOnlyList<SideFile>? FindSideFiles(string name) => server.FindCheckpoint(name)?.SideFiles;

    public PublishedMetas GetMetas(string name, MetasScope scope) => server.GetMetas(name, scope);

    public Task<PublishedMetas> WaitForMetasAsync(string name, string entityTag, MetasScope scope, CancellationToken cancellationToken)
        => server.WaitForMetasAsync(name, entityTag, scope, cancellationToken);

    public void LoadMetas(string name, CheckpointMetas metas) => server.LoadMetas(name, metas);

    public Task UpdateAsync(string name, InferenceUpdateOptions options, CancellationToken cancellationToken) => server.UpdateAsync(name, options, null, cancellationToken);

    public Task GatherMetasAsync(string name, IReadOnlyList<string> peerUrls, MetasClientOptions clientOptions, CancellationToken cancellationToken)
        => server.GatherMetasAsync(name, peerUrls, clientOptions, cancellationToken);
}
