"""The Python end of a world: metas as checkpoint-engine's processes write, read and tell them.

    world.py dump METAS.json METAS.pkl [PROTOCOL]   what pickle.dumps makes of upstream's objects
    world.py load METAS.pkl                         pickle.loads over upstream's class names, told as JSON
    world.py serve METAS.json                       GET /v1/metas (JSON) and GET /v1/checkpoints/NAME/metas (pickle); prints its port, ends with stdin
    world.py torch                                  which torch that was

torch is the real one where Python has it, and the stand-in beside this file where not. The models are pydantic's where that is there in version 2.
"""
import http.server
import json
import os
import pickle
import sys
import threading

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "stand-in"))

import torch
from checkpoint_engine.data_types import MemoryBufferMetaList, MemoryBufferMetas, ParameterMeta


def parameter(meta):
    dtype = getattr(torch, meta["dtype"].removeprefix("torch."))
    return ParameterMeta(name=meta["name"], dtype=dtype, shape=torch.Size(meta["shape"]), aligned_size=meta["aligned_size"])


def buffer(metas):
    return MemoryBufferMetas(metas=[parameter(meta) for meta in metas["metas"]], ptr=metas["ptr"], size=metas["size"])


def from_json(text):
    """Upstream's objects; what upstream does not know is left out, as there."""
    return {
        int(rank): MemoryBufferMetaList(
            p2p_store_addr=owner["p2p_store_addr"],
            memory_buffer_metas_list=[buffer(metas) for metas in owner["memory_buffer_metas_list"]],
            rdma_device=owner["rdma_device"],
        )
        for rank, owner in json.loads(text).items()
    }


def plain(value):
    if isinstance(value, (MemoryBufferMetaList, MemoryBufferMetas, ParameterMeta)):
        return {name: plain(member) for name, member in value.__dict__.items()}
    if isinstance(value, torch.dtype):
        return repr(value)
    if isinstance(value, torch.Size):
        return list(value)
    if isinstance(value, dict):
        return {str(name): plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [plain(member) for member in value]
    assert value is None or type(value) in (int, str), type(value)
    return value


def serve(metas):
    told = json.dumps(plain(metas)).encode()
    pickled = pickle.dumps(metas)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body, kind = (told, "application/json") if self.path == "/v1/metas" else (pickled, "application/octet-stream")
            if not self.path.endswith("/metas"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
    server.shutdown()


def main(command, *arguments):
    if command == "dump":
        with open(arguments[0], encoding="utf-8") as file:
            metas = from_json(file.read())
        with open(arguments[1], "wb") as file:
            pickle.dump(metas, file, *map(int, arguments[2:]))
    elif command == "load":
        with open(arguments[0], "rb") as file:
            metas = pickle.load(file)
        json.dump(plain(metas), sys.stdout)
    elif command == "serve":
        with open(arguments[0], encoding="utf-8") as file:
            serve(from_json(file.read()))
    elif command == "torch":
        print(torch.__version__)
    else:
        sys.exit(__doc__)


main(*sys.argv[1:])
