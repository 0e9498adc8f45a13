namespace CheckpointEngine.Native;

/// <summary>What a ce_server stands for: the server, and the joins that run on it.</summary>
internal sealed class NativeServer(ParameterServer server)
{
    private readonly Lock _lock = new();
    private readonly HashSet<NativeJoin> _joins = [];
    private bool _destroyed;

    internal ParameterServer Server => server;

    /// <summary>Counts a join in until it has ended.</summary>
    /// <exception cref="ObjectDisposedException">The server is being destroyed.</exception>
    internal void Enlist(NativeJoin join)
    {
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_destroyed, this);
            _joins.Add(join);
        }
    }

    internal void Release(NativeJoin join)
    {
        lock (_lock)
        {
            _joins.Remove(join);
        }
    }

    internal void Destroy()
    {
        NativeJoin[] running;
        lock (_lock)
        {
            _destroyed = true;
            running = [.. _joins];
        }
        foreach (NativeJoin join in running)
        {
            join.Cancel();
        }
        foreach (NativeJoin join in running)
        {
            join.WaitForEnd();
        }
        server.DisposeAsync().AsTask().GetAwaiter().GetResult();
    }
}
