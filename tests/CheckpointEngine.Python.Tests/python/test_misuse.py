"""What a caller may get wrong, and what the file promises about itself."""

import ctypes
import os
import pickle
import re
import shutil
import sys
import threading
import unittest

from support import BINDING, ROOT, Case, Child, ce


class ClosedTests(Case):
    def test_a_closed_server(self):
        server = ce.ParameterServer()
        server.register_tensors("m", {"t": b"x"})
        metas = server.metas("m")
        server.close()
        server.close()
        for use in (lambda: server.peer_url, lambda: server.p2p_store_addr, lambda: server.url("m"), lambda: server.metas("m"),
                    lambda: server.checkpoint("m"), lambda: server.register_tensors("n", {}), lambda: server.register_files("n", "/"),
                    lambda: server.unregister("m"), lambda: server.load_metas("m", metas), lambda: ce.join(metas, server=server),
                    lambda: server.updating("m").__enter__(), server.finish_relays,
                    lambda: server.set_token("t"), server.reload_certificates):
            with self.assertRaises(ce.ClosedError) as caught:
                use()
            self.assertIsInstance(caught.exception, ValueError)
        self.assertIn("closed", repr(server))

    def test_a_closed_checkpoint(self):
        server = self.server()
        server.register_tensors("m", {"t": b"x"})
        with server.checkpoint("m") as checkpoint:
            tensor = checkpoint["t"]
        checkpoint.close()
        for use in (lambda: len(checkpoint), lambda: list(checkpoint), lambda: checkpoint["t"], lambda: checkpoint.nbytes, lambda: checkpoint.side_files):
            with self.assertRaises(ce.ClosedError):
                use()
        self.assertIn("closed", repr(checkpoint))
        self.assertEqual(tensor.tobytes(), b"x")

    def test_close_on_many_threads_at_once(self):
        for _ in range(20):
            server = ce.ParameterServer()
            server.register_tensors("m", {"t": bytearray(1000)})
            errors = []

            def work(server=server, errors=errors):
                try:
                    while True:
                        server.metas("m")
                except ce.ClosedError:
                    pass
                except BaseException as error:
                    errors.append(error)

            threads = [threading.Thread(target=work) for _ in range(3)] + [threading.Thread(target=server.close) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual([error for error in errors if not isinstance(error, ce.NotFoundError)], [])


class MappingTests(Case):
    def test_a_checkpoint_is_a_mapping(self):
        server = self.server()
        server.register_tensors("m", {"a": b"1", "b": b"22"})
        checkpoint = server.checkpoint("m")
        self.assertEqual(set(checkpoint.keys()), {"a", "b"})
        self.assertIn("a", checkpoint)
        for absent in ("c", "", "a\0", 5, None, "\ud800"):
            self.assertNotIn(absent, checkpoint)
        self.assertIsNone(checkpoint.get("c"))
        with self.assertRaises(KeyError):
            checkpoint["c"]
        with self.assertRaises(TypeError):
            checkpoint[0]
        self.assertNotEqual(checkpoint, server.checkpoint("m"))
        self.assertIn("2 tensors", repr(checkpoint))
        self.assertEqual(repr(checkpoint["b"]), "<Tensor 'b' U8 [2] 2 bytes>")


class StringTests(Case):
    def test_strings_that_are_none(self):
        server = self.server()
        for name, kind in (("\ud800", ValueError), ("a\0b", ValueError), (b"m", TypeError), (5, TypeError), (None, TypeError)):
            for use in (server.metas, server.checkpoint, server.unregister, server.url, lambda name: server.register_tensors(name, {}),
                        lambda name: server.register_files(name, "/"), server.updating, lambda name: server.register_tensors("m", {name: b"x"}),
                        lambda name: server.load_metas(name, None) if isinstance(name, str) else server.metas(name)):
                with self.subTest(repr(name)), self.assertRaises((kind, TypeError)):
                    use(name)
        with self.assertRaises(ValueError):
            server.register_files("m", "/a\0b")
        with self.assertRaises((ValueError, FileNotFoundError)):
            server.register_files("m", os.fsdecode(b"/not utf-8 \xff"))
        with self.assertRaises(ValueError):
            server.register_tensors("", {"t": b"x"})
        with self.assertRaises(ValueError):
            server.register_tensors("x" * 300, {"t": b"x"})

    def test_options_of_a_server(self):
        for kind, options in [(TypeError, {"address": 5}), (ValueError, {"address": "no address"}), (ValueError, {"port": 65536}), (ValueError, {"port": -1}),
                              (TypeError, {"port": "80"}), (ValueError, {"hold": "x"}), (ValueError, {"pin": 3}), (ValueError, {"digest": None}),
                              (ValueError, {"drain_timeout": 0}), (TypeError, {"drain_timeout": "1"}), (ValueError, {"plain_peers": "nonsense"}),
                              (ValueError, {"rank": -1}), (TypeError, {"token": b"x"}), (ValueError, {"address": "0.0.0.0"})]:
            with self.subTest(repr(options)), self.assertRaises(kind):
                ce.ParameterServer(**options).close()


class ErrorTests(unittest.TestCase):
    def test_every_status_has_its_class(self):
        header = (BINDING / "checkpoint_engine.h").read_text(encoding="utf-8")
        statuses = {name: int(value) for name, value in re.findall(r"^    (CE_E_\w+) = (-\d+)", header, re.MULTILINE)}
        self.assertGreater(len(statuses), 20)
        library = ce._lib()
        for name, value in statuses.items():
            if name not in ("CE_E_BUFFER_TOO_SMALL", "CE_E_PENDING"):
                self.assertEqual((ce._ERRORS[value].name, ce._ERRORS[value].status), (name, value))
            self.assertEqual(library.ce_status_name(value).decode(), name)

    def test_errors_are_what_python_calls_them(self):
        for kind, base in [(ce.TimedOutError, TimeoutError), (ce.UnreachableError, ConnectionError), (ce.ProtocolError, ConnectionError),
                           (ce.NotFoundError, KeyError), (ce.NotFoundError, FileNotFoundError), (ce.OutOfMemoryError, MemoryError),
                           (ce.ArgumentError, ValueError), (ce.RefusedError, PermissionError), (ce.FileError, OSError), (ce.NativeError, OSError)]:
            error = kind("what happened", kind.status)
            self.assertIsInstance(error, (base, ce.CheckpointEngineError))
            self.assertEqual(str(error), "what happened")
            again = pickle.loads(pickle.dumps(error))
            self.assertEqual((type(again), str(again), again.status, again.name), (kind, "what happened", kind.status, kind.name))


class ContractTests(Case):
    """The file says the same as the header."""

    header = (BINDING / "checkpoint_engine.h").read_text(encoding="utf-8")

    def test_every_function_is_declared(self):
        exports = set((BINDING / "checkpoint_engine.exports").read_text(encoding="utf-8").split())
        self.assertEqual(set(ce._FUNCTIONS), exports)

    def test_arguments_are_counted_as_the_header_does(self):
        text = re.sub(r"/\*.*?\*/", "", self.header, flags=re.DOTALL)
        found = re.findall(r"CE_API\s+([\w\s]+?\**)\s*(ce_\w+)\(([^;]*)\);", text)
        self.assertEqual(len(found), len(ce._FUNCTIONS))
        results = {"ce_status": "s", "uint64_t": "n", "uint32_t": "u", "const char *": "t"}
        for result, name, arguments in found:
            count = 0 if arguments.strip() == "void" else arguments.count(",") + 1
            self.assertEqual((ce._FUNCTIONS[name][0], len(ce._FUNCTIONS[name][1])), (results[result.strip()], count), name)

    def test_structs_have_the_layout_of_the_compiler(self):
        compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
        if compiler is None:
            self.skipTest("there is no C compiler: apt-get install gcc")
        structs = {"ce_tensor": ce._CTensor, "ce_fetch_options": ce._CFetchOptions, "ce_server_options": ce._CServerOptions, "ce_bucket": ce._CBucket,
                   "ce_join_options": ce._CJoinOptions, "ce_join_progress": ce._CJoinProgress, "ce_join_report": ce._CJoinReport}
        lines = ["#include <stdio.h>", '#include "checkpoint_engine.h"', "int main(void) {"]
        expected = []
        for name, struct in structs.items():
            lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
            expected.append(f"{name} {ctypes.sizeof(struct)}")
            for field in struct._fields_:
                lines.append(f'printf("{name}.{field[0]} %zu %zu\\n", offsetof({name}, {field[0]}), sizeof((({name} *)0)->{field[0]}));')
                described = getattr(struct, field[0])
                expected.append(f"{name}.{field[0]} {described.offset} {described.size}")
        lines.append("return 0; }")
        (self.folder / "layout.c").write_text("\n".join(lines))
        with Child(compiler, "-I", BINDING, "-o", self.folder / "layout", self.folder / "layout.c") as child:
            child.end()
        with Child(self.folder / "layout") as child:
            output, _ = child.end()
        self.assertEqual(output.split("\n")[:-1], expected)

    def test_element_types_are_the_headers(self):
        library = ce._lib()
        header = dict(re.findall(r"CE_DTYPE_(\w+) = (\d+)", self.header))
        self.assertEqual({dtype.name.replace("FNUZ", "_FNUZ"): str(dtype.code) for dtype in ce._DTYPES}, header)
        for dtype in ce._DTYPES[1:]:
            self.assertEqual(library.ce_dtype_bits(dtype.code), dtype.bits, dtype.name)
            self.assertIn(library.ce_dtype_name(dtype.code).decode(), (dtype.name, ""))

    def test_all_names_are_there_and_told(self):
        for name in ce.__all__:
            self.assertTrue(getattr(ce, name).__doc__, name)
        for kind in (ce.ParameterServer, ce.Metas, ce.Join, ce.Checkpoint, ce.Tensor, ce.Bucket):
            for name, member in vars(kind).items():
                if not name.startswith("_") and (callable(member) or isinstance(member, (property, classmethod))):
                    self.assertTrue(getattr(getattr(kind, name), "__doc__", None), f"{kind.__name__}.{name}")


class LoadingTests(Case):
    SHOW = "import checkpoint_engine as ce, sys\ntry:\n    print('version', ce.library_version())\nexcept ImportError as error:\n    print('refused', error)\n"

    def place(self, *parts):
        folder = self.folder.joinpath(*parts)
        folder.mkdir(parents=True)
        shutil.copy(BINDING / "checkpoint_engine.py", folder)
        return folder

    def show(self, folder, **environment):
        with Child.python(self.SHOW, environment={"PYTHONPATH": str(folder), "CHECKPOINT_ENGINE_LIBRARY": "", **environment}) as child:
            return child.end()[0]

    def test_it_finds_the_library(self):
        library = os.environ["CHECKPOINT_ENGINE_LIBRARY"]
        version = f"version {ce.library_version()}\n"
        self.assertEqual(self.show(self.place("none"), CHECKPOINT_ENGINE_LIBRARY=library), version)
        beside = self.place("beside")
        (beside / "libcheckpoint_engine.so").symlink_to(library)
        self.assertEqual(self.show(beside), version)
        include = self.place("prefix", "include")
        (self.folder / "prefix" / "lib").mkdir()
        (self.folder / "prefix" / "lib" / "libcheckpoint_engine.so.0").symlink_to(library)
        self.assertEqual(self.show(include), version)
        (self.folder / "path").mkdir()
        (self.folder / "path" / "libcheckpoint_engine.so.0").symlink_to(library)
        self.assertEqual(self.show(self.folder / "none", LD_LIBRARY_PATH=str(self.folder / "path")), version)

    def test_it_says_what_it_tried(self):
        folder = self.place("none")
        shown = self.show(folder, CHECKPOINT_ENGINE_LIBRARY=str(self.folder / "nothing.so"))
        self.assertRegex(shown, "^refused .*nothing.so")
        self.assertIn("another library", self.show(folder, CHECKPOINT_ENGINE_LIBRARY="libc.so.6"))
        self.assertRegex(self.show(folder), "^refused .*CHECKPOINT_ENGINE_LIBRARY")

    def test_another_interface_is_refused(self):
        compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
        if compiler is None:
            self.skipTest("there is no C compiler: apt-get install gcc")
        folder = self.place("none")
        for version in (0x001, 0x102):
            (self.folder / "other.c").write_text(f"unsigned ce_abi_version(void) {{ return {version}; }}")
            with Child(compiler, "-shared", "-fPIC", "-o", self.folder / "other.so", self.folder / "other.c") as child:
                child.end()
            self.assertRegex(self.show(folder, CHECKPOINT_ENGINE_LIBRARY=str(self.folder / "other.so")), rf"^refused .*interface {version >> 8}\.{version & 255}")

    def test_importing_loads_nothing_and_needs_neither_numpy_nor_torch(self):
        with Child.python("import checkpoint_engine, sys\nprint([name for name in ('numpy', 'torch') if name in sys.modules], "
                          "any('checkpoint_engine.so' in line for line in open('/proc/self/maps')))") as child:
            self.assertEqual(child.end()[0], "[] False\n")


class ForkTests(Case):
    def test_a_forked_child_gets_an_error(self):
        server = self.server()
        server.register_tensors("m", {"t": b"x"})
        joined = ce.join(server.url("m"))
        source = """
import os, sys, checkpoint_engine as ce
server = ce.ParameterServer()
server.register_tensors("m", {"t": bytearray(10)})
joined = ce.join(server.url("m")).checkpoint
tensor = joined["t"]
child = os.fork()
if child == 0:
    count = 0
    for use in (lambda: server.url("m"), lambda: ce.ParameterServer(), lambda: ce.join("ce://127.0.0.1:1/m"), lambda: joined["t"], lambda: len(joined),
                lambda: ce.Metas.parse(b"{}"), lambda: server.unregister("m"), ce.library_version):
        try:
            use()
        except ce.ForkedError as error:
            assert "spawn" in str(error)
            count += 1
    server.close()
    assert tensor.tobytes() == bytes(10)
    print("errors", count, flush=True)
    sys.exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert ce.join(server.url("m")).checkpoint["t"].tobytes() == bytes(10)
server.close()
print("parent is well", flush=True)
"""
        with Child.python(source) as child:
            self.assertEqual(child.line("errors "), "8")
            child.line("parent is well")
            child.end()
        self.assertEqual(joined.checkpoint["t"].tobytes(), b"x")

    def test_a_child_of_a_parent_that_had_not_loaded_it(self):
        source = """
import os, checkpoint_engine as ce
child = os.fork()
with ce.ParameterServer() as server:
    server.register_tensors("m", {"t": b"abc"})
    assert ce.join(server.url("m")).checkpoint["t"].tobytes() == b"abc"
if child:
    assert os.waitpid(child, 0)[1] == 0
print("done")
"""
        with Child.python(source) as child:
            child.end()

    def test_spawn(self):
        (self.folder / "work.py").write_text("""
import checkpoint_engine as ce, multiprocessing
def read(url):
    return ce.join(url).checkpoint["t"].tobytes()
if __name__ == "__main__":
    with ce.ParameterServer() as server:
        server.register_tensors("m", {"t": b"abc"})
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(read, (server.url("m"),)))
""")
        with Child(sys.executable, self.folder / "work.py") as child:
            self.assertEqual(child.end()[0], "b'abc'\n")


if __name__ == "__main__":
    unittest.main()
