#!/usr/bin/python3
"""An inference server with one worker that keeps its weights in host memory: what `update` of bench/CheckpointEngine.ProcessBenchmarks measures with.

Prints one line of JSON with its port and lives until its standard input ends. GET /times answers of the last update, for each bucket, when its loading
began and ended, in seconds of its own clock. Needs pyzmq.
"""

import argparse
import http.server
import importlib.util
import json
import os
import sys
import threading
import time


def load_binding(path):
    specification = importlib.util.spec_from_file_location("checkpoint_engine", path)
    binding = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = binding
    specification.loader.exec_module(binding)
    return binding


class Model:
    """Weights in memory of their own, which the first update makes and later ones write again."""

    def __init__(self):
        self.weights, self.times = {}, []

    def load(self, weights):
        begin = time.perf_counter()
        for name, weight in weights:
            data = weight.memoryview()
            if name in self.weights:
                self.weights[name][:] = data
            else:
                self.weights[name] = memoryview(bytearray(data))
        self.times.append((begin, time.perf_counter()))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1               # an answer in one piece: in two, the second waits for an acknowledgement of the first

    def log_message(self, *_):
        pass

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def do_GET(self):
        self.answer(200, {"times": self.server.model.times} if self.path == "/times" else {})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model = self.server.model
        model.times = []
        self.server.binding.update_weights_from_ipc(request["args"][0]["HOST-0"], model.load, as_torch=False)
        self.answer(200, {"results": [None]})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binding", required=True, help="checkpoint_engine.py")
    arguments = parser.parse_args()
    try:
        import zmq  # noqa: F401
    except ImportError:
        print(json.dumps({"missing": "python3-zmq"}), flush=True)
        return
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.model, server.binding = Model(), load_binding(arguments.binding)
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
