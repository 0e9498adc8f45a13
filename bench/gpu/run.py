#!/usr/bin/env python3
"""Checks and measures what needs a GPU, and the planes of its host: see README.md beside it.

usage: run.py [--artifacts DIR] [--gib N] [--parts devices,copies,several,protocol,seed,host,flood] [--json FILE] [--no-gpu]

Ends with 0 when all that was wanted holds, 1 when something is missed, 2 when something that it needs is missing.
"""
import argparse
import datetime
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

import flood
import host
import model
import pinning
import updates
from engine import Engine
from report import Report

GIB = 1 << 30
HERE = os.path.dirname(os.path.abspath(__file__))
PARTS = ("devices", "copies", "several", "protocol", "seed", "host", "flood")


def need(condition, what):
    if not condition:
        print(f"run.py: {what}", file=sys.stderr)
        sys.exit(2)


def machine(on_gpu):
    words = [f"{os.cpu_count()} x {cpu_model()}", f"kernel {platform.release()}", f"Python {platform.python_version()}"]
    if on_gpu:
        import torch
        driver = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
        words = [*words, f"{driver.replace(', ', ', driver ')}", f"torch {torch.__version__}"]
    return "; ".join([*words, datetime.date.today().isoformat()])


def cpu_model():
    with open("/proc/cpuinfo") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown")


def measure_pinning(report, size, work):
    pinning.check_gpudirect(report)
    pinning.measure(report, size, work)


def main():
    parser = argparse.ArgumentParser(description="Checks and measures what needs a GPU, and the planes of its host.")
    parser.add_argument("--artifacts", default=os.path.dirname(HERE), help="the kit: bin, lib, python, zmq, tools; default the folder above this one")
    parser.add_argument("--gib", type=float, default=0, help="a smaller model than the seed's 14.2 GiB")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--json", help="file for the rows")
    parser.add_argument("--no-gpu", action="store_true", help="through host memory: to try the script itself; its figures say nothing of a GPU")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    need(set(parts) <= set(PARTS), f"--parts: of {', '.join(PARTS)}")
    engine = Engine(os.path.abspath(arguments.artifacts))
    need(os.access(engine.command, os.X_OK), f"{engine.command} is missing; make the kit (bench/gpu/kit)")
    need(os.path.isdir(os.path.join(engine.artifacts, "zmq")), f"{engine.artifacts}/zmq is missing; make the kit (bench/gpu/kit)")
    need(importlib.util.find_spec("torch"), f"{sys.executable} has no torch")
    os.environ["CHECKPOINT_ENGINE_LIBRARY"] = engine.environment["CHECKPOINT_ENGINE_LIBRARY"]
    sys.path.insert(0, os.path.join(engine.artifacts, "python"))
    import torch
    on_gpu = not arguments.no_gpu
    need(not on_gpu or torch.cuda.is_available(), "torch sees no GPU; --no-gpu tries the script without one")
    fraction = min(1.0, arguments.gib / 14.2) if arguments.gib else 1.0
    size = sum(model.length(dtype, shape) for _, dtype, shape in model.qwen(fraction))
    free = shutil.disk_usage("/dev/shm").free
    need(free > 1.3 * size, f"/dev/shm has {free / GIB:.1f} GiB free, and {1.3 * size / GIB:.1f} are needed; --gib takes less")
    tools = os.path.join(engine.artifacts, "tools")
    tools = tools if os.path.isdir(tools) else None

    report = Report()
    work = tempfile.mkdtemp(prefix="checkpoint-engine-gpu-", dir="/dev/shm")
    started = time.perf_counter()
    devices, device = [], "HOST-0"
    try:
        print(f"engine {engine.run('--version').strip()}; {machine(on_gpu)}", flush=True)
        if on_gpu:
            import checkpoint_engine
            report.check("devices", "the library loads", checkpoint_engine.library_version(), "loads", True)
            devices = pinning.check_devices(report, engine)
            device = devices[0]
        folder = os.path.join(work, "qwen")
        if {"copies", "several", "seed", "host", "flood"} & set(parts):
            model.write(folder, model.qwen(fraction))
        for part, measure in (("devices", lambda: measure_pinning(report, min(16 * GIB, free // 3), work) if on_gpu else None),
                              ("protocol", lambda: updates.check_protocol(report, engine, device, work)),
                              ("copies", lambda: updates.measure_copies(report, engine, device, folder, size)),
                              ("several", lambda: updates.measure_several(report, engine, devices, folder, size)),
                              ("seed", lambda: updates.measure_seed(report, engine, device, folder, size, fraction == 1.0)),
                              ("host", lambda: host.measure(report, engine, folder, size, tools)),
                              ("flood", lambda: flood.measure(report, engine, folder, work))):
            if part not in parts:
                continue
            try:
                measure()
            except Exception as error:
                traceback.print_exc()
                report.check(part, "ran to its end", f"{type(error).__name__}: {str(error)[-300:]}", "ran", False)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"\n{machine(on_gpu)}; {size / GIB:.1f} GiB; {time.perf_counter() - started:.0f} s\n\n{report.table()}\n")
    print(f"{sum(row['held'] is True for row in report.rows)} held, {len(report.missed)} missed")
    if arguments.json:
        report.save(arguments.json, machine(on_gpu))
    sys.exit(1 if report.missed else 0)


main()
