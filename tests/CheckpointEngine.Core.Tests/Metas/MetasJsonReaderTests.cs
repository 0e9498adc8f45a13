using System.Diagnostics;
using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Tests;

public class MetasJsonReaderTests
{
    private const string Tensor = """{"name":"w","dtype":"torch.int8","shape":[3],"aligned_size":256}""";

    private static string Document(string tensor = Tensor, string pointer = "4096", string size = "512")
        => $$$"""{"7":{"p2p_store_addr":"h:1","memory_buffer_metas_list":[{"metas":[{{{tensor}}}],"ptr":{{{pointer}}},"size":{{{size}}}}],"rdma_device":""}}""";

    private static CheckpointMetas Read(string json) => MetasJsonReader.Read(Encoding.UTF8.GetBytes(json));

    private static CheckpointMetas ReadPieces(byte[] json, int pieceBytes)
        => MetasJsonReader.ReadAsync(new TricklingStream(json, pieceBytes), 10 << 20, CancellationToken.None).AsTask().GetAwaiter().GetResult();

    private static CheckpointEngineException Refuse(CheckpointError error, byte[] json)
    {
        var whole = Assert.Throws<CheckpointEngineException>(() => MetasJsonReader.Read(json));
        var pieces = Assert.Throws<CheckpointEngineException>(() => ReadPieces(json, 3));
        Assert.Equal(error, whole.Error);
        Assert.Equal(error, pieces.Error);
        return whole;
    }

    [Theory]
    [InlineData("")]
    [InlineData("  ")]
    [InlineData("{")]
    [InlineData("{}}")]
    [InlineData("{} {}")]
    [InlineData("{},")]
    [InlineData("{'0':1}")]
    [InlineData("// comment\n{}")]
    [InlineData("{\"0\":{\"p2p_store_addr\":\"h\",}}")]
    [InlineData("{\"0\":{\"x\":[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}}")]
    [InlineData("\ufeff{}")]
    [InlineData("{\"0\":NaN}")]
    [InlineData("{\"0\":{\"p2p_store_addr\":\"\u0001\"}}")]
    public void Read_NotJson_IsInvalidDataWithOffset(string json)
        => Assert.Contains("at byte ", Refuse(CheckpointError.InvalidData, Encoding.UTF8.GetBytes(json)).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("[]")]
    [InlineData("null")]
    [InlineData("1")]
    [InlineData("{\"0\":null}")]
    [InlineData("{\"0\":[]}")]
    [InlineData("{\"0\":{}}")]
    [InlineData("{\"x\":{\"memory_buffer_metas_list\":[]}}")]
    [InlineData("{\"-1\":{\"memory_buffer_metas_list\":[]}}")]
    [InlineData("{\"00\":{\"memory_buffer_metas_list\":[]}}")]
    [InlineData("{\"\":{\"memory_buffer_metas_list\":[]}}")]
    [InlineData("{\"2147483648\":{\"memory_buffer_metas_list\":[]}}")]
    [InlineData("{\"0\":{\"memory_buffer_metas_list\":[]},\"0\":{\"memory_buffer_metas_list\":[]}}")]
    [InlineData("{\"0\":{\"memory_buffer_metas_list\":[],\"memory_buffer_metas_list\":[]}}")]
    [InlineData("{\"0\":{\"memory_buffer_metas_list\":{}}}")]
    [InlineData("{\"0\":{\"memory_buffer_metas_list\":[null]}}")]
    [InlineData("{\"0\":{\"memory_buffer_metas_list\":[{}]}}")]
    [InlineData("{\"0\":{\"memory_buffer_metas_list\":[{\"metas\":[],\"ptr\":1}]}}")]
    [InlineData("{\"0\":{\"memory_buffer_metas_list\":[{\"metas\":[],\"size\":1}]}}")]
    [InlineData("{\"0\":{\"memory_buffer_metas_list\":[{\"metas\":null,\"ptr\":1,\"size\":1}]}}")]
    [InlineData("{\"0\":{\"memory_buffer_metas_list\":[],\"p2p_store_addr\":1}}")]
    [InlineData("{\"0\":{\"memory_buffer_metas_list\":[],\"rdma_device\":[]}}")]
    [InlineData("{\"0\":{\"memory_buffer_metas_list\":[],\"rdma_device\":\"\\udead\"}}")]
    public void Read_JsonOfAnotherShape_IsWrongShapeWithOffset(string json)
        => Assert.Contains("at byte ", Refuse(CheckpointError.WrongShape, Encoding.UTF8.GetBytes(json)).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("1")]
    [InlineData("{}")]
    [InlineData("""{"name":1,"dtype":"torch.int8","shape":[3]}""")]
    [InlineData("""{"name":null,"dtype":"torch.int8","shape":[3]}""")]
    [InlineData("""{"dtype":"torch.int8","shape":[3]}""")]
    [InlineData("""{"name":"w","shape":[3]}""")]
    [InlineData("""{"name":"w","dtype":"torch.int8"}""")]
    [InlineData("""{"name":"w","dtype":8,"shape":[3]}""")]
    [InlineData("""{"name":"w","name":"w","dtype":"torch.int8","shape":[3]}""")]
    [InlineData("""{"name":"w","dtype":"torch.int8","shape":[3],"shape":[3]}""")]
    [InlineData("""{"name":"w","dtype":"torch.int8","shape":[-3]}""")]
    [InlineData("""{"name":"w","dtype":"torch.int8","shape":[3.0]}""")]
    [InlineData("""{"name":"w","dtype":"torch.int8","shape":[3e0]}""")]
    [InlineData("""{"name":"w","dtype":"torch.int8","shape":[9223372036854775808]}""")]
    [InlineData("""{"name":"w","dtype":"torch.int8","shape":[[3]]}""")]
    [InlineData("""{"name":"w","dtype":"torch.int8","shape":3}""")]
    [InlineData("""{"name":"w","dtype":"torch.int8","shape":[9223372036854775807]}""")]
    [InlineData("""{"name":"w","dtype":"torch.strange","shape":[3]}""")]
    [InlineData("""{"name":"w","dtype":"int8","shape":[3],"aligned_size":256}""")]
    [InlineData("""{"name":"w","dtype":"","shape":[3],"aligned_size":256}""")]
    [InlineData("""{"name":"w","dtype":"torch.int8","shape":[3],"aligned_size":"256"}""")]
    [InlineData("""{"name":"\ud800","dtype":"torch.int8","shape":[3]}""")]
    [InlineData("""{"name":"w","dtype":"torch.int8","shape":[3],"digest":"xxh3-128/4m:12"}""")]
    [InlineData("""{"name":"w","dtype":"torch.int8","shape":[3],"digest":"sha256/4m:zz345678901234567890123456789012"}""")]
    [InlineData("""{"name":"w","dtype":"torch.int8","shape":[3],"digest":5}""")]
    [InlineData("""{"name":"w","dtype":"torch.uint8","shape":[3],"safetensors_dtype":"F4"}""")]
    [InlineData("""{"name":"w","dtype":"torch.uint8","shape":[3],"safetensors_shape":[6]}""")]
    [InlineData("""{"name":"w","dtype":"torch.uint8","shape":[3],"safetensors_dtype":"F4","safetensors_shape":[5]}""")]
    [InlineData("""{"name":"w","dtype":"torch.uint8","shape":[3],"safetensors_dtype":"F4","safetensors_shape":[8]}""")]
    [InlineData("""{"name":"w","dtype":"torch.int8","shape":[3],"safetensors_dtype":"F4","safetensors_shape":[6]}""")]
    public void Read_WrongTensor_IsWrongShapeWithOffset(string tensor)
        => Assert.Contains("at byte ", Refuse(CheckpointError.WrongShape, Encoding.UTF8.GetBytes(Document(tensor))).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("-1", "512")]
    [InlineData("1.5", "512")]
    [InlineData("18446744073709551616", "512")]
    [InlineData("18446744073709551615", "512")]
    [InlineData("4096", "255")]
    [InlineData("4096", "-1")]
    [InlineData("4096", "9223372036854775808")]
    public void Read_WrongBuffer_IsWrongShape(string pointer, string size)
        => Refuse(CheckpointError.WrongShape, Encoding.UTF8.GetBytes(Document(pointer: pointer, size: size)));

    [Fact]
    public void Read_SlotSmallerThanTensorOrAByteWithManyNames_IsWrongShape()
    {
        Refuse(CheckpointError.WrongShape, Encoding.UTF8.GetBytes(Document("""{"name":"w","dtype":"torch.int8","shape":[3],"aligned_size":2}""")));
        _ = Read("""{"0":{"memory_buffer_metas_list":[{"metas":[],"ptr":100,"size":50},{"metas":[],"ptr":60,"size":41},{"metas":[],"ptr":120,"size":0}]}}""");   // tied weights
        string name = """{"metas":[],"ptr":100,"size":50}""";
        _ = Read($$$"""{"0":{"memory_buffer_metas_list":[{{{string.Join(',', Enumerable.Repeat(name, 8))}}}]}}""");
        Refuse(CheckpointError.WrongShape, Encoding.UTF8.GetBytes($$$"""{"0":{"memory_buffer_metas_list":[{{{string.Join(',', Enumerable.Repeat(name, 9))}}}]}}"""));
        Refuse(CheckpointError.WrongShape, """{"0":{"memory_buffer_metas_list":[{"metas":[],"ptr":0,"size":9223372036854775807},{"metas":[],"ptr":9223372036854775807,"size":1}]}}"""u8.ToArray());
    }

    [Fact]
    public void Read_NameThatIsNotUtf8_IsInvalidData()
    {
        byte[] json = Encoding.UTF8.GetBytes(Document());
        json[json.AsSpan().IndexOf("\"w\""u8) + 1] = 0xC0;
        Refuse(CheckpointError.InvalidData, json);
    }

    [Fact]
    public void Read_UnknownMembersAtEachLevelAndAnyOrder_AreSkipped()
    {
        CheckpointMetas metas = Read("""
              { "3" : { "rdma_device":"a,b", "future":{"x":[1,{"y":[]}],"rdma_device":null},
              "memory_buffer_metas_list":[ {"size":512,"ptr":18446744073709551103,"kind":"hbm","metas":[
                {"stride":[1,[2]],"aligned_size":256,"shape":[],"n\u0061me":"a\ud83d\ude00\"","dtype":"torch.float32"},
                {"shape":[2,3],"name":"b","dtype":"torch.bfloat16","extra":1.5e300}]} ],
              "p2p_store_addr":"[::1]:9" }, "1":{"memory_buffer_metas_list":[]} }
            """);
        Assert.Equal([1, 3], metas.Owners.ToArray().Select(owner => owner.Rank));
        Assert.Equal("""
            rank 1 null null
            rank 3 [::1]:9 a,b
             buffer fffffffffffffdff 512
              a😀" torch.float32 [] 256 at 0 None
              b torch.bfloat16 [2,3] 256 at 256 None

            """.ReplaceLineEndings(), MetasSamples.Describe(metas));
    }

    [Fact]
    public void Read_TypesOfOursAndDigests_AreTurnedBack()
    {
        CheckpointMetas metas = Read(Document("""
            {"name":"a","dtype":"torch.uint8","shape":[3],"safetensors_dtype":"F6_E2M3","safetensors_shape":[2,2],"digest":"xxh3-128/4m:00112233445566778899aabbccddeeff"},
            {"name":"b","dtype":"torch.uint8","shape":[3],"safetensors_dtype":"F3_NEXT","safetensors_shape":[8],"digest":"blake9/1g:00"},
            {"name":"c","dtype":"torch.float4_e2m1fn_x2","shape":[3],"aligned_size":0,"digest":null}
            """));
        Assert.Equal(TensorDtype.F6E2M3, metas.Tensors.GetDtype(0));
        Assert.Equal([2, 2], metas.Tensors.GetShape(0).ToArray());
        Assert.Equal("00112233445566778899AABBCCDDEEFF", Convert.ToHexString(metas.GetDigest(0)));
        Assert.Equal(TensorDtype.U8, metas.Tensors.GetDtype(1));
        Assert.Equal(DigestAlgorithm.None, metas.GetDigestAlgorithm(1));
        Assert.Equal(TensorDtype.Unknown, metas.Tensors.GetDtype(2));
        Assert.Equal("torch.float4_e2m1fn_x2", metas.Tensors.GetDtypeName(2));
    }

    [Theory]
    [InlineData(64 << 10, true)]
    [InlineData((64 << 10) + 1, false)]
    public void Read_NameOf64KiB_IsTheLongest(int length, bool isRead)
    {
        foreach (string letter in (string[])["x", "\\u0078"])
        {
            string json = Document($$"""{"name":"{{string.Concat(Enumerable.Repeat(letter, length))}}","dtype":"torch.int8","shape":[3]}""");
            if (isRead)
            {
                Assert.Equal(length, Read(json).Tensors.GetNameUtf8(0).Length);
                byte[] utf8 = Encoding.UTF8.GetBytes(json);
                Assert.Equal(1, ReadPieces(utf8, 1000).Tensors.Count);
            }
            else
            {
                Refuse(length * letter.Length > MetasJsonParser.MaxTokenBytes ? CheckpointError.InvalidData : CheckpointError.WrongShape, Encoding.UTF8.GetBytes(json));
            }
        }
    }

    [Fact]
    public void Read_ShapeOf64Dimensions_IsTheLongest()
    {
        string Shape(int count) => $$"""{"name":"w","dtype":"torch.int8","shape":[{{string.Join(',', Enumerable.Repeat(1, count))}}]}""";
        Assert.Equal(64, Read(Document(Shape(64))).Tensors.GetShape(0).Length);
        Refuse(CheckpointError.WrongShape, Encoding.UTF8.GetBytes(Document(Shape(65))));
    }

    [Fact]
    public async Task ReadAsync_BodyAtTheLimitAndBeyond_IsReadAndRefused()
    {
        byte[] json = Encoding.UTF8.GetBytes(Document() + new string(' ', 100));
        Assert.Single((await MetasJsonReader.ReadAsync(new MemoryStream(json), json.Length, CancellationToken.None)).Owners.ToArray());
        var refused = await Assert.ThrowsAsync<CheckpointEngineException>(async () => await MetasJsonReader.ReadAsync(new MemoryStream(json), json.Length - 1, CancellationToken.None));
        Assert.Equal(CheckpointError.InvalidData, refused.Error);
        Assert.Contains($"{json.Length - 1:N0} bytes", refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task ReadAsync_EndlessBody_EndsAtTheLimit()
    {
        foreach (string text in (string[])[" ", "{\"0\":{\"x\":\"" + new string('a', 4 << 20), "{\"0\":{\"x\":[" + string.Concat(Enumerable.Repeat("1,", 4 << 20))])
        {
            var body = new TricklingStream(Encoding.UTF8.GetBytes(text.PadRight(8 << 20)), 1460);
            var watch = Stopwatch.StartNew();
            var refused = await Assert.ThrowsAsync<CheckpointEngineException>(async () => await MetasJsonReader.ReadAsync(body, 2 << 20, CancellationToken.None));
            Assert.Equal(CheckpointError.InvalidData, refused.Error);
            Assert.True(body.ReadCount * 1460L <= (2 << 20) + MetasJsonParser.MaxTokenBytes * 4, $"{body.ReadCount} reads");
            Assert.True(watch.Elapsed < TimeSpan.FromSeconds(30), $"{watch.Elapsed}");
        }
    }

    [Fact]
    public async Task ReadAsync_LongWhiteSpace_IsFine()
    {
        byte[] json = Encoding.UTF8.GetBytes(Document().Replace(":[", ":" + new string('\n', 3 << 20) + "[", StringComparison.Ordinal));
        Assert.Equal(1, (await MetasJsonReader.ReadAsync(new TricklingStream(json, 1 << 16), json.Length, CancellationToken.None)).Tensors.Count);
    }

    [Fact]
    public async Task ReadAsync_Cancelled_Throws()
        => await Assert.ThrowsAnyAsync<OperationCanceledException>(
            async () => await MetasJsonReader.ReadAsync(new TricklingStream([(byte)'{'], 1), 100, new CancellationToken(canceled: true)));

    [Fact]
    public void Read_ManyOwners_IsLinear()
    {
        string owners = string.Join(',', Enumerable.Range(0, 200_000).Select(rank => $"\"{rank}\":{{\"memory_buffer_metas_list\":[]}}"));
        var watch = Stopwatch.StartNew();
        Assert.Equal(200_000, Read($"{{{owners}}}").Owners.Length);
        Assert.True(watch.Elapsed < TimeSpan.FromSeconds(30), $"{watch.Elapsed}");
    }

    [Fact]
    public void Read_ForgedLogLineInAName_IsNotInTheMessage()
    {
        var refused = Refuse(CheckpointError.WrongShape, Encoding.UTF8.GetBytes(Document("""{"name":"w\nERROR forged","dtype":"torch.int8","shape":[3],"aligned_size":1}""")));
        Assert.DoesNotContain('\n', refused.Message);
    }
}
