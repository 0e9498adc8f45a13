namespace CheckpointEngine.Access;

/// <summary>Secures the connections of a listener.</summary>
/// <remarks>Any number of threads.</remarks>
internal interface IConnectionSecurity : IDisposable
{
    /// <summary>Makes a connection that was accepted a secured one.</summary>
    /// <param name="connection">The bytes of the connection; disposed of with the result, and when this throws.</param>
    /// <param name="cancellationToken">Ends it.</param>
    /// <returns>What is said inside, the caller's to dispose of.</returns>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Refused"/>: it is not to be trusted, or speaks something else.</exception>
    Task<SecuredConnection> SecureAsync(Stream connection, CancellationToken cancellationToken);

    /// <summary>Takes up what has changed since; false when it cannot be used, and why, unless it was disposed of.</summary>
    bool Reload(out CheckpointEngineException? unusable);
}
