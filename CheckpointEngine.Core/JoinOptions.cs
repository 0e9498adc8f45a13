using CheckpointEngine.Checkpoints;
using CheckpointEngine.Transfer;

namespace CheckpointEngine;

/// <summary>Where a join puts the tensors.</summary>
public enum JoinDestinationKind
{
    /// <summary>Into memory of this process: held, registered, with metas of its own.</summary>
    Memory = 0,

    /// <summary>Into a directory of safetensors shards with index and side files.</summary>
    Directory,

    /// <summary>Nowhere: read, checked and dropped, to measure.</summary>
    Null,

    /// <summary>Into <see cref="JoinOptions.Tensors"/>, the caller's own memory, by name. Only these are read. After a failure their bytes are undefined.</summary>
    Tensors,

    /// <summary>Through <see cref="JoinOptions.OnBucket"/>, bucket by bucket: the next one is on its way while the handler consumes one.</summary>
    Buckets,
}

/// <summary>What a join reads and where it puts it.</summary>
public sealed class JoinOptions
{
    /// <summary>The local name of the checkpoint; default <c>join-checkpoint</c>.</summary>
    public string CheckpointName { get; set; } = "join-checkpoint";

    /// <summary>Where the tensors go; default memory.</summary>
    public JoinDestinationKind Destination { get; set; }

    /// <summary>The directory for <see cref="JoinDestinationKind.Directory"/>.</summary>
    public string? DirectoryPath { get; set; }

    /// <summary>The tensors for <see cref="JoinDestinationKind.Tensors"/>; their memory stays until the join has ended.</summary>
    public CallerTensors? Tensors { get; set; }

    /// <summary>The consumer for <see cref="JoinDestinationKind.Buckets"/>.</summary>
    public BucketHandler? OnBucket { get; set; }

    /// <summary>Bytes of a bucket, of which there are two; it grows to the largest tensor. Default 256 MiB.</summary>
    public long BucketBytes { get; set; } = 256 << 20;

    /// <summary>Name patterns (<c>*</c>, <c>?</c>, <c>[…]</c>) of which a tensor must match one; empty takes all.</summary>
    public IReadOnlyList<string> Include { get; set; } = [];

    /// <summary>Name patterns of tensors to leave out, applied after <see cref="Include"/>.</summary>
    public IReadOnlyList<string> Exclude { get; set; } = [];

    /// <summary>Leave side files (config, tokenizer) where they are.</summary>
    public bool WeightsOnly { get; set; }

    /// <summary>Check every byte against the owners' digests; default true.</summary>
    public bool Verify { get; set; } = true;

    /// <summary>Fail when not every byte could be checked.</summary>
    public bool RequireVerify { get; set; }

    /// <summary>Which transport to read over.</summary>
    public TransportChoice Transport { get; set; }

    /// <summary>Copy what could be attached to. Default false: into memory, what owners of this host offer is mapped read-only where it is.</summary>
    public bool Copy { get; set; }

    /// <summary>Attach to files that others than their owner may write, too: a file that is truncated under its mapping ends the process.</summary>
    public bool AttachFiles { get; set; }

    /// <summary>Lanes per owner; 0 (the default) lets the join find out.</summary>
    public int Lanes { get; set; }

    /// <summary>The longest time an owner may go without a byte; default 30 s.</summary>
    public TimeSpan StallTimeout { get; set; } = TimeSpan.FromSeconds(30);

    /// <summary>The longest time for the whole join; default none.</summary>
    public TimeSpan Timeout { get; set; } = System.Threading.Timeout.InfiniteTimeSpan;

    /// <summary>
    /// Asks for the metas anew when an owner is gone, or holds another generation than the metas told: the join goes on with what it is told then, and with those
    /// of its bytes that have the digests told then (into the caller's tensors: it begins again). Null (the default): such a join fails. With digests, and not bucket by bucket; else it is not used.
    /// </summary>
    public Func<CancellationToken, Task<Metas.CheckpointMetas>>? AskForMetas { get; set; }

    /// <summary>How long <see cref="AskForMetas"/> is tried until it brings something that can be gone on with; default 10 s; <see cref="System.Threading.Timeout.InfiniteTimeSpan"/>: for ever.</summary>
    public TimeSpan AskTimeout { get; set; } = TimeSpan.FromSeconds(10);

    /// <summary>
    /// Read together with other joins that set this: each reads a part from the owner, and the rest from the others, who offer what they have and have checked; this one offers
    /// too, at a port of its own, while it reads and as long as it holds what it has read (<see cref="ParameterServer.FinishRelaysAsync"/>). Into memory or a directory, over a
    /// network, with digests; where owners stand in for each other they are read alone. Others can send what they like: what is not what the owner's digests say is dropped with
    /// its sender, and XXH3 is no defence against who means harm (serve with <see cref="DigestAlgorithm.Sha256"/>). Default false.
    /// </summary>
    public bool Relay { get; set; }

    /// <summary>How often the same bytes are read into the same destination; more than once measures warm memory. Default 1.</summary>
    public int Repeat { get; set; } = 1;

    /// <summary>Replace what is held here under <see cref="CheckpointName"/>: it is held and served until all of the new one is here and checked, and freed when its readers are done. Into a directory: what is there is an earlier version, of which chunks that have the digests of the new one are kept instead of read (it is read from disk for that). Default false: the name must be free, and a directory is read anew.</summary>
    public bool Replace { get; set; }

    /// <summary>
    /// An earlier version that this server holds under that name: what its owners' digests say is the same is copied from it instead of read. Null (the
    /// default) for none. Into memory or a directory, with digests; else it is not used.
    /// </summary>
    public string? EarlierCheckpoint { get; set; }

    /// <summary>Keep the partial directory of a failed join; the next join to the same place takes from it what its owners' digests say is right, as it does when a join was killed.</summary>
    public bool KeepPartial { get; set; }
}
