"""Ctrl-C ends whatever the main thread waits for, at once, as KeyboardInterrupt."""

import signal
import struct
import sys
import time
import unittest

from support import Case, Child, SilentPeer, ce

LIMIT_SECONDS = 2


class InterruptTests(Case):
    def interrupt(self, child):
        started = time.monotonic()
        child.signal(signal.SIGINT)
        self.assert_interrupted(child, started)

    def assert_interrupted(self, child, started):
        _, errors = child.end(expected=None)
        self.assertLess(time.monotonic() - started, LIMIT_SECONDS)
        self.assertIn(child.process.returncode, (-signal.SIGINT, 130), errors)
        self.assertIn("KeyboardInterrupt", errors)
        self.assertNotIn("Fatal", errors)

    def against_a_silent_peer(self, source):
        peer = self.enter(SilentPeer())
        with Child.python("import sys, checkpoint_engine as ce\nport = sys.argv[1]\n" + source, str(peer.port)) as child:
            self.assertTrue(peer.heard.wait(60), "".join(child.errors))
            self.interrupt(child)

    def test_in_join(self):
        self.against_a_silent_peer("ce.join(f'ce://127.0.0.1:{port}/m', tensors={'t': bytearray(10)})")

    def test_in_wait(self):
        self.against_a_silent_peer("with ce.start_join(f'http://127.0.0.1:{port}/v1/metas') as running:\n    running.wait()")

    def test_in_fetch(self):
        self.against_a_silent_peer("ce.Metas.fetch(f'http://127.0.0.1:{port}/v1/metas')")

    def test_in_fetch_from_a_peer_service(self):
        self.against_a_silent_peer("ce.Metas.fetch(f'ce://127.0.0.1:{port}/m')")

    def test_in_a_join_whose_owner_stands_still(self):
        holder = self.enter(Child.python("""
import sys, checkpoint_engine as ce
with ce.ParameterServer() as server:
    server.register_tensors("m", {"t%d" % index: bytearray(16 << 20) for index in range(8)})
    print("url", server.url("m"), flush=True)
    sys.stdin.readline()
"""))
        url = holder.line("url ")
        source = """
import sys, threading, checkpoint_engine as ce
def take(bucket):
    if bucket.index == 0:
        print("bucket", flush=True)
        sys.stdin.readline()
ce.join(sys.argv[1], on_bucket=take, bucket_bytes=16 << 20)
"""
        with Child.python(source, url) as child:
            child.line("bucket")
            holder.signal(signal.SIGSTOP)
            child.say("go on")
            self.interrupt(child)

    def test_in_register_files(self):
        # A file of zeros that takes seconds to copy and nothing on disk; the child interrupts itself once the copy is under way.
        size = 8 << 30
        header = ('{"t":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)).encode()
        with open(self.folder / "big.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + size)
        source = """
import os, signal, sys, threading, time
from support import ce, resident_bytes
server = ce.ParameterServer(hold=sys.argv[2], pin="none")
before = resident_bytes()
def watch():
    while resident_bytes() < before + (64 << 20):
        time.sleep(0.001)
    print("interrupt", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=watch, daemon=True).start()
try:
    server.register_files("m", sys.argv[1])
except KeyboardInterrupt:
    try:
        server.checkpoint("m")
    except ce.NotFoundError:
        print("nothing is left", flush=True)
    server.close()
    raise
"""
        for hold in ("anon", "memfd"):
            with self.subTest(hold), Child.python(source, self.folder / "big.safetensors", hold) as child:
                child.line("interrupt")
                started = time.monotonic()
                child.line("nothing is left")
                self.assert_interrupted(child, started)

    def test_in_unregister_and_in_begin_of_an_update(self):
        # A join that has stopped reading keeps the owner waiting for the drain; the interrupt leaves at once and the work ends behind it.
        for use in ("server.unregister('m')", "server.updating('m').__enter__()", "server.close()"):
            source = f"""
import socket, sys, threading, checkpoint_engine as ce
server = ce.ParameterServer(drain_timeout=1)
data = {{"t%d" % index: bytearray(32 << 20) for index in range(8)}}
server.register_tensors("m", data)
print("url", server.url("m"), flush=True)
sys.stdin.readline()
try:
    print("now", flush=True)
    {use}
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise
print("not interrupted", flush=True)
"""
            with self.subTest(use), Child.python(source) as child:
                url = child.line("url ")
                with Child.python("""
import sys, checkpoint_engine as ce
def take(bucket):
    print("bucket", flush=True)
    sys.stdin.readline()
ce.join(sys.argv[1], on_bucket=take, bucket_bytes=1 << 20, verify=False)
""", url) as reader:
                    reader.line("bucket")
                    reader.signal(signal.SIGSTOP)
                    child.say("go on")
                    child.line("now")
                    child.signal(signal.SIGINT)
                    first = child.lines.get(timeout=60)
                    if first == "not interrupted":
                        self.skipTest("the owner had nothing to wait for")
                    self.assertEqual(first, "interrupted")
                    started = time.monotonic()
                    child.end(expected=None)
                    self.assertLess(time.monotonic() - started, 10)

    def test_a_handler_that_does_not_raise_lets_it_go_on(self):
        peer = self.enter(SilentPeer())
        source = """
import signal, sys, checkpoint_engine as ce
count = []
signal.signal(signal.SIGUSR1, lambda number, frame: (count.append(number), print("signal", len(count), flush=True)))
try:
    ce.join(f"ce://127.0.0.1:{sys.argv[1]}/m", timeout=2)
except ce.TimedOutError:
    print("timed out", len(count), flush=True)
"""
        with Child.python(source, str(peer.port)) as child:
            self.assertTrue(peer.heard.wait(60))
            child.signal(signal.SIGUSR1)
            child.line("signal 1")
            child.signal(signal.SIGUSR1)
            child.line("signal 2")
            child.line("timed out 2")
            child.end()

    def test_the_interpreter_goes_on_after_it(self):
        peer = self.enter(SilentPeer())
        source = """
import sys, checkpoint_engine as ce
url = f"ce://127.0.0.1:{sys.argv[1]}/m"
into = bytearray(100)
try:
    ce.join(url, tensors={"t": into})
except KeyboardInterrupt:
    into.clear()        # nobody holds it
with ce.ParameterServer() as server:
    server.register_tensors("m", {"t": b"abc"})
    print(ce.join(server.url("m")).checkpoint["t"].tobytes(), flush=True)
"""
        with Child.python(source, str(peer.port)) as child:
            self.assertTrue(peer.heard.wait(60))
            child.signal(signal.SIGINT)
            child.line("b'abc'")
            child.end()


class WorkTests(unittest.TestCase):
    """A blocking call whose waiter went away takes back what it did, whichever is first."""

    def work(self, call):
        undone = []
        return ce._Work(call, lambda: undone.append(True)), undone

    def test_abandoned_before_it_ends(self):
        work, undone = self.work(lambda: work.abandon())
        work.run()
        self.assertEqual(undone, [True])

    def test_abandoned_after_it_has_ended(self):
        work, undone = self.work(lambda: 5)
        work.run()
        self.assertEqual((undone, work.value), ([], 5))
        work.abandon()
        self.assertEqual(undone, [True])

    def test_nothing_is_undone_of_what_failed(self):
        work, undone = self.work(lambda: 1 // 0)
        work.run()
        work.abandon()
        self.assertEqual(undone, [])
        self.assertIsInstance(work.error, ZeroDivisionError)
        self.assertIsNone(work.error.__traceback__)


if __name__ == "__main__":
    sys.exit(unittest.main())
