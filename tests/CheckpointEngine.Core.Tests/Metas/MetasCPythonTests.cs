using System.Diagnostics;
using CheckpointEngine.Metas;
using CsCheck;

namespace CheckpointEngine.Tests;

/// <summary>
/// What we write, loaded by the real CPython over stand-ins of upstream's and torch's classes, and what it writes, read by us.
/// </summary>
public sealed class MetasCPythonTests : IDisposable
{
    // pydantic's pickling contract: a state of four entries, taken back by __setstate__.
    private const string Models = """
        class _Model:
            def __init__(self, **fields):
                self.__dict__.update(fields)
                self.__pydantic_fields_set__ = set(fields)
            __slots__ = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
            def __getstate__(self):
                return {"__dict__": self.__dict__, "__pydantic_extra__": self.__pydantic_extra__,
                        "__pydantic_fields_set__": self.__pydantic_fields_set__, "__pydantic_private__": self.__pydantic_private__}
            def __setstate__(self, state):
                assert list(state) == ["__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__"], state
                for name, value in state.items():
                    object.__setattr__(self, name, value)
                assert self.__pydantic_fields_set__ == set(self.__dict__) and type(self.__pydantic_fields_set__) is set
                assert self.__pydantic_extra__ is None and self.__pydantic_private__ is None
                assert list(self.__dict__) == list(self.FIELDS), self.__dict__
        class ParameterMeta(_Model):
            FIELDS = ("name", "dtype", "shape", "aligned_size")
        class MemoryBufferMetas(_Model):
            FIELDS = ("metas", "ptr", "size")
        class MemoryBufferMetaList(_Model):
            FIELDS = ("p2p_store_addr", "memory_buffer_metas_list", "rdma_device")
        """;

    private const string Torch = """
        import sys
        MODULE = "".join(["tor", "ch"])
        class dtype:
            def __init__(self, name): self.name, self.__module__ = name, MODULE    # not the string that Size has, as in torch
            def __reduce__(self): return self.name
            def __repr__(self): return "torch." + self.name
        class Size(tuple):
            def __reduce__(self): return (Size, (tuple(self),))
        for _name in NAMES.split():
            setattr(sys.modules[__name__], _name, dtype(_name))
        """;

    // argv: a folder; each *.in is loaded, told as JSON, and pickled again in every protocol.
    private const string Script = """
        import glob, json, pickle, sys, torch
        from checkpoint_engine.data_types import *
        def plain(value):
            if isinstance(value, (MemoryBufferMetaList, MemoryBufferMetas, ParameterMeta)): return {k: plain(v) for k, v in value.__dict__.items()}
            if isinstance(value, torch.dtype): return repr(value)
            if isinstance(value, torch.Size): return list(value)
            if isinstance(value, dict): return {str(k): plain(v) for k, v in value.items()}
            if isinstance(value, list): return [plain(v) for v in value]
            assert value is None or type(value) in (int, str), type(value)
            return value
        for path in glob.glob(sys.argv[1] + "/*.in"):
            with open(path, "rb") as f: data = f.read()
            metas = pickle.loads(data)
            is_small = len(data) < 50000    # Python's own pickler is slow
            if is_small: assert pickle._loads(data).keys() == metas.keys()
            with open(path + ".json", "w", encoding="utf-8") as f: json.dump(plain(metas), f, ensure_ascii=False)
            for protocol in range(2, 6):
                with open(f"{path}.p{protocol}", "wb") as f: f.write(pickle.dumps(metas, protocol))
                if is_small:
                    with open(f"{path}.py{protocol}", "wb") as f: f.write(pickle._dumps(metas, protocol))
        """;

    private readonly string _folder = Directory.CreateTempSubdirectory("metas-cpython").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void Write_EveryProtocol_LoadsInCPythonAndComesBackEqual()
    {
        CheckpointMetas[] samples =
        [
            .. MetasSamples.GoldenNames.Select(name => MetasDocument.Read(MetasSamples.Golden(name + ".json"))),
            .. MetasSamples.Random.Array[16].Single(static _ => true, "0000JFHvaPI1"),
            MetasSamples.KimiK2(1000, 1000),    // batches of owners that end at their limit
            MetasSamples.KimiK2(2000, 2),       // and of tensors
            MetasSamples.KimiK2(3001, 1),       // several frames, and a last batch of one
        ];
        for (int i = 0; i < samples.Length; i++)
        {
            foreach (int protocol in MetasSamples.Protocols)
            {
                File.WriteAllBytes(Path.Combine(_folder, $"{i}-{protocol}.in"), MetasSamples.Pickle(samples[i], protocol));
            }
        }
        RunPython();
        for (int i = 0; i < samples.Length; i++)
        {
            string expected = MetasSamples.Describe(samples[i], asPickled: true);
            foreach (int protocol in MetasSamples.Protocols)
            {
                string path = Path.Combine(_folder, $"{i}-{protocol}.in");
                Assert.Equal(expected, MetasSamples.Describe(MetasJsonReader.Read(File.ReadAllBytes(path + ".json")), asPickled: true));
                foreach (string pickler in File.Exists($"{path}.py4") ? (string[])["p", "py"] : ["p"])
                {
                    foreach (int again in protocol == 4 ? MetasSamples.Protocols : [protocol])
                    {
                        byte[] theirs = File.ReadAllBytes($"{path}.{pickler}{again}");
                        Assert.Equal(expected, MetasSamples.Describe(MetasPickleReader.Read(theirs), asPickled: true));
                    }
                }

                // The order of sets aside, what CPython's C pickler makes of what it loaded are our bytes. Not so for the random ones: in
                // CPython empty strings and those of one character are one object each, which its pickler then writes once.
                if (i is < 3 or >= 19)
                {
                    Assert.Equal(new FileInfo(path).Length, new FileInfo($"{path}.p{protocol}").Length);
                }
            }
        }
    }

    private void RunPython()
    {
        Directory.CreateDirectory(Path.Combine(_folder, "checkpoint_engine"));
        File.WriteAllText(Path.Combine(_folder, "checkpoint_engine", "__init__.py"), "");
        File.WriteAllText(Path.Combine(_folder, "checkpoint_engine", "data_types.py"), Models);
        string names = string.Join(' ', Enum.GetValues<Checkpoints.TensorDtype>().Select(dtype => Checkpoints.TensorDtypes.TorchName(dtype)))
            .Replace("torch.", "", StringComparison.Ordinal);
        File.WriteAllText(Path.Combine(_folder, "torch.py"), $"NAMES = \"{names} float4_e2m1fn_x2 int3\"\n{Torch}");
        File.WriteAllText(Path.Combine(_folder, "run.py"), Script);
        var start = new ProcessStartInfo("python3", [Path.Combine(_folder, "run.py"), _folder]) { RedirectStandardError = true };
        start.Environment["PYTHONPATH"] = _folder;
        Process? python = null;
        try
        {
            python = Process.Start(start);
        }
        catch (System.ComponentModel.Win32Exception absent)
        {
            Assert.Skip($"CPython's side of this test needs python3 on the PATH: {absent.Message}");
        }
        using (python)
        {
            string errors = python!.StandardError.ReadToEnd();
            python.WaitForExit();
            Assert.True(python.ExitCode == 0, errors);
        }
    }
}
