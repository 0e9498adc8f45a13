using CheckpointEngine.Metas;
using CsCheck;

namespace CheckpointEngine.Tests;

public class MetasRoundTripTests
{
    [Fact]
    public void Json_RandomMetas_ComeBackEqual() => MetasSamples.Random.Sample(metas =>
    {
        byte[] json = MetasSamples.Json(metas);
        CheckpointMetas read = MetasJsonReader.Read(json);
        Assert.Equal(MetasSamples.Describe(metas), MetasSamples.Describe(read));
        Assert.Equal(json, MetasSamples.Json(read));
        System.Text.Json.JsonDocument.Parse(json).Dispose();
    }, iter: 1000);

    [Fact]
    public void Json_RandomPieces_ReadAsTheWhole() => Gen.Select(MetasSamples.Random, Gen.Int[1, 40]).Sample((metas, pieceBytes) =>
    {
        byte[] json = MetasSamples.Json(metas);
        CheckpointMetas read = MetasJsonReader.ReadAsync(new TricklingStream(json, pieceBytes), json.Length, CancellationToken.None).AsTask().GetAwaiter().GetResult();
        Assert.Equal(MetasSamples.Describe(metas), MetasSamples.Describe(read));
    }, iter: 300);

    [Fact]
    public void Pickle_RandomMetas_ComeBackEqualButForDigestsAndTypesOfOurs() => Gen.Select(MetasSamples.Random, Gen.Int[2, 5]).Sample((metas, protocol) =>
    {
        byte[] pickle = MetasSamples.Pickle(metas, protocol);
        CheckpointMetas read = MetasPickleReader.Read(pickle);
        Assert.Equal(MetasSamples.Describe(metas, asPickled: true), MetasSamples.Describe(read, asPickled: true));
        Assert.Equal(pickle, MetasSamples.Pickle(read, protocol));
    }, iter: 1000);
}
