#!/usr/bin/env python3
"""A trainer that serves its weights: registers its state dict in place, changes it step by step, and lets others read it meanwhile.

    python3 trainer.py --address 10.0.0.5 --steps 100          prints the URL that joiner.py and the command take

Needs numpy or torch, and checkpoint_engine.py with its library: copy both beside this file, or set PYTHONPATH and CHECKPOINT_ENGINE_LIBRARY.
"""

import argparse
import sys
import time

import checkpoint_engine as ce

try:
    import torch
except ImportError:
    torch = None


class TorchModel:
    """A few layers with tied embeddings, in bfloat16."""

    def __init__(self, width):
        embed = torch.nn.Embedding(1000, width)
        head = torch.nn.Linear(width, 1000, bias=False)
        head.weight = embed.weight
        self.model = torch.nn.ModuleDict({"embed": embed, "layer": torch.nn.Linear(width, width), "head": head}).to(torch.bfloat16)

    def state_dict(self):
        return self.model.state_dict()

    @staticmethod
    def step(state, number):
        with torch.no_grad():
            for tensor in state.values():
                tensor.fill_(number)


class NumpyModel:
    """As much without torch, in float32."""

    def __init__(self, width):
        import numpy

        embed = numpy.zeros((1000, width), numpy.float32)
        self.state = {"embed.weight": embed, "layer.weight": numpy.zeros((width, width), numpy.float32), "layer.bias": numpy.zeros(width, numpy.float32),
                      "head.weight": embed}

    def state_dict(self):
        return self.state

    @staticmethod
    def step(state, number):
        for tensor in state.values():
            tensor.fill(number)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", help="IP address of this host to bind and announce (127.0.0.1)")
    parser.add_argument("--token", help="what joiners must prove to know")
    parser.add_argument("--name", default="actor", help="the checkpoint's name (actor)")
    parser.add_argument("--width", type=int, default=1024, help="size of the model (1024)")
    parser.add_argument("--steps", type=int, default=10, help="how often the weights change (10)")
    parser.add_argument("--seconds", type=float, default=1.0, help="time of a step (1)")
    parser.add_argument("--backend", choices=("torch", "numpy"), default="torch" if torch is not None else "numpy")
    parser.add_argument("--keep", action="store_true", help="serve on after the last step, until standard input ends")
    options = parser.parse_args()

    model = (TorchModel if options.backend == "torch" else NumpyModel)(options.width)
    state = model.state_dict()
    with ce.ParameterServer(address=options.address, token=options.token) as server:
        server.register_tensors(options.name, state)        # in place: these very tensors are what joiners read
        print("serving", server.url(options.name), flush=True)
        for number in range(1, options.steps + 1):
            time.sleep(options.seconds)                     # the work of a step
            with server.updating(options.name):             # nobody reads while they change
                model.step(state, number)
            print("step", number, flush=True)
        if options.keep:
            print("done", flush=True)
            sys.stdin.read()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
