"""What the tests share: the module under test, children that never outlive a test, peers that misbehave, files."""

import contextlib
import gc
import json
import os
import pathlib
import queue
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

FOLDER = pathlib.Path(__file__).resolve().parent


def _root():
    named = os.environ.get("CHECKPOINT_ENGINE_TEST_ROOT")
    folder = pathlib.Path(named) if named else FOLDER
    while not (folder / "CheckpointEngine.slnx").exists():
        if folder == folder.parent:
            raise RuntimeError(f"{FOLDER} is in no checkout; set CHECKPOINT_ENGINE_TEST_ROOT")
        folder = folder.parent
    return folder


ROOT = _root()
os.environ.setdefault("CHECKPOINT_ENGINE_LIBRARY", str(ROOT / "artifacts/lib/libcheckpoint_engine.so"))
COMMAND = os.environ.get("CHECKPOINT_ENGINE_TEST_COMMAND", str(ROOT / "artifacts/bin/checkpoint-engine"))
BINDING = ROOT / "interop-headers"
sys.path.insert(0, str(BINDING))
os.environ["PYTHONPATH"] = os.pathsep.join([str(BINDING), str(FOLDER), os.environ.get("PYTHONPATH", "")])

import checkpoint_engine as ce  # noqa: E402

try:
    import numpy as np
except ImportError:
    np = None

PATIENCE = 60       # seconds; far beyond what anything here takes

needs_numpy = unittest.skipIf(np is None, "numpy is not there: apt-get install python3-numpy")


def import_torch():
    """torch, or None; only files that need it pay for it."""
    try:
        import torch
    except ImportError:
        return None
    return torch


NO_TORCH = "torch is not there: apt-get install python3-torch"


class Case(unittest.TestCase):
    """A test with a folder of its own, and whatever it enters is left at its end."""

    maxDiff = 2000

    def setUp(self):
        self._stack = contextlib.ExitStack()
        self.addCleanup(self._stack.close)
        self.folder = pathlib.Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ce-py-")))

    def enter(self, context):
        return self._stack.enter_context(context)

    def server(self, **options):
        return self.enter(ce.ParameterServer(**options))

    def assert_collected(self, reference, what):
        """That a weak reference is dead, at the latest after a collection."""
        if reference() is not None:
            gc.collect()
        kept = reference()
        if kept is not None:
            self.fail(f"{what} is kept by {[type(referrer) for referrer in gc.get_referrers(kept)]}")

    def wait_until(self, condition, what):
        """For what the interface tells only by asking."""
        deadline = time.monotonic() + PATIENCE
        pause = threading.Event()
        while not condition():
            if time.monotonic() > deadline:
                self.fail(f"{what} did not come within {PATIENCE} s")
            pause.wait(0.005)


class Child:
    """A child process; its lines are read as they come, and it ends with the test."""

    def __init__(self, *command, cwd=None, environment=None):
        self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE,
                                        text=True, encoding="utf-8", cwd=cwd, env={**os.environ, **(environment or {})})
        self.lines = queue.Queue()
        self.output, self.errors = [], []
        self._readers = [threading.Thread(target=self._read, args=(self.process.stdout, self.output, self.lines)),
                         threading.Thread(target=self._read, args=(self.process.stderr, self.errors, None))]
        for reader in self._readers:
            reader.start()

    @classmethod
    def python(cls, source, *arguments, **options):
        return cls(sys.executable, "-X", "faulthandler", "-c", source, *arguments, **options)

    def _read(self, stream, into, lines):
        with stream:
            for line in stream:
                into.append(line)
                if lines is not None:
                    lines.put(line.rstrip("\n"))
        if lines is not None:
            lines.put(None)

    def line(self, start):
        """The next line that begins so, without that beginning."""
        deadline = time.monotonic() + PATIENCE
        while True:
            line = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
            if line is None:
                raise AssertionError(f"the child ended before it wrote {start!r}: {''.join(self.output)}{''.join(self.errors)}")
            if line.startswith(start):
                return line[len(start):]

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number):
        self.process.send_signal(number)

    def end(self, expected=0):
        """Waits for its end; its output and errors."""
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        output, errors = "".join(self.output), "".join(self.errors)
        if expected is not None and status != expected:
            raise AssertionError(f"the child ended with {status}, not {expected}\n{output}\n{errors}")
        return output, errors

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(PATIENCE)
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        for reader in self._readers:
            reader.join(PATIENCE)


class SilentPeer:
    """Takes connections, reads what comes, and never answers."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heard = threading.Event()      # somebody has connected and said something
        self._connections = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._read, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _read(self, connection):
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                self.heard.set()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        for connection in self._connections:
            connection.close()


class Serve(Child):
    """The command, serving a folder under the name m."""

    def __init__(self, folder, *more):
        super().__init__(COMMAND, "serve", "--checkpoint", f"m={folder}", "--listen", "http://127.0.0.1:0", "--json", *more)
        try:
            self.ready = json.loads('{"ready":' + self.line('{"ready":'))
        except BaseException:
            self.__exit__()
            raise

    @property
    def url(self):
        return self.ready["http"] + "/v1/metas"


def run_command(*arguments, expected=0):
    with Child(COMMAND, *arguments) as child:
        return child.end(expected)


WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8, "F16": 2, "BF16": 2, "F32": 4, "F64": 8, "C64": 8,
          "C128": 16, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "F8_E8M0": 1}


def write_safetensors(path, tensors):
    """tensors: name to (dtype, shape, bytes)."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


def read_safetensors(folder):
    """Every tensor of the files in a folder: name to (dtype, shape, bytes)."""
    tensors = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        content = path.read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        for name, entry in json.loads(content[8:8 + size]).items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                tensors[name] = (entry["dtype"], tuple(entry["shape"]), content[8 + size + start:8 + size + end])
    return tensors


def pattern(size, seed=1):
    """Bytes that differ from place to place."""
    return bytes((seed * 31 + index * 7 + (index >> 8) * 13) & 0xff for index in range(size))


def small_model():
    """Odd sizes, an empty and a zero-dimensional tensor, a name beyond ASCII; as in a safetensors file."""
    shapes = {"model.embed.weight": ("BF16", (100, 64)), "model.norm.weight": ("F32", (7,)), "model.scale": ("F32", ()), "größe.重み": ("U8", (3, 5)),
              "model.mlp.weight": ("F8_E4M3", (409, 33)), "model.empty": ("I64", (0, 4)), "lm_head.weight": ("BF16", (30_001,))}
    model = {}
    for seed, (name, (dtype, shape)) in enumerate(shapes.items()):
        size = WIDTHS[dtype]
        for dimension in shape:
            size *= dimension
        model[name] = (dtype, shape, pattern(size, seed))
    return model


def write_model(folder):
    """A checkpoint of one file with a side file; what is in it."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = small_model()
    write_safetensors(folder / "model.safetensors", model)
    (folder / "config.json").write_text('{"model_type":"small"}')
    return model


def plain(checkpoint):
    """A checkpoint of the library in the same form."""
    return {name: (tensor.dtype, tensor.shape, tensor.tobytes()) for name, tensor in checkpoint.items()}


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
