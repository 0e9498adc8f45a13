using System.Buffers;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;
using CheckpointEngine.Peers;
using CheckpointEngine.Relay;
using CheckpointEngine.Transfer;
using CheckpointEngine.Transfer.Rdma;

namespace CheckpointEngine.Fuzz.Support;

/// <summary>What a fuzzed peer service answers from: one checkpoint, its tensors at addresses that inputs can name.</summary>
internal sealed class FuzzedHolder : IPeerResponder, IDisposable
{
    internal const string CheckpointName = "fuzz";

    // Tensor i starts here + i * AddressStep.
    private const ulong FirstAddress = 0x1000;
    private const ulong AddressStep = 0x1000;

    private readonly RelayOffer _offer;
    private readonly HeldCheckpoint _checkpoint;
    private readonly CheckpointDigests _digests;
    private readonly MemoryBuffer _memory;
    private readonly PublishedMetas _metas;
    private RegisteredRange _range;

    internal FuzzedHolder()
    {
        using var tensors = new TensorTableBuilder();
        using var metas = new CheckpointMetasBuilder();
        long size = 0;
        foreach ((string name, long length) in ((string, long)[])[("empty", 0), ("small", 8), ("two chunks", TensorDigest.ChunkBytes + 1)])
        {
            tensors.Add(System.Text.Encoding.UTF8.GetBytes(name), TensorDtype.U8, [length], length, size);
            metas.AddTensor(System.Text.Encoding.UTF8.GetBytes(name), TensorDtype.U8, [length], length);
            size += length;
        }
        metas.EndBuffer(FirstAddress, size);
        metas.EndOwner(0, "127.0.0.1:1", "");
        _metas = new PublishedMetas(metas.Build(), "\"1\"");
        TensorTable table = tensors.Build();
        _memory = MemoryBuffer.AllocateAnonymous(size);
        _checkpoint = new HeldCheckpoint(CheckpointName, table, [new HeldBuffer(_memory, 0, size, 0, table.Count)], [new SideFile("config.json", "{}"u8.ToArray())], []);
        _digests = new CheckpointDigests(table, DigestAlgorithm.Xxh3);
        _range = NewRange();
        var board = new UnitBoard([8, 8, 8], 1, new Random(0));
        board.Complete(2, offer: true);
        board.Complete(0, offer: true);
        _offer = new RelayOffer(1, board, [FirstAddress, 0, FirstAddress + AddressStep]);
    }

    /// <summary>Told when somebody asks for the offer: three units of layout 1, of which two are here.</summary>
    internal Action? Offering { get; set; }

    public string Instance => "fuzzed";

    public DigestAlgorithm Digest => DigestAlgorithm.Xxh3;

    public PublishedMetas GetMetas(string name)
        => name == CheckpointName ? _metas : throw new CheckpointEngineException(CheckpointError.NotFound, $"no checkpoint is called {Internal.MessageText.Quote(name)}");

    public HeldTensor? AcquireTensor(ulong address, ulong lengthBytes)
    {
        ulong tensor = (address - FirstAddress) / AddressStep;
        return address % AddressStep == 0 && tensor < (ulong)_checkpoint.Tensors.Count && (ulong)_checkpoint.Tensors.GetByteLength((int)tensor) == lengthBytes && _range.TryBeginRead()
            ? new HeldTensor(_checkpoint, _digests, 1, (int)tensor, _range)
            : null;
    }

    public IReadOnlyList<SideFile>? FindSideFiles(ulong address) => address % AddressStep == 0 ? _checkpoint.SideFiles : null;

    public HeldMemory AcquireMemory(ulong address, ulong lengthBytes, PeerCredentials peer)
        => throw new CheckpointEngineException(CheckpointError.NotFound, "nothing is handed over");

    public Task<PublishedMetas> WaitForMetasAsync(string name, string entityTag, CancellationToken cancellationToken) => Task.FromResult(GetMetas(name));

    public ReadLease? TryLease(ulong address, string peer) => address % AddressStep == 0 ? new ReadLease(1, static () => 1) : null;

    public void OfferRdma(ReadLease lease, ReadOnlySpan<byte> conversationKey, IBufferWriter<byte> answer)
    {
        answer.Write(RdmaKey.Make(conversationKey, 1, new byte[RdmaKey.SaltBytes]).Secret);
        answer.Write("0123456789abcdef{}\n"u8);
    }

    public RelayOffer? FindOffer(UInt128 layout)
    {
        Offering?.Invoke();
        return layout == _offer.Layout ? _offer : null;
    }

    /// <summary>Whether every tensor that was lent since the last call came back, and nobody reads the offer.</summary>
    internal bool TakeBack()
    {
        _range.Close();
        bool isBack = _range.Drained.IsCompleted;
        _range = NewRange();
        return isBack && _offer.Readers == 0;
    }

    public void Dispose() => _checkpoint.Dispose();

    private RegisteredRange NewRange() => new(_memory, FirstAddress, AddressStep * 3, null);
}
