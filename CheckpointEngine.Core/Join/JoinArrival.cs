namespace CheckpointEngine.Join;

/// <summary>Who takes tensors out of a join, while it goes on or at its end.</summary>
/// <param name="Begin">Called before the first byte comes, when tensors can be taken as they come; whoever gets the checkpoint disposes of it. Null: they are taken at the end.</param>
/// <param name="Ready">No byte is moved before it has ended; its failure ends the join. What is attached to is not moved.</param>
internal sealed record JoinArrival(Action<ArrivingCheckpoint>? Begin, Task Ready);
