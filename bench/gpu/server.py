"""Stands in for an inference server: vLLM's endpoints, for each device a worker with torch that keeps the weights it is given in GPU memory.

usage: server.py --device UUID[,UUID] [--generation 0.4|0.2]    prints its port, serves until its standard input ends

The worker loads as an engine does: what comes in a bucket is copied, on the device, into parameters of its own. /verify compares them with the files of
a checkpoint, bit by bit. Device UUID HOST-0: host memory, through the engine's own worker (to try the whole without a GPU).
"""
import argparse
import concurrent.futures
import gc
import http.server
import json
import os
import pickle
import sys
import threading
import traceback

import model
import zmq_rep

WAIT_SECONDS = 60


class Worker:
    def __init__(self, generation, on_gpu, index):
        self.generation, self.on_gpu, self.index = generation, on_gpu, index
        self.parameters, self.fault, self.buckets = {}, "", 0

    def update(self, address):
        self.buckets = 0
        connection = zmq_rep.Rep(address, WAIT_SECONDS)
        try:
            self._take(connection)
        except Exception:
            self._collect()
            raise
        finally:
            connection.close()

    # Both generations: a handle, lists of tensors, None at the end; 0.4 says None twice, and lets go of the buffer at the first.
    def _take(self, connection):
        function, arguments = pickle.loads(connection.receive())
        try:
            arguments = list(arguments)
            if self.on_gpu:
                arguments[6] = self.index       # in this process, whatever the engine calls it
            buffer = function(*arguments)
            connection.send(b"")
        except Exception as error:
            connection.send(text_of(error))
            connection.receive()
            raise
        while True:
            message = pickle.loads(connection.receive())
            if message is None:
                if self.generation == "0.4" and buffer is not None:
                    buffer = None
                    self._collect()
                    connection.send(b"")
                    continue
                if self.generation == "0.2":
                    buffer = None
                    self._collect()
                connection.send(b"")
                return
            if isinstance(message, Exception):
                raise message
            try:
                self._load(message, buffer)
                connection.send(b"")
            except Exception as error:
                connection.send(text_of(error))

    def _load(self, message, buffer):
        import torch
        self.buckets += 1
        kind, _, at = self.fault.partition(":")
        if at == str(self.buckets):
            if kind == "die":
                os._exit(9)
            raise ValueError(f"no such parameter in bucket {at}")
        for item in message:
            size = model.WIDTHS[str(item["dtype"]).split(".")[-1]] * item["shape"].numel()
            data = buffer[item["offset"]:item["offset"] + size]
            data = data.view(item["dtype"]).view(item["shape"]) if size else torch.empty(item["shape"], dtype=item["dtype"], device=data.device)
            mine = self.parameters.get(item["name"])
            if mine is None or mine.shape != data.shape or mine.dtype != data.dtype:
                self.parameters[item["name"]] = data.clone()
            else:
                mine.copy_(data)
        if self.on_gpu:
            torch.cuda.synchronize(self.index)

    def _collect(self):
        gc.collect()
        if self.on_gpu:
            import torch
            torch.cuda.ipc_collect()

    def verify(self, folder):
        """Compares every tensor with the file's; the names that differ or lack."""
        import torch
        wrong, seen = [], 0
        for name, dtype, shape, data in model.tensors(folder):
            mine = self.parameters.get(name)
            if mine is None or str(mine.dtype).split(".")[-1] != dtype or list(mine.shape) != shape:
                wrong.append(name)
                continue
            seen += 1
            if mine.numel():
                mine = mine.contiguous().view(-1).view(torch.uint8)
                if not torch.equal(torch.frombuffer(data, dtype=torch.uint8).to(mine.device), mine):
                    wrong.append(name)
        return {"equal": seen - len(wrong) if not wrong else seen, "wrong": wrong[:10], "tensors": seen, "held": len(self.parameters)}

    def memory(self):
        if not self.on_gpu:
            return {"used": 0}
        import torch
        self._collect()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.index)
        return {"used": total - free}


def text_of(error):
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True      # as servers do: head and body leave one by one here, and the second would wait 40 ms for the first's receipt

    def log_message(self, *_):
        pass

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(*{"/health": lambda: (200, {}), "/memory": lambda: (200, self.server.workers[0].memory())}[self.path]())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        workers = self.server.workers
        with self.server.turn:
            try:
                if self.path == "/collective_rpc":
                    handles = body["args"][0]
                    with concurrent.futures.ThreadPoolExecutor(len(workers)) as pool:
                        running = [pool.submit(worker.update, handles[device]) for worker, device in zip(workers, self.server.devices)]
                    self.answer(200, {"results": [one.result() for one in running]})
                elif self.path == "/fault":
                    workers[0].fault = body["fault"]
                    self.answer(200, {})
                elif self.path == "/verify":
                    found = [worker.verify(body["folder"]) for worker in workers]
                    self.answer(200, dict(min(found, key=lambda one: one["equal"]), wrong=sum((one["wrong"] for one in found), [])))
            except Exception as error:
                self.answer(500, {"error": {"message": text_of(error).decode()}})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    parser.add_argument("--generation", choices=("0.4", "0.2"), default="0.4")
    arguments = parser.parse_args()
    devices = arguments.device.split(",")
    on_gpu = devices[0].startswith("GPU-")
    import torch
    if on_gpu:
        for index in range(len(devices)):
            torch.zeros(1, device=f"cuda:{index}")      # a context, as a running server has one
    else:
        import checkpoint_engine            # what the pickle of a host buffer names
        checkpoint_engine.map_host_buffer = lambda path, size, map=checkpoint_engine.map_host_buffer: torch.frombuffer(map(path, size), dtype=torch.uint8)
    # vLLM does so at the end of its start (vllm/utils/gc_utils.py, freeze_gc_heap): else each collection looks at all that torch brought.
    gc.collect()
    gc.freeze()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.workers, server.devices, server.turn = [Worker(arguments.generation, on_gpu, index) for index in range(len(devices))], devices, threading.Lock()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
