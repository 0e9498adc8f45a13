"""Part 5: the machine as a host without a GPU: do our planes scale as it does?"""
import json
import os
import subprocess
import time

from report import median, spread

GIB = 1 << 30


def measure(report, engine, folder, size, tools, repeats=3):
    measure_tcp(report, engine, folder, size, tools, repeats)
    measure_local(report, engine, folder, size, tools, repeats)
    measure_registration(report, engine, folder, size)
    measure_many(report, engine, folder, size)


def measure_tcp(report, engine, folder, size, tools, repeats):
    if not tools:
        report.note("host", "bare pump", "left out", "the kit has no tools")
        return
    with subprocess.Popen([os.path.join(tools, "pump"), "serve", str(1 << 30), "reno"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as pump, \
            engine.holder(folder, "--hold", "map") as holder:
        port = pump.stdout.readline().split()[0]
        join = ["join", "--metas-url", holder["metas"], "--transport", "tcp", "--to", "memory", "--no-verify", "--repeat", str(repeats + 1)]
        best = {"pump": 0.0, "ours": 0.0}
        for lanes in (1, 2, 4, 8, 16):
            seconds = [float(line) for line in subprocess.run([os.path.join(tools, "pump"), "receive", port, str(size), "warm", str(repeats), str(lanes)],
                                                              capture_output=True, text=True, check=True).stdout.split()]
            ours = [one["seconds"] for one in engine.report(*join, "--lanes", str(lanes))[0]["rounds"][1:]]
            of_pump, of_ours = size / median(seconds) / GIB, size / median(ours) / GIB
            best["pump"], best["ours"] = max(best["pump"], of_pump), max(best["ours"], of_ours)
            report.at_least("host", f"TCP, {lanes} {'lane' if lanes == 1 else 'lanes'} / bare pump with as many streams", of_ours / of_pump, 0.9, remark=f"{of_ours:.1f} / {of_pump:.1f} GiB/s")
        found = [one["seconds"] for one in engine.report(*join)[0]["rounds"][1:]]
        report.note("host", "TCP, as many lanes as the join finds", f"{size / min(found) / GIB:.1f} GiB/s", f"best fixed count {best['ours']:.1f}, best pump {best['pump']:.1f}")
        pump.stdin.close()


def measure_local(report, engine, folder, size, tools, repeats):
    cores = len(os.sched_getaffinity(0))
    threads = str(min(cores, 16))
    block = 256 << 20
    for hold, kind in (("memfd", "memfd"), ("anon", "anon")):
        with engine.holder(folder, "--hold", hold) as holder:
            join = ["join", "--metas-url", holder["metas"], "--transport", "local", "--copy", "--to", "memory", "--repeat", str(repeats + 1)]
            rates = {}
            for verify in ([], ["--no-verify"]):
                rates[bool(verify)] = size / median([one["seconds"] for one in engine.report(*join, *verify)[0]["rounds"][1:]]) / GIB
            limit = ""
            if tools:
                lines = subprocess.run([os.path.join(tools, "copy"), "memcpy", kind, str(block), str(size), threads, "warm", str(repeats)], capture_output=True, text=True, check=True).stdout.split()
                limit = f"memcpy from such memory by {threads} threads {size / median([float(line) for line in lines]) / GIB:.1f} GiB/s"
            report.note("host", f"copy out of {hold} memory", f"{rates[True]:.1f} GiB/s", f"verified {rates[False]:.1f}; {limit}")
            if hold == "memfd":
                attach = [engine.report("join", "--metas-url", holder["metas"], "--transport", "local", "--to", "memory")[0]["seconds"] for _ in range(repeats + 2)]
                report.below("host", f"attach {size / GIB:.1f} GiB", median(attach) * 1000, 20, " ms", spread([second * 1000 for second in attach], "{:.1f}"))


def measure_registration(report, engine, folder, size):
    for hold in ("map", "anon", "memfd"):
        started = time.perf_counter()
        with engine.holder(folder, "--hold", hold):
            seconds = time.perf_counter() - started
        report.note("host", f"serve --hold {hold}, from start to ready", f"{seconds:.2f} s", f"{size / seconds / GIB:.1f} GiB/s" if hold != "map" else "nothing is copied")


def measure_many(report, engine, folder, size, count=64):
    include = ["--include", "model.layers.[0-3].*"]
    with engine.holder(folder, "--hold", "map") as holder:
        command = [engine.command, "join", "--metas-url", holder["metas"], "--transport", "tcp", "--to", "null", "--json", *include]
        one = [timed(engine, command) for _ in range(5)]
        alone = median([bytes / seconds for bytes, seconds in one[1:]]) / GIB
        started = time.perf_counter()
        joiners = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=engine.environment) for _ in range(count)]
        outputs = [joiner.communicate()[0] for joiner in joiners]
        seconds = time.perf_counter() - started
        if any(joiner.returncode for joiner in joiners):
            report.check("host", f"{count} joiners at once", f"{sum(joiner.returncode != 0 for joiner in joiners)} failed", "none", False)
            return
        reports = [json.loads(output) for output in outputs]
        rate = sum(one["bytes"] for one in reports) / seconds / GIB
        report.at_least("host", f"{count} joiners at once / one after the other", rate / alone, 1, remark=f"{rate:.1f} / {alone:.1f} GiB/s")
        times = [one["seconds"] for one in reports]
        report.below("host", "slowest of them / fastest", max(times) / min(times), 2, "x")


def timed(engine, command):
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=engine.environment, check=True)
    return json.loads(done.stdout)["bytes"], time.perf_counter() - started
