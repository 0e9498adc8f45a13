namespace CheckpointEngine.Native;

/// <summary>What a ce_cancel stands for.</summary>
[System.Diagnostics.CodeAnalysis.SuppressMessage("Design", "CA1001", Justification = "a call of another thread may hold it when the handle is destroyed; a source without timers has nothing to free")]
internal sealed class NativeCancel
{
    private readonly CancellationTokenSource _source = new();

    internal void Trigger() => _source.Cancel();

    /// <summary>The token of a handle; that which is never cancelled for NULL.</summary>
    internal static CancellationToken Token(nint handle) => handle == 0 ? CancellationToken.None : Handles.Get<NativeCancel>(handle)._source.Token;
}
