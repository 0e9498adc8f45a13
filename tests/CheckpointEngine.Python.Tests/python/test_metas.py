"""Metas: fetched, parsed, written; what CPython loads of them."""

import gzip
import http.server
import json
import pathlib
import pickle
import socket
import threading
import unittest

from support import ROOT, Case, Child, Serve, ce, plain, run_command, write_model

GOLDEN = ROOT / "tests/CheckpointEngine.Core.Tests/Data/metas"

# Stand-ins of the real classes, as pydantic pickles them, and of torch; argv: pickle in, folder out. Writes every protocol, and what it saw as JSON.
STAND_INS = """
import json, pathlib, pickle, sys, types
package, data_types, torch = types.ModuleType("checkpoint_engine"), types.ModuleType("checkpoint_engine.data_types"), types.ModuleType("torch")
package.__path__ = []
sys.modules.update({"checkpoint_engine": package, "checkpoint_engine.data_types": data_types, "torch": torch})
class Model:
    __slots__ = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
    def __getstate__(self):
        return {"__dict__": self.__dict__, "__pydantic_extra__": self.__pydantic_extra__,
                "__pydantic_fields_set__": self.__pydantic_fields_set__, "__pydantic_private__": self.__pydantic_private__}
    def __setstate__(self, state):
        assert list(state) == ["__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__"], state
        for name, value in state.items():
            object.__setattr__(self, name, value)
        assert self.__pydantic_fields_set__ == set(self.__dict__) and type(self.__pydantic_fields_set__) is set
        assert list(self.__dict__) == FIELDS[type(self).__name__], self.__dict__
FIELDS = {"ParameterMeta": ["name", "dtype", "shape", "aligned_size"], "MemoryBufferMetas": ["metas", "ptr", "size"],
          "MemoryBufferMetaList": ["p2p_store_addr", "memory_buffer_metas_list", "rdma_device"]}
for name in FIELDS:
    setattr(data_types, name, type(name, (Model,), {"__slots__": (), "__module__": "checkpoint_engine.data_types"}))
class dtype:
    def __init__(self, name): self.name, self.__module__ = name, "torch"
    def __reduce__(self): return self.name
    def __repr__(self): return "torch." + self.name
class Size(tuple):
    def __reduce__(self): return (Size, (tuple(self),))
Size.__module__, Size.__qualname__, torch.Size, torch.dtype = "torch", "Size", Size, dtype
for name in "bfloat16 float32 uint8 int64 float8_e4m3fn".split():
    setattr(torch, name, dtype(name))
def plain(value):
    if isinstance(value, Model): return {k: plain(v) for k, v in value.__dict__.items()}
    if isinstance(value, dtype): return repr(value)
    if isinstance(value, dict): return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)): return [plain(v) for v in value]
    assert value is None or type(value) in (int, str), type(value)
    return value
metas = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())
assert all(type(rank) is int and type(owner) is data_types.MemoryBufferMetaList for rank, owner in metas.items())
folder = pathlib.Path(sys.argv[2])
folder.joinpath("seen.json").write_text(json.dumps(plain(metas)))
for protocol in range(2, 6):
    folder.joinpath(f"metas.p{protocol}.pkl").write_bytes(pickle.dumps(metas, protocol))
"""


class FormTests(Case):
    def serve(self):
        model = write_model(self.folder / "model")
        server = self.server(rank=5)
        server.register_files("m", self.folder / "model")
        return model, server

    def test_tensors_and_owners(self):
        model, server = self.serve()
        for metas in (server.metas("m"), ce.Metas.fetch(server.url("m"))):
            self.assertEqual({tensor.name: (tensor.dtype, tensor.shape, tensor.nbytes, tensor.owner_rank) for tensor in metas},
                             {name: (dtype, shape, len(data), 5) for name, (dtype, shape, data) in model.items()})
            self.assertEqual(len(metas), len(model))
            self.assertEqual(metas.nbytes, sum(len(data) for _, _, data in model.values()))
            self.assertEqual(metas.owners, (ce.Owner(5, server.p2p_store_addr),))

    def test_the_pickle_loads_in_cpython_and_comes_back(self):
        model, server = self.serve()
        (self.folder / "metas.pkl").write_bytes(server.metas("m").to_pickle())
        with Child.python(STAND_INS, self.folder / "metas.pkl", self.folder) as child:
            child.end()
        seen = json.loads((self.folder / "seen.json").read_text())
        owner = seen["5"]
        self.assertEqual(owner["p2p_store_addr"], server.p2p_store_addr)
        tensors = {meta["name"]: meta for buffer in owner["memory_buffer_metas_list"] for meta in buffer["metas"]}
        self.assertEqual({name: tuple(meta["shape"]) for name, meta in tensors.items()}, {name: shape for name, (_, shape, _) in model.items()})
        self.assertEqual(tensors["model.embed.weight"]["dtype"], "torch.bfloat16")
        for protocol in range(2, 6):        # what CPython writes is joined from
            with self.subTest(protocol=protocol):
                result = ce.join(self.folder / f"metas.p{protocol}.pkl")
                self.assertEqual({name: value[1:] for name, value in plain(result.checkpoint).items()}, {name: value[1:] for name, value in model.items()})

    def test_json_and_pickle_are_joined_from(self):
        model, server = self.serve()
        metas = server.metas("m")
        for name in ("metas.json", "metas.pkl"):
            with self.subTest(name):
                metas.save(self.folder / name)
                again = ce.Metas.load(self.folder / name)
                self.assertEqual([tensor[:3] for tensor in again], [tensor[:3] for tensor in metas])
                self.assertEqual(set(plain(ce.join(again).checkpoint)), set(model))
                self.assertEqual(set(plain(ce.join((self.folder / name).as_uri()).checkpoint)), set(model))
        self.assertEqual((self.folder / "metas.pkl").read_bytes()[:1], b"\x80")
        self.assertEqual(set(json.loads(metas.to_json())), {"5"})
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["metas.json", "metas.pkl", "model"])
        self.assertEqual(len(ce.Metas.parse(metas.to_json())), len(model))
        self.assertEqual(len(ce.Metas.parse(bytearray(metas.to_json().encode()))), len(model))

    def test_golden_files(self):
        for path in sorted(GOLDEN.glob("*.json")):
            expected = [tensor for tensor in ce.Metas.load(path)]
            document = json.loads(path.read_text(encoding="utf-8"))
            self.assertEqual(len(expected), sum(len(buffer["metas"]) for owner in document.values() for buffer in owner["memory_buffer_metas_list"]))
            for protocol in range(2, 6):
                with self.subTest(path.stem, protocol=protocol):
                    metas = ce.Metas.load(path.with_name(f"{path.stem}.p{protocol}.pkl"))
                    self.assertEqual(list(metas), expected)
                    self.assertEqual(ce.Metas.parse(metas.to_pickle()).to_json(), metas.to_json())

    def test_documents_that_are_none(self):
        for document in (b"", b"{", b"[]", b"\x80\x04.", b"\x80\x04cos\nsystem\n.", pickle.dumps(print), "{\"0\": 5}"):
            with self.subTest(document), self.assertRaises((ce.InvalidDataError, ce.WrongShapeError)):
                ce.Metas.parse(document)
        for document in (None, 5, ["{}"]):
            with self.subTest(document), self.assertRaises(TypeError):
                ce.Metas.parse(document)
        with self.assertRaises(FileNotFoundError):
            ce.Metas.load(self.folder / "nothing.json")

    def test_metas_outlive_their_server(self):
        _, server = self.serve()
        metas = server.metas("m")
        server.close()
        self.assertEqual(len(list(metas)), 7)
        with self.assertRaises(ce.CheckpointEngineError):
            ce.join(metas, timeout=5)

    def test_loaded_metas_are_merged(self):
        _, first = self.serve()
        second = self.server(rank=6)
        second.register_tensors("m", {"more": b"x"})
        second.load_metas("m", first.metas("m"))
        merged = second.metas("m")
        self.assertEqual(sorted(owner.rank for owner in merged.owners), [5, 6])
        self.assertEqual(len(ce.join(second.url("m")).checkpoint), 8)
        with self.assertRaises(TypeError):
            second.load_metas("m", merged.to_json())


class CodedAnswers(http.server.BaseHTTPRequestHandler):
    """Answers with the server's document as gzip, when that coding alone is asked for: the library has no other."""

    def do_GET(self):
        asked = self.headers.get("Accept-Encoding", "").replace(" ", "").split(",")
        body = gzip.compress(self.server.document)
        self.send_response(200 if asked == ["gzip"] and self.request_version == "HTTP/1.1" else 406)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class FetchTests(Case):
    def test_in_the_coding_that_it_asks_for(self):
        source = "import sys, checkpoint_engine as ce\nprint(ce.Metas.fetch(sys.argv[1]).to_json())"
        document = (GOLDEN / "two-ranks.json").read_bytes()
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), CodedAnswers) as server:
            server.document = document
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            # A holder on this host is asked for no coding; this one stands in for any other, as its proxy.
            environment = {"http_proxy": f"http://127.0.0.1:{server.server_port}", "no_proxy": ""}
            try:
                with Child.python(source, "http://holder.example/metas", environment=environment) as child:
                    output, _ = child.end()
                    self.assertEqual(json.loads(output), json.loads(ce.Metas.parse(document).to_json()))
            finally:
                server.shutdown()
                thread.join()

    def test_from_the_command(self):
        model = write_model(self.folder / "model")
        with Serve(self.folder / "model") as holder:
            names = {tensor.name for tensor in ce.Metas.fetch(holder.url)}
            self.assertEqual(names, set(model))

    def test_over_a_unix_socket(self):
        model = write_model(self.folder / "model")
        with Serve(self.folder / "model", "--listen", f"unix:{self.folder}/ce.sock") as holder:
            url = f"unix:{self.folder}/ce.sock:/v1/metas"
            if not (self.folder / "ce.sock").exists():
                self.skipTest("this command listens on the first address only")
            self.assertEqual({tensor.name for tensor in ce.Metas.fetch(url)}, set(model))
            holder.signal(15)
            holder.end()

    def test_what_goes_wrong_has_its_own_error(self):
        server = self.server()
        with self.assertRaises(ce.NotFoundError) as caught:
            ce.Metas.fetch(server.url("nobody"))
        self.assertIsInstance(caught.exception, KeyError)
        self.assertEqual((caught.exception.status, caught.exception.name), (-102, "CE_E_NOT_FOUND"))
        self.assertIn("nobody", str(caught.exception))
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}/v1/metas", f"ce://127.0.0.1:{port}/m"):
            with self.subTest(url), self.assertRaises(ConnectionError):
                ce.Metas.fetch(url)
        for url in ("gopher://x/", "no url", "ce://127.0.0.1", ""):
            with self.subTest(url), self.assertRaises(ValueError):
                ce.Metas.fetch(url)
        with self.assertRaises(FileNotFoundError):
            ce.Metas.fetch((self.folder / "nothing.json").as_uri())
        for timeout in (0, -1, float("nan")):
            with self.subTest(timeout), self.assertRaises(ValueError):
                ce.Metas.fetch(server.url("m"), timeout=timeout)

    def test_the_token(self):
        write_model(self.folder / "model")
        token = "0123456789abcdef" * 4
        server = self.server(token=token)
        server.register_files("m", self.folder / "model")
        for wrong in (None, "f" * 64):
            with self.subTest(wrong), self.assertRaises(PermissionError):
                ce.Metas.fetch(server.url("m"), token=wrong)
            with self.subTest(wrong), self.assertRaises(ce.RefusedError):
                ce.join(server.url("m"), token=wrong)
            with self.subTest(wrong), self.assertRaises(ce.CheckpointEngineError):
                ce.join(server.metas("m"), token=wrong)
        self.assertEqual(len(ce.Metas.fetch(server.url("m"), token=token)), 7)
        self.assertEqual(len(ce.join(server.url("m"), token=token).checkpoint), 7)
        self.assertEqual(len(ce.join(server.metas("m"), token=token).checkpoint), 7)
        with ce.ParameterServer(listen=False, token=token) as joiner:
            self.assertEqual(len(ce.join(server.url("m"), server=joiner).checkpoint), 7)


class CommandTests(Case):
    def test_the_command_joins_from_python(self):
        model = write_model(self.folder / "model")
        server = self.server()
        server.register_tensors("m", {name: ce.Bits(data, dtype, shape) for name, (dtype, shape, data) in model.items()})
        server.register_files("files", self.folder / "model")
        from support import read_safetensors
        for name in ("m", "files"):
            run_command("join", "--metas-url", server.url(name), "--to", f"dir:{self.folder / ('copy-' + name)}")
            self.assertEqual(read_safetensors(self.folder / f"copy-{name}"), model)

    def test_python_joins_from_the_command(self):
        model = write_model(self.folder / "model")
        token = self.folder / "token"
        token.write_text("ab" * 32)
        with Serve(self.folder / "model") as holder:
            result = ce.join(holder.url, verify="require")
            self.assertTrue(result.verified)
            self.assertEqual(plain(result.checkpoint), model)
        with Serve(self.folder / "model", "--token-file", token) as holder:
            with self.assertRaises(PermissionError):
                ce.join(holder.url)
            self.assertEqual(plain(ce.join(holder.url, token="ab" * 32).checkpoint), model)

    def test_a_join_on_each_of_many_threads(self):
        write_model(self.folder / "model")
        server = self.server()
        server.register_files("m", self.folder / "model")
        url, results = server.url("m"), []

        def work():
            try:
                results.append(len(ce.join(url).checkpoint))
            except BaseException as error:
                results.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(results, [7] * 8)


if __name__ == "__main__":
    unittest.main()
