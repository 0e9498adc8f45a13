#!/usr/bin/env python3
"""Joins a holder's weights, into memory or into its own tensors, and prints the rate.

    python3 joiner.py ce://10.0.0.5:40123/actor
    python3 joiner.py http://10.0.0.5:19700/v1/metas --into tensors

Needs checkpoint_engine.py with its library: copy both beside this file, or set PYTHONPATH and CHECKPOINT_ENGINE_LIBRARY. With numpy or torch it shows
what the tensors are there.
"""

import argparse
import sys

import checkpoint_engine as ce

try:
    import torch
except ImportError:
    torch = None


def own_tensors(metas):
    """A tensor of our own for each in the metas, where torch has its type; else its bits."""
    tensors = {}
    for info in metas:
        if torch is not None and info.dtype == "BF16":
            tensors[info.name] = torch.empty(info.shape, dtype=torch.bfloat16)
        elif torch is not None and info.dtype == "F32":
            tensors[info.name] = torch.empty(info.shape, dtype=torch.float32)
        else:
            tensors[info.name] = ce.Bits(bytearray(info.nbytes), info.dtype, info.shape)
    return tensors


def show_progress(progress):
    if progress.bytes_total and sys.stderr.isatty():
        print(f"\r{100 * progress.bytes_done // progress.bytes_total:3} %  {progress.lanes} lanes", end="", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="where the metas are: ce://host:port/NAME, http://host:port/v1/metas, or file:///path")
    parser.add_argument("--token", help="what the holder demands")
    parser.add_argument("--into", choices=("memory", "tensors", "null"), default="memory")
    parser.add_argument("--first", type=int, default=5, help="tensors to show (5)")
    options = parser.parse_args()

    try:
        if options.into == "tensors":
            metas = ce.Metas.fetch(options.url, token=options.token)
            tensors = own_tensors(metas)
            result = ce.join(metas, tensors=tensors, token=options.token, progress=show_progress)
        else:
            tensors = {}
            result = ce.join(options.url, into=options.into, token=options.token, progress=show_progress)
    except ce.CheckpointEngineError as error:
        print(f"joiner.py: {error}", file=sys.stderr)
        return 1

    for warning in result.warnings:
        print("warning:", warning, file=sys.stderr)
    verified = "every byte verified" if result.verified else f"not verified: {result.unverified_reason}"
    print(f"{result.tensors} tensors, {result.bytes / 2**20:.1f} MiB in {result.seconds:.3f} s: {result.gib_per_second:.2f} GiB/s, {verified}")
    if result.checkpoint is not None:
        tensors = {name: tensor.torch() if torch is not None else tensor.memoryview() for name, tensor in result.checkpoint.items()}
    for name, tensor in list(tensors.items())[:options.first]:
        print(f"  {name}: {tensor.flatten()[:4].tolist() if torch is not None and isinstance(tensor, torch.Tensor) else tensor}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
