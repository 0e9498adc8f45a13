using CheckpointEngine.Checkpoints;
using CheckpointEngine.Inference;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Http;

/// <summary>What the endpoints need of a <see cref="ParameterServer"/>: a seam, so that they can be tested beside one that counts and fails.</summary>
internal interface ICheckpointStore
{
    IReadOnlyList<string> CheckpointNames { get; }

    /// <summary>How many checkpoints are held here, whole; those that are only on their way or known of others do not count.</summary>
    int CountHeld();

    Task RegisterAsync(string name, IReadOnlyList<string> paths, RegistrationOptions options, CancellationToken cancellationToken);

    Task UnregisterAsync(string name, bool freeSharedPool);

    /// <summary>What it is doing at this moment.</summary>
    ServerStatus GetStatus();

    /// <summary>The side files of a checkpoint held here; null when it is not.</summary>
    IReadOnlyList<SideFile>? FindSideFiles(string name);

    PublishedMetas GetMetas(string name, MetasScope scope);

    Task<PublishedMetas> WaitForMetasAsync(string name, string entityTag, MetasScope scope, CancellationToken cancellationToken);

    void LoadMetas(string name, CheckpointMetas metas);

    /// <summary>Brings a checkpoint held here into an inference server.</summary>
    Task UpdateAsync(string name, InferenceUpdateOptions options, CancellationToken cancellationToken);

    Task GatherMetasAsync(string name, IReadOnlyList<string> peerUrls, MetasClientOptions clientOptions, CancellationToken cancellationToken);
}
