#!/usr/bin/env python3
"""What RDMA reads reach on this machine's devices by perftest, and beside it, in turns, what our lane reaches.

    bench/rdma/perftest.py [--passes 3] [--devices 4] [--ours bench/CheckpointEngine.Benchmarks/bin/Release/net10.0/CheckpointEngine.Benchmarks]

Where there are no devices it runs itself in the guest of tests/rdma-lab/lab: one boot for the whole run. Emulated software
devices say nothing about hardware; the ratio of two programs that alternate on them is what the run is for.
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEVICES = pathlib.Path("/sys/class/infiniband")
WHOLE = 256 << 20       # bytes of "a whole checkpoint"
PATIENCE = 120          # seconds that one program may take
SHORTEST = 0.2          # seconds that several programs have to read at the same time
TRIES = 4


class Failed(Exception):
    pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def start(arguments):
    return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(process, deadline):
    try:
        output, _ = process.communicate(timeout=max(1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise Failed(f"{shlex.join(process.args)} took more than {PATIENCE} s\n{output}") from None
    if process.returncode != 0:
        raise Failed(f"{shlex.join(process.args)} ended with {process.returncode}\n{output}")


def wait_for_listener(port, process, deadline):
    """Until somebody listens at the port; asked of the kernel, since perftest takes a first connection for its client's."""
    wanted = f":{port:04X} "
    while True:
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in pathlib.Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if f"{fields[1]} ".endswith(wanted) and fields[3] == "0A":
                    return
        if process.poll() is not None or time.monotonic() > deadline:
            return      # its end says why
        time.sleep(0.01)


def figures(report):
    """The numbers of perftest's JSON by name; the names have no quotes there, so that it is read as lines."""
    return {name: float(value) for name, value in re.findall(r'^\s*"?(\w+)"?: ([\d.]+),?$', report, re.M)}


def perftest(program, pairs, *more):
    """One server and one client for each (holder, reader) pair of devices, at the same time; the clients' results."""
    deadline = time.monotonic() + PATIENCE
    running = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            ports = [free_port() for _ in pairs]
            common = [program, "-F", "-x", "1", *more]
            for (holder, _), port in zip(pairs, ports):
                running.append(start([*common, "-d", f"rxe{holder}", "-p", str(port)]))
            for process, port in zip(running[:], ports):
                wait_for_listener(port, process, deadline)
            results = [f"{folder}/{i}.json" for i in range(len(pairs))]
            for (holder, reader), port, result in zip(pairs, ports, results):
                tell = ["--out_json", f"--out_json_file={result}"]
                running.append(start([*common, *tell, "-d", f"rxe{reader}", "-p", str(port), f"198.18.0.{holder + 1}"]))
            for process in reversed(running):   # clients first: theirs are the errors that say something
                end(process, deadline)
            # Its JSON has names without quotes, so it is read as lines.
            return [figures(pathlib.Path(result).read_text()) for result in results]
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
                    process.communicate()


class Packets(threading.Thread):
    """Watches what the devices receive while a program runs."""

    def __init__(self, devices):
        super().__init__(daemon=True)
        self.files = [DEVICES / f"rxe{device}" / "ports" / "1" / "hw_counters" / "rcvd_pkts" for device in devices]
        self.samples = []
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(0.005):
            self.samples.append((time.monotonic(), [int(file.read_text()) for file in self.files]))

    def rate_of_all(self, bytes_of_each):
        """Bytes a second while every device read, or None if they hardly did at the same time."""
        self.over.set()
        self.join()
        first, last = self.samples[0][1], self.samples[-1][1]
        done = [(at, [(now - a) / max(1, b - a) for now, a, b in zip(counts, first, last)]) for at, counts in self.samples]
        together = [(at, parts) for at, parts in done if min(parts) > 0.02 and max(parts) < 0.98]      # but for the first and last packets
        if len(together) < 2 or together[-1][0] - together[0][0] < SHORTEST:
            return None
        (begin, before), (end, after) = together[0], together[-1]
        return (sum(after) - sum(before)) * bytes_of_each / (end - begin)


def bandwidth(pairs, size, total, queue_pairs=1):
    """MB/s (10^6) of all pairs together; None when they hardly read at the same time."""
    count = total // size // len(pairs) // queue_pairs * queue_pairs
    # 16 reads in flight, as many as ours; the timeout (4.096 us << 18) is long, or emulated devices drown in what they send again. Counted runs, not
    # timed ones: at the end of those a server takes its queue pair away while a slow client still reads.
    arguments = ["ib_read_bw", pairs, "-s", str(size), "-n", str(count // queue_pairs), "-q", str(queue_pairs), "-o", "16", "-t", "16", "-u", "18"]
    if len(pairs) == 1:
        return perftest(*arguments)[0]["BW_average"] * (1 << 20) / 1e6
    # Its programs begin up to half a second apart, and who is alone is faster: only while all of them read do they share the processors as ours do.
    packets = Packets([reader for _, reader in pairs])
    packets.start()
    perftest(*arguments)
    rate = packets.rate_of_all(count * size)
    return None if rate is None else rate / 1e6


def latency(pairs):
    """Microseconds of one read of 4 KiB, half of them faster; the mean of the pairs."""
    return statistics.mean(result["t_typical"] for result in perftest("ib_read_lat", pairs, "-s", "4096", "-n", "1000"))


class Ours:
    """Our own lane in two processes, which start once: a program that is compiled as it runs should not be measured while it is."""

    def __init__(self, program, pairs):
        devices = ",".join(f"rxe{holder}" for holder, _ in pairs)
        self.holder = self.start(program, "rdma-serve", str(WHOLE), devices, f"198.18.0.{pairs[0][0] + 1}")
        segment, address = self.holder.stdout.readline().split()
        readers = ",".join(f"rxe{reader}" for _, reader in pairs)
        self.reader = self.start(program, "rdma-read", segment, address, str(WHOLE), readers)
        print(f"{len(pairs)} devices: {self.reader.stdout.readline().strip()}", file=sys.stderr)
        for _ in range(3):
            self.ask("bw", 1 << 20, WHOLE // 8)

    @staticmethod
    def start(*arguments):
        return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, what, block, count):
        self.reader.stdin.write(f"{what} {block} {count}\n")
        self.reader.stdin.flush()
        line = self.reader.stdout.readline()
        if not line:
            raise Failed(f"our reader ended with {self.reader.wait()}")
        return float(line)

    def bandwidth(self, size, total):
        return total / self.ask("bw", size, total) / 1e6

    def latency(self):
        return self.ask("lat", 4096, 1000)


def busy():
    """Seconds that all processors have worked so far, in programs and in the kernel: software devices work in neither's name."""
    fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def measure(options):
    count = len(list(DEVICES.iterdir()))
    if count < 2:
        raise Failed(f"needs two devices, there is {count}")
    one = [(0, 0)]
    many = [(i, i) for i in range(count)]       # on one rail, as ours take them
    rows = []       # name, unit, how it is measured (once a pass), the row of ours that it is the limit of
    for pairs, label in ((one, "1 device"), (many, f"{count} devices")):
        us = Ours(options.ours, pairs) if options.ours else None
        for name, size, total in (("64 KiB", 65536, WHOLE), ("1 MiB", 1 << 20, WHOLE // 2), ("256 MiB in reads of 1 MiB", 1 << 20, WHOLE)):
            for queue_pairs in (1, 4):      # ours has 2 lanes of 2
                rows.append((f"ib_read_bw -q {queue_pairs}, {name}, {label}", "MB/s",
                             lambda p=pairs, s=size, t=total, q=queue_pairs: bandwidth(p, s, t, q), f"ours, {name}, {label}"))
            if us:
                rows.append((f"ours, {name}, {label}", "MB/s", lambda u=us, s=size, t=total: u.bandwidth(s, t), None))
        rows.append((f"ib_read_lat, 4 KiB, {label}", "us", lambda p=pairs: latency(p), f"ours, one read of 4 KiB, {label}"))
        if us:
            rows.append((f"ours, one read of 4 KiB, {label}", "us", us.latency, None))
    rows = [row for row in rows if re.search(options.only, row[0]) or (row[3] and re.search(options.only, row[3]))]
    if not rows:
        raise Failed(f"--only '{options.only}' takes no row")
    samples = {name: [] for name, _, _, _ in rows}
    work = {name: [] for name, _, _, _ in rows}
    for number in range(options.passes):
        for name, unit, run, _ in rows if number % 2 == 0 else reversed(rows):
            for _ in range(TRIES):
                before = busy()
                sample = run()
                if sample is not None:
                    break
            else:
                raise Failed(f"{TRIES} times the programs of '{name}' did not read at the same time for {SHORTEST} s")
            samples[name].append(sample)
            work[name].append(busy() - before)
            print(f"pass {number + 1} of {options.passes}: {name}: {samples[name][-1]:.1f} {unit}", file=sys.stderr, flush=True)
    medians = {name: statistics.median(samples[name]) for name, _, _, _ in rows}
    print("\n| what | median | range | ours / it | processor, with the start of its programs | ours / it |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, unit, _, beside in rows:
        ratios = [a / b for a, b in zip(samples[beside], samples[name])] if beside in samples else []
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
        effort = f"{statistics.median(work[beside]) / statistics.median(work[name]):.2f}" if ratios else ""
        print(f"| {name} | {medians[name]:.1f} {unit} | {min(samples[name]):.1f} to {max(samples[name]):.1f} | {ratio} | {statistics.median(work[name]):.2f} s | {effort} |")
    if options.json:
        print(json.dumps({name: {"unit": unit, "median": medians[name], "samples": samples[name]} for name, unit, _, _ in rows}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--devices", type=int, default=4, help="of the guest, where one is booted")
    parser.add_argument("--mem", default="4G", help="of the guest")
    parser.add_argument("--ours", metavar="PROGRAM", help="CheckpointEngine.Benchmarks as it was built: its lane is measured beside each row")
    parser.add_argument("--only", metavar="REGEX", default="", help="only rows whose name matches, or whose companion's does: '64 KiB, 4 dev', '^ours, 1 MiB'")
    parser.add_argument("--json", action="store_true", help="a line of JSON after the table")
    options = parser.parse_args()
    if not DEVICES.is_dir() or not any(DEVICES.iterdir()):
        lab = str(ROOT / "tests" / "rdma-lab" / "lab")
        inside = ["/usr/bin/python3", __file__, *sys.argv[1:]]
        os.execv(lab, [lab, "--devices", str(options.devices), "--mem", options.mem, "--timeout", "900", "--", *inside])
    try:
        measure(options)
    except Failed as failure:
        print(f"perftest.py: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
