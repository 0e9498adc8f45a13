"""Stands in for an inference server: its real endpoints, real ZeroMQ, real pickle, a process for each worker, and no GPU.

Workers of three generations are here after what is published of them, and know nothing of the engine's own worker, which is the fourth ("own").
What each worker was given is told at GET /received; what the server was asked at GET /requests. Standard library and pyzmq; torch where --torch asks.
"""

import argparse
import gc
import hashlib
import http.server
import importlib.util
import json
import mmap
import os
import pickle
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
import traceback
import types

WIDTHS = {"bool": 1, "uint8": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8, "float16": 2, "bfloat16": 2, "float32": 4,
          "float64": 8, "complex64": 8, "float8_e4m3fn": 1, "float8_e5m2": 1}
SAFETENSORS = {"BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32", "I64": "int64", "U64": "uint64",
               "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


class Size(tuple):
    def numel(self):
        count = 1
        for dimension in self:
            count *= dimension
        return count


class Dtype:
    def __init__(self, name):
        self.name, self.itemsize = name, WIDTHS[name]

    def __repr__(self):
        return f"torch.{self.name}"


def install_torch_stand_in():
    torch = types.ModuleType("torch")
    Size.__module__, Size.__qualname__ = "torch", "Size"
    torch.Size = Size
    for name in WIDTHS:
        setattr(torch, name, Dtype(name))
    sys.modules["torch"] = torch


def install_host_buffers():
    """What the pickle of a host buffer names, written anew."""
    def map_host_buffer(path, size):
        with open(path, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ))

    module = types.ModuleType("checkpoint_engine")
    module.map_host_buffer = map_host_buffer
    map_host_buffer.__module__ = "checkpoint_engine"
    sys.modules["checkpoint_engine"] = module


class Model:
    """Takes weights as a model's load_weights does, and goes wrong when and how it was told."""

    def __init__(self, fault):
        self.fault, self.tensors, self.buckets = fault, {}, 0

    def load(self, weights):
        self.buckets += 1
        self.go_wrong(str(self.buckets))
        for name, dtype, shape, data in weights:
            assert name not in self.tensors, f"{name} came twice"
            self.tensors[name] = [dtype, list(shape), hashlib.sha256(data).hexdigest()]
        print(json.dumps({"loaded": self.buckets}), flush=True)

    def go_wrong(self, where):
        kind, _, rest = self.fault.partition(":")
        at, _, seconds = rest.partition(":")
        if at != where:
            return
        if kind == "error":
            raise ValueError(f"no such parameter in bucket {where}")
        if kind == "die":
            os._exit(9)
        if kind == "leave":
            threading.Timer(float(seconds), os._exit, (9,)).start()     # once it has answered
        if kind == "late":
            time.sleep(float(seconds))


def rebuild(message):
    function, arguments = message
    return function(*arguments)


def width_of(dtype):
    if hasattr(dtype, "itemsize"):
        return dtype.itemsize
    import torch
    return torch.empty((), dtype=dtype).element_size()      # torch before 2.1


def extract(payload, buffer):
    weights = []
    for item in payload:
        shape, dtype, offset = item["shape"], item["dtype"], item["offset"]
        assert type(shape).__name__ == "Size", type(shape)
        size = width_of(dtype) * shape.numel()
        assert offset + size <= len(buffer), "beyond the buffer"
        data = buffer[offset:offset + size]
        weights.append((item["name"], repr(dtype), shape, data.cpu().numpy() if hasattr(data, "cpu") else data))
    return weights


def text_of(error):
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def worker_0_1(connection, model):
    buffer = None
    while True:
        payload = pickle.loads(connection.recv())
        if payload is None:
            model.go_wrong("hook")
            connection.send(b"")
            return
        if isinstance(payload, tuple):
            model.go_wrong("handle")
            buffer = rebuild(payload)
            connection.send(b"")
            continue
        assert isinstance(payload, list), payload
        model.load(extract(payload, buffer))
        connection.send(b"")


def take_handle(connection, model):
    try:
        payload = pickle.loads(connection.recv())
        assert isinstance(payload, tuple)
        model.go_wrong("handle")
        buffer = rebuild(payload)
        connection.send(b"")
        return buffer
    except Exception as error:
        connection.send_string(text_of(error))
        connection.recv()
        raise


def load_bucket(connection, model, payload, buffer):
    try:
        model.load(extract(payload, buffer))
        connection.send(b"")
    except Exception as error:
        connection.send_string(text_of(error))      # and waits for what the engine says to all


def worker_0_2(connection, model):
    buffer = take_handle(connection, model)
    while True:
        payload = pickle.loads(connection.recv())
        if payload is None:
            model.go_wrong("hook")
            connection.send(b"")
            return
        if isinstance(payload, list):
            load_bucket(connection, model, payload, buffer)
        elif isinstance(payload, Exception):
            raise payload
        else:
            raise TypeError(type(payload))


def worker_0_4(connection, model):
    buffer = take_handle(connection, model)
    while True:
        payload = pickle.loads(connection.recv())
        if payload is None:
            if buffer is None:
                model.go_wrong("hook")
                connection.send(b"")
                return
            buffer = None
            gc.collect()
            connection.send(b"")
        elif isinstance(payload, list):
            load_bucket(connection, model, payload, buffer)
        elif isinstance(payload, Exception):
            raise payload
        else:
            raise TypeError(type(payload))


def worker_own(path):
    specification = importlib.util.spec_from_file_location("checkpoint_engine_binding", path)
    binding = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = binding
    specification.loader.exec_module(binding)

    def run(address, model):
        def load(weights):
            model.load([(name, f"torch.{weight.dtype}", weight.shape, weight.memoryview()) for name, weight in weights])

        binding.update_weights_from_ipc(address, load, post_hook=lambda: model.go_wrong("hook"), as_torch=False)

    return run


def run_worker(generation, binding):
    """Reads requests as lines of JSON, answers each with a line for every bucket that it has loaded and a last one."""
    import zmq
    context = zmq.Context()
    own = worker_own(binding) if generation == "own" else None
    run = {"0.1": worker_0_1, "0.2": worker_0_2, "0.4": worker_0_4}.get(generation)
    for line in sys.stdin:
        request = json.loads(line)
        model = Model(request["fault"])
        answer = {"ok": True}
        connection = None
        try:
            if own:
                own(request["address"], model)
            else:
                connection = context.socket(zmq.REP)
                connection.connect(request["address"])
                run(connection, model)
        except Exception as error:
            answer = {"ok": False, "error": text_of(error)}
        finally:
            if connection:
                connection.close()
        answer.update(tensors=model.tensors, buckets=model.buckets)
        print(json.dumps(answer), flush=True)


class Worker:
    def __init__(self, arguments):
        self._arguments, self._process = arguments, None

    def update(self, address, fault, loaded):
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--worker", "--generation", self._arguments.generation, "--binding", self._arguments.binding]
                + (["--torch"] if self._arguments.torch else []), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._process.stdin.write(json.dumps({"address": address, "fault": fault}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            answer = json.loads(line)
            if "ok" in answer:
                return answer
            loaded()
        self._process.wait()
        return {"ok": False, "error": f"worker died with exit status {self._process.returncode}", "tensors": {}, "buckets": 0}


def read_files(folder):
    tensors = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            with open(os.path.join(folder, name), "rb") as file:
                size = struct.unpack("<Q", file.read(8))[0]
                header = json.loads(file.read(size))
                for tensor, entry in header.items():
                    if tensor != "__metadata__":
                        start, end = entry["data_offsets"]
                        file.seek(8 + size + start)
                        tensors[tensor] = ["torch." + SAFETENSORS[entry["dtype"]], entry["shape"], hashlib.sha256(file.read(end - start)).hexdigest()]
    return {"ok": True, "tensors": tensors, "buckets": 0, "files": sorted(os.listdir(folder))}


class Server:
    def __init__(self, arguments):
        self.arguments = arguments
        self.workers = [Worker(arguments) for _ in range(arguments.workers)]
        self.received, self.requests = [], []
        self.unhealthy = arguments.unhealthy
        self.fault = arguments.fault
        self.lock = threading.Lock()
        self.has_loaded = threading.Event()

    def update_workers(self, handles):
        fault, self.fault = self.fault, "" if self.arguments.fault_once else self.fault
        expected = self.arguments.devices.split(",") if self.arguments.devices else [f"{self.arguments.device}-{index}" for index in range(len(self.workers))]
        if sorted(handles) != sorted(expected):
            raise ValueError(f"devices {sorted(handles)} are not {expected}")
        if fault.startswith("slow:"):
            time.sleep(float(fault.partition(":")[2]))      # before a worker hears of it
        results = [None] * len(self.workers)

        def run(index):
            results[index] = self.workers[index].update(handles[expected[index]], fault if index == self.arguments.fault_worker else "", self.has_loaded.set)

        threads = [threading.Thread(target=run, args=(index,)) for index in range(len(self.workers))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.received = results

    def update_files(self, folder):
        if self.fault == "refuse":
            raise ValueError("no such model")
        self.received = [read_files(folder)]

    def problem(self):
        return "\n".join(result["error"] for result in self.received if not result["ok"]) or None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, *_):
        pass

    def address_string(self):
        return "somebody"

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        state = self.server.state
        if self.path == "/health":
            state.unhealthy -= 1
            self.answer(503 if state.unhealthy >= 0 else 200, {})
        elif self.path == "/ping" and state.arguments.kind == "sglang":
            self.answer(200, {})
        elif self.path == "/received":
            self.answer(200, state.received)
        elif self.path == "/loaded":
            state.has_loaded.wait()         # a worker has its first bucket
            self.answer(200, {})
        elif self.path == "/requests":
            self.answer(200, state.requests)
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self):
        state = self.server.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state.requests.append({"path": self.path, "body": body, "authorization": self.headers["Authorization"]})
        with state.lock:
            try:
                getattr(self, "post_" + state.arguments.kind)(state, body)
            except ConnectionError:
                pass        # who asked is gone
            except Exception as error:
                self.answer(500, {"error": {"message": text_of(error)}})

    def post_vllm(self, state, body):
        if self.path != "/collective_rpc":
            self.answer(404, {"detail": "Not Found"})
            return
        if body["method"] == "update_weights_from_ipc":
            state.update_workers(*body["args"])
        elif body["method"] == "reload_weights":
            state.update_files(**{"folder": body["kwargs"]["weights_path"]})
        else:
            raise AttributeError(body["method"])
        problem = state.problem()
        self.answer(500 if problem else 200, {"error": {"message": problem}} if problem else {"results": [None] * len(state.received)})

    def post_sglang(self, state, body):
        if self.path == "/update_weights_from_ipc":
            state.update_workers(body["zmq_handles"])
        elif self.path == "/update_weights_from_disk":
            state.update_files(body["model_path"])
        else:
            self.answer(404, {"detail": "Not Found"})
            return
        problem = state.problem()
        self.answer(400 if problem else 200, {"success": problem is None, "message": problem or "Success"})

    def post_lmdeploy(self, state, body):
        if self.headers["Authorization"] != "Bearer sesame":
            self.answer(401, {"detail": "Please request with valid api key!"})
            return
        if self.path != "/update_weights_from_ipc":
            self.answer(404, {"detail": "Not Found"})
            return
        state.update_workers(body["zmq_handles"])
        problem = state.problem()
        self.answer(400 if problem else 200, {"message": problem or "ok"})


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self):
        connection, _ = super().get_request()
        return connection, ("unix", 0)


class TcpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--kind", choices=("vllm", "sglang", "lmdeploy"), default="vllm")
    parser.add_argument("--generation", choices=("0.1", "0.2", "0.4", "own"), default="0.4")
    parser.add_argument("--binding", default="")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="HOST")
    parser.add_argument("--devices", default="", help="each worker's, where they are no numbers")
    parser.add_argument("--fault", default="")
    parser.add_argument("--fault-worker", type=int, default=0)
    parser.add_argument("--fault-once", action="store_true")
    parser.add_argument("--unhealthy", type=int, default=0)
    parser.add_argument("--uds", default="")
    parser.add_argument("--torch", action="store_true")
    arguments = parser.parse_args()
    try:
        import zmq  # noqa: F401
        if arguments.torch:
            import torch  # noqa: F401
    except ImportError as absent:
        print(json.dumps({"missing": str(absent.name)}), flush=True)
        return
    if arguments.worker:
        if arguments.generation != "own":
            install_host_buffers()
            if not arguments.torch:
                install_torch_stand_in()
        run_worker(arguments.generation, arguments.binding)
        return
    server = UnixServer(arguments.uds, Handler) if arguments.uds else TcpServer(("127.0.0.1", 0), Handler)
    server.state = Server(arguments)
    print(json.dumps({"port": 0 if arguments.uds else server.server_address[1]}), flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()        # whoever started it is gone, or wants it gone
    os._exit(0)


if __name__ == "__main__":
    main()
