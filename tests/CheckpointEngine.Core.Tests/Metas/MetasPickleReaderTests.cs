using System.Diagnostics;
using System.Text;
using CheckpointEngine.Checkpoints;
using CheckpointEngine.Metas;

namespace CheckpointEngine.Tests;

public class MetasPickleReaderTests
{
    private static CheckpointEngineException Refuse(CheckpointError error, byte[] pickle)
    {
        var refused = Assert.Throws<CheckpointEngineException>(() => MetasPickleReader.Read(pickle));
        Assert.Equal(error, refused.Error);
        Assert.Matches(error == CheckpointError.InvalidData ? "^metas pickle: .*at byte " : "^metas pickle: .*at byte |^metas: (buffer|tensor|the buffer)", refused.Message);
        return refused;
    }

    /// <summary>Opcodes as Latin-1 text after PROTO 4, the way Python's documentation writes them.</summary>
    private static byte[] Code(string opcodes) => [0x80, 4, .. Encoding.Latin1.GetBytes(opcodes)];

    private static string Text(string text) => $"\u008c{(char)Encoding.UTF8.GetByteCount(text)}{Encoding.Latin1.GetString(Encoding.UTF8.GetBytes(text))}";

    private static string Model(string name, string fields) => $"{Text("checkpoint_engine.data_types")}{Text(name)}\u0093)\u0081}}({Text("__dict__")}}}({fields}uub";

    private static string Tensor(string name = "w", string dtype = "torch\nint8\n", string shape = "K\u0003\u0085", string more = "")
        => Model("ParameterMeta", $"{Text("name")}{Text(name)}{Text("dtype")}c{dtype}{Text("shape")}ctorch\nSize\n{shape}\u0085R{more}");

    private static string Owner(string tensors, string pointer = "K\u0000", string size = "M\u0000\u0002", string rank = "K\u0000")
        => $"}}({rank}{Model("MemoryBufferMetaList", $"{Text("p2p_store_addr")}N{Text("memory_buffer_metas_list")}]({Model("MemoryBufferMetas", $"{Text("metas")}]({tensors}e{Text("ptr")}{pointer}{Text("size")}{size}")}e")}u.";

    [Fact]
    public void Read_FileOfAnOlderVersion_RoundsSlotsAndHasNoDevice()
    {
        CheckpointMetas metas = MetasPickleReader.Read(Code(Owner(Tensor() + Tensor("v", "torch\nbfloat16\n", "(K\u0008K\u0008K\u0001K\u0001t"))));
        Assert.Equal("rank 0 null null\n buffer 0 512\n  w torch.int8 [3] 256 at 0 None\n  v torch.bfloat16 [8,8,1,1] 256 at 256 None\n",
            MetasSamples.Describe(metas).ReplaceLineEndings("\n"));
    }

    [Theory]
    [InlineData("cos\nsystem\n(Vls\ntR.", "'os' 'system'")]
    [InlineData("cposix\nsystem\n.", "'posix' 'system'")]
    [InlineData("cbuiltins\neval\n.", "'builtins' 'eval'")]
    [InlineData("c__builtin__\ngetattr\n.", "'getattr'")]
    [InlineData("ctorch._utils\n_rebuild_tensor_v2\n.", "'torch._utils'")]
    [InlineData("ctorch\nload\n.", "'load'")]
    [InlineData("ctorch\nint_repr\n.", "'int_repr'")]
    [InlineData("ctorch\nfloat32.__class__\n.", "'float32.__class__'")]
    [InlineData("ccheckpoint_engine.data_types\nMemoryBuffer\n.", "'MemoryBuffer'")]
    [InlineData("ccopyreg\n_reconstructor\n.", "'copyreg'")]
    public void Read_ForeignGlobal_IsRefusedByName(string opcodes, string name)
        => Assert.Contains(name, Refuse(CheckpointError.InvalidData, Code(opcodes)).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("I1\n.", "INT")]
    [InlineData("Vx\n.", "UNICODE")]
    [InlineData("S'x'\n.", "STRING")]
    [InlineData("Pid\n.", "PERSID")]
    [InlineData("NQ.", "BINPERSID")]
    [InlineData("(ios\nsystem\n.", "INST")]
    [InlineData("(o.", "OBJ")]
    [InlineData("\u0082\u0001.", "EXT1")]
    [InlineData("\u0091.", "FROZENSET")]
    [InlineData("\u0092.", "NEWOBJ_EX")]
    [InlineData("\u0097.", "NEXT_BUFFER")]
    [InlineData("N2.", "DUP")]
    [InlineData("G\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0000.", "BINFLOAT")]
    [InlineData("B\u0000\u0000\u0000\u0000.", "BINBYTES")]
    [InlineData("\u008b\u0000\u0000\u0000\u0000.", "LONG4")]
    [InlineData("\u00ff.", "0xff")]
    [InlineData("\u0080\u0004}.", "PROTO")]
    public void Read_ForeignOpcode_IsRefusedByNameAndOffset(string opcodes, string name)
    {
        string message = Refuse(CheckpointError.InvalidData, Code(opcodes)).Message;
        Assert.Contains($"refuses opcode {name} (at byte ", message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(".")]                         // nothing on the stack
    [InlineData("}}.")]                       // two objects
    [InlineData("}(.")]                       // an open mark
    [InlineData("}.x")]                       // bytes behind the end
    [InlineData("0}.")]                       // POP of nothing
    [InlineData("e}.")]                       // APPENDS without a mark
    [InlineData("](K\u0001K\u0002u.")]        // SETITEMS of a list
    [InlineData("}(K\u0001u.")]               // a key without a value
    [InlineData("}(]Nu.")]                    // an unhashable key
    [InlineData("}(NNu.")]
    [InlineData("}K\u0001a.")]                // APPEND to a dict
    [InlineData("h\u0000.")]                  // an empty memo
    [InlineData("}r\u00ff\u00ff\u00ff\u007f.")]  // a memo entry far away
    [InlineData("\u0094}.")]                  // MEMOIZE of nothing
    [InlineData("(K\u0001\u0086.")]           // a tuple reaching below the mark
    [InlineData("]\u0093.")]
    [InlineData("NN\u0081.")]
    [InlineData("NNR.")]
    [InlineData("N}b.")]
    [InlineData("X\u00ff\u00ff\u00ff\u00ff.")]
    [InlineData("\u008d\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff.")]
    [InlineData("\u0095\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u007f}.")]
    [InlineData("\u008a\u000a0123456789.")]
    [InlineData("\u008f(Ke\u0090.")]          // a set of integers
    [InlineData("ctorch\nSize\n]\u0085R.")]
    [InlineData("ctorch\nSize\n)R.")]
    [InlineData("cbuiltins\nset\n](K\u0001e\u0085R.")]
    [InlineData("ctorch\nint8\n)\u0081.")]
    public void Read_BrokenProgram_IsInvalidData(string opcodes) => Refuse(CheckpointError.InvalidData, Code(opcodes));

    [Theory]
    [InlineData("N.")]
    [InlineData("].")]
    [InlineData("ctorch\nint8\n.")]
    [InlineData("}K\u0001Ns.")]
    [InlineData("}\u008c\u00010Ns.")]
    [InlineData("}J\u00ff\u00ff\u00ff\u00ffNs.")]
    [InlineData("}K\u0001ccheckpoint_engine.data_types\nMemoryBufferMetaList\n)\u0081s.")]             // no state
    [InlineData("}K\u0001ccheckpoint_engine.data_types\nMemoryBufferMetaList\n)\u0081}bs.")]           // no fields
    [InlineData("}K\u0001ccheckpoint_engine.data_types\nParameterMeta\n)\u0081}bs.")]                  // of another class
    public void Read_OtherObjects_IsWrongShape(string opcodes) => Refuse(CheckpointError.WrongShape, Code(opcodes));

    [Fact]
    public void Read_WrongTensorOrBuffer_IsWrongShape()
    {
        Refuse(CheckpointError.WrongShape, Code(Owner("N")));
        Refuse(CheckpointError.WrongShape, Code(Owner(Tensor(shape: "(" + string.Concat(Enumerable.Repeat("K\u0001", 65)) + "t"))));
        Refuse(CheckpointError.WrongShape, Code(Owner(Tensor(shape: "N\u0085"))));
        Refuse(CheckpointError.WrongShape, Code(Owner(Tensor(shape: "\u0088\u0085"))));
        Refuse(CheckpointError.WrongShape, Code(Owner(Tensor(shape: "J\u00ff\u00ff\u00ff\u00ff\u0085"))));
        Refuse(CheckpointError.WrongShape, Code(Owner(Tensor(dtype: "torch\nSize\n"))));
        Refuse(CheckpointError.WrongShape, Code(Owner(Tensor(dtype: "torch\nbits8\n"))));                                      // and no aligned_size
        Refuse(CheckpointError.WrongShape, Code(Owner(Tensor(more: Text("aligned_size") + "K\u0002"))));
        Refuse(CheckpointError.WrongShape, Code(Owner(Tensor(more: Text("name") + Text("v")))));
        Refuse(CheckpointError.WrongShape, Code(Owner(Tensor(), size: "K\u0002")));
        Refuse(CheckpointError.WrongShape, Code(Owner(Tensor(), pointer: "\u008a\u0009\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0001")));    // 2^64
        Refuse(CheckpointError.WrongShape, Code(Owner(Tensor(), pointer: "\u008a\u0008\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0080")));          // -2^63
        Refuse(CheckpointError.WrongShape, Code(Owner(Tensor(), pointer: "N")));
        Refuse(CheckpointError.WrongShape, Code(Owner("", rank: "\u008a\u0004\u0000\u0000\u0000\u0080")));

        byte[] notUtf8 = Code(Owner(Tensor("w")));
        notUtf8[notUtf8.AsSpan().IndexOf("\u008c\u0001w"u8[1..]) + 2] = 0xC0;
        Refuse(CheckpointError.WrongShape, notUtf8);
    }

    [Fact]
    public void Read_LongIntegersOfEachLength_AreRead()
    {
        foreach ((string code, ulong expected) in (ReadOnlySpan<(string, ulong)>)[
            ("\u008a\u0000", 0), ("\u008a\u0001\u0007", 7), ("\u008a\u0002\u00ff\u0000", 255), ("\u008a\u0007\u0000\u0000\u0000\u0000\u0000\u0000\u0001", 1UL << 48),
            ("\u008a\u0008\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0040", 1UL << 62), ("\u008a\u0009\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0080\u0000", 1UL << 63)])
        {
            Assert.Equal(expected, MetasPickleReader.Read(Code(Owner("", code))).Owners[0].Buffers[0].Address);
        }
    }

    [Theory]
    [InlineData("__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__")]
    [InlineData("__dict__", "__fields_set__", "__private_attribute_values__")]
    [InlineData("__dict__")]
    public void Read_StateOfEitherPydantic_IsRead(params string[] keys)
    {
        string state = string.Concat(keys.Select(key => Text(key) + key switch
        {
            "__dict__" => $"}}({Text("memory_buffer_metas_list")}]{Text("p2p_store_addr")}{Text("h:1")}u",
            "__pydantic_fields_set__" or "__fields_set__" => $"\u008f({Text("p2p_store_addr")}\u0090",
            "__private_attribute_values__" => "}",
            _ => "N",
        }));
        CheckpointMetas metas = MetasPickleReader.Read(Code($"}}K\u0005ccheckpoint_engine.data_types\nMemoryBufferMetaList\n)\u0081}}({state}ubs."));
        Assert.Equal("h:1", metas.FindOwner(5)!.P2pStoreAddress);
    }

    [Fact]
    public void Read_UnknownTypeWithSlotAndUnknownFields_AreRead()
    {
        CheckpointMetas metas = MetasPickleReader.Read(Code(Owner(Tensor(dtype: "torch\nfloat4_e2m1fn_x2\n", more: $"{Text("aligned_size")}K\u0009{Text("stride")}({Text("x")}\u0088}}t"))));
        Assert.Equal("torch.float4_e2m1fn_x2", metas.Tensors.GetDtypeName(0));
        Assert.Equal(TensorDtype.Unknown, metas.Tensors.GetDtype(0));
        Assert.Equal(9, metas.Tensors.GetByteLength(0));
    }

    [Fact]
    public void Read_ObjectsThatContainThemselves_AreRefused()
    {
        Refuse(CheckpointError.WrongShape, Code("]\u0094h\u0000a."));
        Refuse(CheckpointError.WrongShape, Code("}\u0094K\u0000h\u0000s."));
        Refuse(CheckpointError.WrongShape, Code($"}}K\u0000{Model("MemoryBufferMetaList", Text("memory_buffer_metas_list") + "]\u0094h\u0000a")}s."));
        Refuse(CheckpointError.WrongShape, Code($"}}K\u0000ccheckpoint_engine.data_types\nMemoryBufferMetaList\n)\u0081\u0094}}({Text("memory_buffer_metas_list")}](h\u0000eubs."));
        Refuse(CheckpointError.WrongShape, Code("}\u0094(" + Text("__dict__") + "h\u0000u0ccheckpoint_engine.data_types\nParameterMeta\n)\u0081h\u0000b."));
    }

    [Fact]
    public void Read_ObjectsUsedAgainAndAgain_AreRefusedInBoundedTimeAndMemory()
    {
        // One tensor of a long name, once in memory, a million times in a list of a buffer that a thousand owners share.
        string longName = new('n', 60_000);
        var code = new StringBuilder();
        code.Append("X\u0060\u00ea\u0000\u0000").Append(longName).Append("\u00940");                                              // memo 0: the name
        code.Append(Model("ParameterMeta", $"{Text("name")}h\u0000{Text("dtype")}ctorch\nint8\n{Text("shape")}ctorch\nSize\n)\u0085R{Text("aligned_size")}K\u0001")).Append("\u00940");
        code.Append("]\u0094(").Append(string.Concat(Enumerable.Repeat("h\u0001", 1_000_000))).Append("e0");                        // memo 2: the tensors
        code.Append(Model("MemoryBufferMetas", $"{Text("metas")}h\u0002{Text("ptr")}K\u0000{Text("size")}J\u0000\u0000\u0000\u0040")).Append("\u00940");
        code.Append("]\u0094(").Append(string.Concat(Enumerable.Repeat("h\u0003", 100_000))).Append("e0");                          // memo 4: the buffers
        code.Append(Model("MemoryBufferMetaList", $"{Text("memory_buffer_metas_list")}h\u0004")).Append("\u00940");
        code.Append("}(");
        for (int rank = 0; rank < 1000; rank++)
        {
            code.Append('M').Append((char)(rank & 255)).Append((char)(rank >> 8)).Append("h\u0005");
        }
        byte[] pickle = Code(code.Append("u.").ToString());
        var watch = Stopwatch.StartNew();
        long before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Contains("so often", Refuse(CheckpointError.WrongShape, pickle).Message, StringComparison.Ordinal);
        Assert.True(GC.GetAllocatedBytesForCurrentThread() - before < 1 << 20);
        Assert.True(watch.Elapsed < TimeSpan.FromSeconds(5), $"{watch.Elapsed}");
    }

    [Theory]
    [InlineData("state")]
    [InlineData("fields")]
    [InlineData("set")]
    public void Read_OneLongContainerUsedByManyObjects_IsRefusedInBoundedTime(string what)
    {
        string entries = string.Concat(Enumerable.Range(0, 50_000).Select(i => what == "set" ? Text("x") : Text("x" + i) + "K\u0001"));
        string use = what switch
        {
            "state" => "ccheckpoint_engine.data_types\nParameterMeta\n)\u0081h\u0000b",
            "fields" => $"ccheckpoint_engine.data_types\nParameterMeta\n)\u0081}}{Text("__dict__")}h\u0000sb",
            _ => "cbuiltins\nset\nh\u0000\u0085R",
        };
        string container = what == "set" ? $"]\u0094({entries}e0" : $"}}\u0094({entries}u0";
        byte[] pickle = Code(what == "fields"
            ? $"{container}}}K\u0000{Model("MemoryBufferMetaList", $"{Text("memory_buffer_metas_list")}]({Model("MemoryBufferMetas", $"{Text("metas")}]({string.Concat(Enumerable.Repeat(use, 50_000))}e{Text("ptr")}K\u0000{Text("size")}K\u0000")}e")}s."
            : $"{container}({string.Concat(Enumerable.Repeat(use, 50_000))}t.");
        var watch = Stopwatch.StartNew();
        Refuse(what == "fields" ? CheckpointError.WrongShape : CheckpointError.InvalidData, pickle);
        Assert.True(watch.Elapsed < TimeSpan.FromSeconds(5), $"{watch.Elapsed}");
    }

    [Fact]
    public void Read_ManyMarksOrDeepNesting_IsRefusedInBoundedTime()
    {
        Refuse(CheckpointError.InvalidData, Code(new string('(', 1_000_000)));
        Refuse(CheckpointError.WrongShape, Code(")" + new string('\u0085', 1_000_000) + "."));
        Refuse(CheckpointError.InvalidData, Code(new string(']', 1_000_000) + "."));
        Refuse(CheckpointError.WrongShape, Code(new string(']', 1_000_000) + new string('a', 999_999) + "."));
    }

    [Fact]
    public void Read_ProtocolsBeyondOurs_AreRefused()
    {
        foreach (byte protocol in (byte[])[0, 1, 6, 255])
        {
            Refuse(CheckpointError.InvalidData, [0x80, protocol, (byte)'}', (byte)'.']);
        }
        Refuse(CheckpointError.InvalidData, []);
        Refuse(CheckpointError.InvalidData, [0x80]);
        Refuse(CheckpointError.InvalidData, "}."u8.ToArray());
    }

    [Fact]
    public void Write_DtypeNameOfAStranger_NamesNoGlobal()
    {
        CheckpointMetas metas = MetasJsonReader.Read("""
            {"0":{"memory_buffer_metas_list":[{"metas":[{"name":"a","dtype":"torch.os.system","shape":[3],"aligned_size":7},{"name":"b","dtype":"torch.load\nR","shape":[3],"aligned_size":7},
            {"name":"c","dtype":"torch.bits16","shape":[3],"aligned_size":7}],"ptr":0,"size":21}]}}
            """u8);
        foreach (int protocol in MetasSamples.Protocols)
        {
            CheckpointMetas read = MetasPickleReader.Read(MetasSamples.Pickle(metas, protocol));
            Assert.Equal(["torch.uint8", "torch.uint8", "torch.bits16"], Enumerable.Range(0, 3).Select(read.Tensors.GetDtypeName));
            Assert.Equal([7], read.Tensors.GetShape(0).ToArray());
        }
    }

    [Fact]
    public void Write_ProtocolsBeyondOurs_AreRefused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => MetasSamples.Pickle(CheckpointMetas.Empty, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => MetasSamples.Pickle(CheckpointMetas.Empty, 6));
    }
}
