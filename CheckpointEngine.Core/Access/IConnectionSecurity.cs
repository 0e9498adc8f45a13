using System.Net.Sockets;

namespace CheckpointEngine.Access;

/// <summary>Secures the connections of a listener.</summary>
/// <remarks>Any number of threads.</remarks>
internal interface IConnectionSecurity : IDisposable
{
    /// <summary>Makes a connection that was accepted a secured one.</summary>
    /// <returns>What is said inside.</returns>
    /// <exception cref="CheckpointEngineException"><see cref="CheckpointError.Refused"/>: it is not to be trusted, or speaks something else.</exception>
    Task<SecuredConnection> SecureAsync(Socket socket, CancellationToken cancellationToken);

    /// <summary>Takes up what has changed since; false when it cannot be used.</summary>
    bool Reload();
}
