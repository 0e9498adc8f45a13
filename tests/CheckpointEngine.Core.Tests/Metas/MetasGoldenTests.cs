using CheckpointEngine.Metas;

namespace CheckpointEngine.Tests;

public class MetasGoldenTests
{
    public static TheoryData<string, int> Pickles
    {
        get
        {
            var data = new TheoryData<string, int>();
            foreach (string name in MetasSamples.GoldenNames)
            {
                foreach (int protocol in MetasSamples.Protocols)
                {
                    data.Add(name, protocol);
                }
            }
            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Pickles))]
    public void Read_GoldenPickle_EqualsItsJson(string name, int protocol)
    {
        CheckpointMetas expected = MetasJsonReader.Read(MetasSamples.Golden(name + ".json"));
        MetasSamples.AssertEqual(expected, MetasPickleReader.Read(MetasSamples.Golden($"{name}.p{protocol}.pkl")));
        MetasSamples.AssertEqual(expected, MetasDocument.Read(MetasSamples.Golden($"{name}.p{protocol}.pkl")));
    }

    [Theory]
    [MemberData(nameof(Pickles))]
    public void Write_GoldenJsonAsPickle_IsByteForByteTheGoldenPickle(string name, int protocol)
    {
        CheckpointMetas metas = MetasJsonReader.Read(MetasSamples.Golden(name + ".json"));
        Assert.Equal(MetasSamples.Golden($"{name}.p{protocol}.pkl"), MetasSamples.Pickle(metas, protocol));
    }

    [Fact]
    public void Read_TwoRanks_SaysWhatTheFileSays()
    {
        CheckpointMetas metas = MetasDocument.Read(MetasSamples.Golden("two-ranks.json"));
        Assert.Equal([0, 5], metas.Owners.ToArray().Select(owner => owner.Rank));
        Assert.Equal(305, metas.Tensors.Count);
        MetasOwner first = metas.Owners[0];
        Assert.Equal(18446708889337462784, first.Buffers[1].Address);
        int tensor = metas.Tensors.IndexOf("モデル.重み");
        Assert.Equal([3, 0, 2], metas.Tensors.GetShape(tensor).ToArray());
        Assert.Equal("[fe80::1]:15301", metas.FindOwner(5)!.P2pStoreAddress);
        Assert.Null(metas.FindOwner(1));
    }

    [Fact]
    public void Read_OwnerWithoutStore_IsReadButNotLoadable()
    {
        CheckpointMetas metas = MetasDocument.Read(MetasSamples.Golden("no-p2p-store.p4.pkl"));
        Assert.Null(metas.Owners[0].P2pStoreAddress);
        Assert.Equal("", metas.Owners[0].RdmaDevice);
        Assert.Throws<CheckpointEngineException>(metas.ValidateForLoading);
        metas.WithoutEmptyOwners().ValidateForLoading();
    }

    [Theory]
    [InlineData("")]
    [InlineData("  ")]
    [InlineData("[]")]
    [InlineData("PK\u0003\u0004")]
    public void Read_NeitherFormat_NamesBoth(string text)
    {
        var refused = Assert.Throws<CheckpointEngineException>(() => MetasDocument.Read(System.Text.Encoding.UTF8.GetBytes(text)));
        Assert.Equal(CheckpointError.InvalidData, refused.Error);
        Assert.Contains("JSON", refused.Message, StringComparison.Ordinal);
        Assert.Contains("pickle", refused.Message, StringComparison.Ordinal);
    }
}
