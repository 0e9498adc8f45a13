namespace CheckpointEngine.Access;

/// <summary>A connection that is secured.</summary>
/// <param name="Stream">What is said inside; the receiver's to dispose of.</param>
/// <param name="Binding">What proofs that are given inside are bound to, <see cref="TokenChallenge.BindingOf"/>.</param>
/// <param name="Peer">Who the other side has shown to be, cleaned; empty when it has shown nothing.</param>
internal sealed record SecuredConnection(Stream Stream, byte[] Binding, string Peer);
