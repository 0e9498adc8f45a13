"""Part 5, continued: thousands of connections on each listener that say nothing, or half of something, while a join goes on and others ask for health."""
import ctypes
import http.client
import multiprocessing
import os
import resource
import select
import socket
import statistics
import struct
import subprocess
import time

GIB = 1 << 30
LISTENING = "0A"
SCHED_SETATTR, RESET_ON_FORK, SHORTEST_SLICE = 314, 1, 100_000      # linux/sched/types.h, x86-64


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("holder")
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def measure(report, engine, folder, work, count=10_000, phase=3.0):
    reason = raise_limit(count + 1000)
    if reason:
        report.note("flood", f"{count} connections on each listener", "left out", reason)
        return
    path = os.path.join(work, "flood.sock")
    include = ["--include", "model.layers.[0-3].*"]
    with engine.holder(folder, "--hold", "map", "--listen", f"unix:{path}") as holder:
        ports = find_ports(holder["process"])
        join = subprocess.Popen([engine.command, "join", "--metas-url", holder["metas"], "--transport", "tcp", "--to", "memory", "--require-verify", "--repeat", "1000000", *include],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=engine.environment)
        end = multiprocessing.Event()
        try:
            begin = sent(path)
            while sent(path) < begin + GIB:
                if join.poll() is not None:
                    raise RuntimeError(f"the join ended with {join.returncode}")
                time.sleep(0.05)
            started, begin = time.perf_counter(), sent(path)
            calm, _ = probe_for(ports["http"], phase)
            before = (sent(path) - begin) / (time.perf_counter() - started)
            turned_away = overflows()
            pipe, theirs = multiprocessing.Pipe()
            go, ready = multiprocessing.Event(), multiprocessing.Semaphore(0)
            # All processes are there before anything is measured: a fork stops whoever shares memory with the parent for as long as its pages are copied.
            flooders = [multiprocessing.Process(target=flood, args=(port, count, go, ready, end), daemon=True) for port in ports["all"]]
            prober = multiprocessing.Process(target=lambda: theirs.send(probe(ports["http"], end.is_set, ready)), daemon=True)
            for process in [*flooders, prober]:
                process.start()
            theirs.close()
            wait_for(ready, len(flooders) + 1, "the processes that flood and ask")
            started, begin = time.perf_counter(), sent(path)
            go.set()
            wait_for(ready, len(flooders), "the connections")
            opened, opened_bytes = time.perf_counter(), sent(path)
            time.sleep(phase)
            ended, ended_bytes = time.perf_counter(), sent(path)
            end.set()
            answers, unanswered = pipe.recv()
            for process in [prober, *flooders]:
                process.join()
            what = f"{count} connections on each of {len(flooders)} listeners"
            report.check("flood", f"{what}: the join goes on", "goes on" if join.poll() is None else f"ended with {join.returncode}", "goes on", join.poll() is None,
                         f"made within {opened - started:.1f} s; {overflows() - turned_away} found a queue full and tried again")
            report.at_least("flood", "its rate from the first of them on / before", (ended_bytes - begin) / (ended - started) / before, 0.8, remark=f"{before / GIB:.1f} GiB/s before")
            report.at_least("flood", "its rate while they stay / before", (ended_bytes - opened_bytes) / (ended - opened) / before, 0.8)
            report.check("flood", "requests of health that were not answered", len(unanswered), "none", not unanswered, "; ".join(sorted(set(unanswered))))
            report.below("flood", "slowest answer of health meanwhile", max(answers)[0] * 1000, 100, " ms", f"{describe(answers)}; before: {describe(calm)}")
        finally:
            end.set()
            join.kill()
            join.wait()


def wait_for(semaphore, count, what):
    for _ in range(count):
        if not semaphore.acquire(timeout=120):
            raise TimeoutError(f"{what} were not there within 120 s")


def raise_limit(descriptors):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, descriptors),) * 2)
    except (ValueError, OSError) as refused:
        return f"{hard} descriptors a process: {refused}"
    return None


def find_ports(process):
    """Where a process listens over TCP on this host; the HTTP port is told apart by what it answers."""
    sockets = set()
    for descriptor in os.listdir(f"/proc/{process}/fd"):
        try:
            sockets.add(os.readlink(f"/proc/{process}/fd/{descriptor}"))
        except FileNotFoundError:
            pass
    with open("/proc/net/tcp") as lines:
        words = [line.split() for line in list(lines)[1:]]
    ports = [int(word[1].split(":")[1], 16) for word in words if word[3] == LISTENING and f"socket:[{word[9]}]" in sockets]
    return {"all": ports, "http": next(port for port in ports if is_http(port))}


def is_http(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET /v1/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        connection.settimeout(2)
        try:
            return connection.recv(8).startswith(b"HTTP")
        except OSError:
            return False


def sent(path):
    connection = UnixConnection(path)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return float(next(line for line in text.splitlines() if line.startswith("checkpoint_engine_serve_sent_bytes_total")).rsplit(" ", 1)[1])


def overflows():
    """Connections of this host that found no room among those that wait to be accepted."""
    with open("/proc/net/netstat") as lines:
        names, values = [line.split() for line in lines if line.startswith("TcpExt:")]
    return int(values[names.index("ListenOverflows")])


def probe_for(port, seconds):
    end = time.perf_counter() + seconds
    return probe(port, lambda: time.perf_counter() > end)


def probe(port, is_over, ready=None):
    """Seconds to an answer, each over a connection of its own, and when it was asked for; and what came instead of one."""
    shorten_slice()
    answers, unanswered, begin = [], [], time.perf_counter()
    if ready:
        ready.release()
    while not is_over():
        started = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", "/v1/healthz")
            status = connection.getresponse().status
            if status == 200:
                answers.append((time.perf_counter() - started, started - begin))
            else:
                unanswered.append(f"status {status}")
        except OSError as broken:
            unanswered.append(str(broken))
        finally:
            connection.close()
        time.sleep(0.01)
    return answers, unanswered


def shorten_slice():
    """Or where cores are few what is measured is how long this process waits for one, once the answer is there. Linux before 6.12 ignores it."""
    attributes = struct.pack("=IIQiIQQQ", 48, 0, RESET_ON_FORK, 0, 0, SHORTEST_SLICE, 0, 0)
    ctypes.CDLL(None).syscall(SCHED_SETATTR, 0, attributes, 0)


def flood(port, count, go, ready, end):
    """Opens them, every other with three bytes; lets go of what the listener closes, holds the rest."""
    held = []
    ready.release()
    go.wait()
    for i in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        connection.setblocking(False)
        if i % 2:
            try:
                connection.send(b"GET")
            except OSError:
                pass
        held.append(connection)
        if i % 500 == 499:
            held = sweep(held)
    ready.release()
    end.wait()
    for connection in held:
        connection.close()


def sweep(held):
    poll = select.poll()
    for connection in held:
        poll.register(connection, select.POLLIN)
    closed = {descriptor for descriptor, _ in poll.poll(0)}
    for connection in held:
        if connection.fileno() in closed:
            connection.close()
    return [connection for connection in held if connection.fileno() >= 0]


def describe(answers):
    ordered = sorted(seconds for seconds, _ in answers)
    slowest, when = max(answers)
    return (f"{len(ordered)} answers, half within {statistics.median(ordered) * 1000:.1f} ms, 99 % within {ordered[int(len(ordered) * 0.99)] * 1000:.1f} ms, "
            f"slowest {slowest * 1000:.1f} ms, {when:.1f} s after the first")
