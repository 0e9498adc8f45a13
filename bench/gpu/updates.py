"""Parts 2 to 4: weights into a worker's GPU, with torch in a process of its own."""
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request

import model
from engine import EngineError
from report import median, spread

HERE = os.path.dirname(os.path.abspath(__file__))
GIGABYTE = 1e9
GROWTH_BYTES = 64 << 20


class Server:
    def __init__(self, port, device):
        self.device, self.url = device, f"http://127.0.0.1:{port}"

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=120) as answer:
            return json.load(answer)

    def post(self, path, **body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    @property
    def arguments(self):
        return ["--endpoint", self.url, "--inference-parallel-size", str(self.device.count(",") + 1), "--update-devices", "cuda" if self.device.startswith("GPU-") else "host"]


@contextlib.contextmanager
def inference_server(engine, device, generation="0.4"):
    process = subprocess.Popen([sys.executable, os.path.join(HERE, "server.py"), "--device", device, "--generation", generation],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=engine.environment)
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the stand-in server did not start; its error stands above")
        yield Server(int(line), device)
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def measure_copies(report, engine, device, folder, size, repeats=3):
    """Part 2. Rates are of all bytes by the whole update: pinning, messages and loading are in it."""
    again = plain_copy(device, 256 << 20, 40)
    report.note("copies", "cudaMemcpyAsync out of pinned memory, 256 MiB again and again", f"{median(again):.1f} GB/s", spread(again, "{:.1f}"))
    plain = plain_copy(device, size, 1)
    report.note("copies", f"cudaMemcpyAsync out of pinned memory, {size / (1 << 30):.1f} GiB", f"{median(plain):.1f} GB/s", spread(plain, "{:.1f}"))
    for hold, remark in (("anon", "anonymous memory in huge pages"), ("memfd", "a memfd: pages of 4 KiB"), ("map", "files in /dev/shm: pages of 4 KiB")):
        with inference_server(engine, device) as server:
            reports = [engine.report("update", "--checkpoint-path", folder, "--hold", hold, *server.arguments)[0] for _ in range(repeats + 1)][1:]
            rates = [size / one["seconds"] / GIGABYTE for one in reports]
            steady = [sum(bucket["bytes"] for bucket in one["buckets"][1:]) / sum(bucket["copy"] for bucket in one["buckets"][1:]) / GIGABYTE for one in reports]
            last = reports[-1]
            report.note("copies", f"update, --hold {hold}, whole", f"{median(rates):.1f} GB/s", f"{spread(rates, '{:.1f}')}; {remark}; of {last['seconds']:.2f} s connect {last['devices'][0]['connect']:.2f}, first bucket "
                        f"{last['buckets'][0]['copy']:.3f}, copy {sum(bucket['copy'] for bucket in last['buckets']):.2f}, load {sum(bucket['load'] for bucket in last['buckets']):.2f}, finish {last['finish']:.2f}")
            ratio = median(steady) / median(plain)
            report.at_least("copies", f"its copies after the first bucket / cudaMemcpyAsync of the same size, --hold {hold}", ratio, 0.95,
                            remark=f"{spread(steady, '{:.1f}')} GB/s; {median(steady) / median(again):.2f} of 256 MiB again and again")


def measure_several(report, engine, devices, folder, size, repeats=3):
    """All GPUs of the host by one process, beside the first alone: each byte is read from the host once where they are linked."""
    if len(devices) < 2:
        report.note("several", "GPUs in one update", f"{len(devices)}", "this part wants two or more")
        return
    import torch
    linked = all(torch.cuda.can_device_access_peer(index, 0) for index in range(1, len(devices)))
    found = {}
    for some in (devices[:1], devices):
        with inference_server(engine, ",".join(some)) as server:
            reports = [engine.report("update", "--checkpoint-path", folder, "--hold", "memfd", *server.arguments)[0] for _ in range(repeats + 1)][1:]
            check = server.post("/verify", folder=folder)
            report.check("several", f"{len(some)} in one update: tensors equal bit by bit on each", f"{check['equal']} of {check['held']}", "all", check["equal"] == check["held"] and not check["wrong"], ", ".join(check["wrong"]))
            # The stand-in's workers are threads of one process, and let go of the buffer one after the other: the copies are compared, not the whole.
            found[len(some)] = [size / sum(bucket["copy"] for bucket in one["buckets"]) / GIGABYTE for one in reports]
            report.note("several", f"{len(some)} in one update: copied to each at", f"{median(found[len(some)]):.1f} GB/s", spread(found[len(some)], "{:.1f}"))
    ratio = median(found[len(devices)]) / median(found[1])
    remark = "linked: the first reads the host, the others read from it" if linked else "not linked: each reads the host"
    if linked:
        report.at_least("several", f"copies to each of {len(devices)} / to one alone", ratio, 0.9, remark=remark)
    else:
        report.note("several", f"copies to each of {len(devices)} / to one alone", f"{ratio:.2f}", remark)


def plain_copy(device, size, count, repeats=3):
    if not device.startswith("GPU-"):
        return [1.0]
    import torch
    source = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    destination = torch.empty(size, dtype=torch.uint8, device="cuda")
    rates = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            destination.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        rates.append(count * size / (time.perf_counter() - started) / GIGABYTE)
    del source, destination
    torch.cuda.empty_cache()
    getattr(torch._C, "_host_emptyCache", lambda: None)()        # or the pinned memory stays with this process
    return rates[1:]


def check_protocol(report, engine, device, work):
    """Part 3."""
    folder = os.path.join(work, "awkward")
    model.write(folder, model.awkward(), files=2)
    count = len(list(model.awkward()))
    try:
        for generation in ("0.4", "0.2"):
            with inference_server(engine, device, generation) as server:
                update = ["update", "--checkpoint-path", folder, "--bucket-mib", "1", "--worker-protocol", generation, *server.arguments]
                engine.report(*update)
                found = server.post("/verify", folder=folder)
                report.check("protocol", f"workers of {generation}: tensors equal bit by bit", f"{found['equal']} of {count}", "all", found["equal"] == count and not found["wrong"], ", ".join(found["wrong"]))
                before = server.get("/memory")["used"]
                for _ in range(20):
                    engine.report(*update)
                growth = server.get("/memory")["used"] - before
                report.check("protocol", f"workers of {generation}: device memory after 20 more updates", f"{growth / (1 << 20):+.0f} MiB", f"< {GROWTH_BYTES >> 20} MiB", growth < GROWTH_BYTES)
                server.post("/fault", fault="raise:3")
                text = failure(engine, update)
                report.check("protocol", f"workers of {generation}: one that raises in bucket 3", "its text is told" if "no such parameter" in text else text[-200:], "told", "no such parameter" in text)
                server.post("/fault", fault="")
                engine.report(*update)
                found = server.post("/verify", folder=folder)
                report.check("protocol", f"workers of {generation}: the update after it", f"{found['equal']} of {count}", "all", found["equal"] == count)
        with inference_server(engine, device) as server:
            update = ["update", "--checkpoint-path", folder, "--bucket-mib", "1", *server.arguments]
            server.post("/fault", fault="die:2")
            started = time.perf_counter()
            text = failure(engine, update)
            report.check("protocol", "a server that is gone in bucket 2", f"told after {time.perf_counter() - started:.1f} s", "told within 30 s", text and time.perf_counter() - started < 30, text.strip().splitlines()[-1][-160:] if text else "")
        with inference_server(engine, device) as server:
            engine.report("update", "--checkpoint-path", folder, *server.arguments)
            found = server.post("/verify", folder=folder)
            report.check("protocol", "the next server", f"{found['equal']} of {count}", "all", found["equal"] == count)
    finally:
        shutil.rmtree(folder)


def failure(engine, command):
    try:
        engine.report(*command)
    except EngineError as error:
        return error.text
    return ""


def measure_seed(report, engine, device, folder, size, full, repeats=3):
    """Part 4: one process holds the model, another brings it into the worker."""
    for way, holding, joining, most in (("local plane (attach)", ["--hold", "memfd"], ["--transport", "local"], 0.6), ("TCP over the loopback", ["--hold", "map"], ["--transport", "tcp"], 3.0)):
        with engine.holder(folder, *holding) as holder, inference_server(engine, device) as server:
            join = ["join", "--metas-url", holder["metas"], *joining, "--no-verify"]
            verified = ["join", "--metas-url", holder["metas"], *joining]
            engine.report(*verified, *server.arguments)         # digests are made, pages and parameters are there
            both, walls, checked = [], [], []
            for _ in range(repeats):
                one, wall = engine.report(*join, *server.arguments)
                both.append(one)
                walls.append(wall)
                checked.append(engine.report(*verified, *server.arguments)[0])
            alone = [engine.report(*join)[0] for _ in range(repeats)]
            found = server.post("/verify", folder=folder)
            report.check("seed", f"{way}: tensors equal bit by bit", f"{found['equal']} of {found['held']}", "all", found["equal"] == found["held"] and not found["wrong"])
            seconds = [one["total_seconds"] for one in both]
            middle = sorted(both, key=lambda one: one["total_seconds"])[len(both) // 2]
            report.note("seed", f"{way}: phases", phases(middle))
            if full:
                report.below("seed", f"{way}: join and update, {size / (1 << 30):.1f} GiB", median(seconds), most, remark=spread(seconds))
            else:
                report.note("seed", f"{way}: join and update, {size / (1 << 30):.1f} GiB", f"{median(seconds):.2f} s", spread(seconds))
            every = [one["total_seconds"] for one in checked]
            report.note("seed", f"{way}: the same, every byte checked", f"{median(every):.2f} s", spread(every))
            report.note("seed", f"{way}: the whole process", f"{median(walls):.2f} s", spread(walls))
            stages = {"the join": median([one["seconds"] for one in alone]), "the copy": median([sum(bucket["copy"] for bucket in one["update"]["buckets"]) for one in both])}
            slowest = max(stages, key=stages.get)
            opening = median([one["update"]["open"] for one in both])
            report.below("seed", f"{way}: join and update, but for opening the GPU ({opening:.2f} s) / its slowest stage", (median(seconds) - opening) / stages[slowest], 1.1, "", f"{slowest}: {stages[slowest]:.2f} s")


def phases(one):
    update = one["update"]
    join = ", ".join(f"{name} {value:.2f}" for name, value in one["phases"].items() if value >= 0.005)
    return (f"join {one['seconds']:.2f} s ({join}); GPU opened in {update['open']:.2f} beside; update {update['seconds']:.2f} s (connect {update['devices'][0]['connect']:.2f}, "
            f"first bucket {update['buckets'][0]['copy']:.3f}, copy {sum(bucket['copy'] for bucket in update['buckets']):.2f}, load {sum(bucket['load'] for bucket in update['buckets']):.2f}, finish {update['finish']:.2f})")
