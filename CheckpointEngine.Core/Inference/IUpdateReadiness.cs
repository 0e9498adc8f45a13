namespace CheckpointEngine.Inference;

/// <summary>Tells when the bytes of tensors may be handed to an engine: they have arrived and are what their owner vouches for.</summary>
internal interface IUpdateReadiness
{
    /// <summary>Whether all tensors may be read from the start.</summary>
    bool IsAllThere => false;

    /// <summary>Waits until all tensors of a run may be read.</summary>
    /// <param name="firstTensor">The first.</param>
    /// <param name="count">Their number.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <exception cref="CheckpointEngineException">They will not come.</exception>
    void Wait(int firstTensor, int count, CancellationToken cancellationToken);

    /// <summary>Waits until it is certain that all tensors together are what was asked for; before it, no engine is told that it has everything.</summary>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <exception cref="CheckpointEngineException">They are not.</exception>
    void WaitForEnd(CancellationToken cancellationToken);
}

/// <summary>A checkpoint that is held: all of it is there.</summary>
internal sealed class HeldReadiness : IUpdateReadiness
{
    internal static HeldReadiness Instance { get; } = new();

    public bool IsAllThere => true;

    public void Wait(int firstTensor, int count, CancellationToken cancellationToken) => cancellationToken.ThrowIfCancellationRequested();

    public void WaitForEnd(CancellationToken cancellationToken) => cancellationToken.ThrowIfCancellationRequested();
}
