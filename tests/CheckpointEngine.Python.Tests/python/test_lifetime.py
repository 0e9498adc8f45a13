"""What keeps what: views, references, leaks, the end of the process."""

import gc
import threading
import unittest
import weakref

from support import NO_TORCH, PATIENCE, Case, Child, SilentPeer, ce, descriptors, import_torch, needs_numpy, np, pattern, resident_bytes


class ViewTests(Case):
    """A view stays valid as long as it lives, even if everything else is gone."""

    def joined_view(self, take):
        """The view of a joined tensor, after all else was closed and collected; and a weak reference to the memory."""
        with ce.ParameterServer() as server:
            server.register_tensors("m", {"t": pattern(1 << 20)})
            with ce.ParameterServer(listen=False) as joiner:
                result = ce.join(server.url("m"), server=joiner, checkpoint_name="copy")
                memory = weakref.ref(result.checkpoint._memory)
                view = take(result.checkpoint["t"])
                result.checkpoint.close()
                joiner.unregister("copy")
        del result, server, joiner
        gc.collect()
        return view, memory

    def check(self, take, read):
        view, memory = self.joined_view(take)
        self.assertIsNotNone(memory())
        self.assertEqual(read(view), pattern(1 << 20))
        del view
        self.assert_collected(memory, "the memory")

    def test_a_tensor(self):
        self.check(lambda tensor: tensor, lambda tensor: tensor.tobytes())

    def test_a_memoryview(self):
        self.check(lambda tensor: tensor.memoryview(), bytes)
        self.check(lambda tensor: tensor.memoryview().cast("I")[:], bytes)

    @needs_numpy
    def test_a_numpy_array(self):
        self.check(lambda tensor: tensor.numpy(), lambda array: array.tobytes())
        self.check(lambda tensor: tensor.numpy()[::2][::-1], lambda array: array.base.tobytes() if array.base.size == 1 << 20 else bytes(array.base))
        view, _ = self.joined_view(lambda tensor: tensor.numpy())
        with self.assertRaises(ValueError):
            view[0] = 1

    def test_a_torch_tensor(self):
        if import_torch() is None:
            self.skipTest(NO_TORCH)
        self.check(lambda tensor: tensor.torch(), lambda tensor: tensor.numpy().tobytes())
        self.check(lambda tensor: tensor.torch().view(4, -1), lambda tensor: tensor.numpy().tobytes())

    def test_of_files_after_the_server(self):
        from support import write_model
        model = write_model(self.folder / "model")
        with ce.ParameterServer() as server:
            server.register_files("m", self.folder / "model")
            view = server.checkpoint("m")["lm_head.weight"].memoryview()
            server.unregister("m")
        gc.collect()
        self.assertEqual(bytes(view), model["lm_head.weight"][2])


class ReferenceTests(Case):
    """Nothing keeps the caller's objects longer than it needs them."""

    class Payload(bytearray):
        pass

    def holder(self):
        server = self.server()
        server.register_tensors("m", {f"t{index}": pattern(5000, index) for index in range(10)})
        return server.url("m")

    def test_filled_tensors_are_let_go(self):
        url, payload = self.holder(), self.Payload(5000)
        gone = weakref.ref(payload)
        with ce.start_join(url, tensors={"t0": payload}) as running:
            running.wait()
        del payload
        self.assert_collected(gone, "the tensor")
        self.assertIsNotNone(running)

    def test_on_bucket_is_let_go(self):
        url = self.holder()

        class Take:
            def __call__(self, bucket):
                pass

        take = Take()
        gone = weakref.ref(take)
        gc.disable()        # without the help of the collector
        try:
            ce.join(url, on_bucket=take)
            del take
            self.assertIsNone(gone())
        finally:
            gc.enable()

    def test_an_exception_keeps_no_more_than_its_frames(self):
        url = self.holder()
        references = []

        def take(bucket):
            payload = self.Payload(1000)
            references.append(weakref.ref(payload))
            raise ZeroDivisionError

        gc.collect()
        gc.disable()
        try:
            try:
                ce.join(url, on_bucket=take)
            except ZeroDivisionError:
                self.assertIsNotNone(references[0]())       # a debugger sees it
            self.assertIsNone(references[0]())
        finally:
            gc.enable()

    def test_views_in_the_frames_of_an_exception_are_cleared(self):
        url = self.holder()

        def take(bucket):
            view = bucket.tensors[0].memoryview()
            view[0] = 1
            raise ZeroDivisionError

        try:
            ce.join(url, on_bucket=take)
        except ZeroDivisionError as error:
            trace = error.__traceback__
            while trace is not None:
                self.assertNotIn("view", trace.tb_frame.f_locals)
                trace = trace.tb_next

    def test_a_dropped_join_ends(self):
        peer, payload = self.enter(SilentPeer()), self.Payload(100)
        gone = weakref.ref(payload)
        running = ce.start_join(f"ce://127.0.0.1:{peer.port}/m", tensors={"t": payload})
        self.assertTrue(peer.heard.wait(PATIENCE))
        join = weakref.ref(running)
        del running, payload
        self.assert_collected(join, "the join")
        self.assert_collected(gone, "the tensor")

    def test_a_join_collected_on_the_thread_of_its_callback(self):
        url, ready, gone = self.holder(), threading.Event(), threading.Event()

        class Cycle:
            pass

        box = []

        def take(bucket):
            ready.wait(PATIENCE)
            if bucket.index == 0:
                box.clear()         # the last outer reference
                gc.collect()
                gone.set()

        cycle = Cycle()
        cycle.itself = cycle
        box.append(cycle)
        cycle.join = ce.start_join(url, on_bucket=take, bucket_bytes=8192)
        collected = weakref.ref(cycle)
        del cycle
        ready.set()
        self.assertTrue(gone.wait(PATIENCE))
        self.wait_until(lambda: collected() is None, "the end of the cycle")
        self.wait_until(lambda: not any(thread.name == "checkpoint_engine destroy" for thread in threading.enumerate()), "the end of the join")

    def test_a_dropped_server_closes(self):
        server = ce.ParameterServer()
        payload = self.Payload(100)
        server.register_tensors("m", {"t": payload})
        url, gone = server.url("m"), weakref.ref(payload)
        del server, payload
        self.assert_collected(gone, "the tensor")
        with self.assertRaises(ConnectionError):
            ce.join(url)


class LeakTests(Case):
    JOINS = 200

    def steady(self, work):
        """Descriptors stay as they are, memory nearly: with 1 MiB a join, a leak of each would be 200 MiB."""
        for _ in range(40):
            work()
        gc.collect()
        files, memory = descriptors(), resident_bytes()
        for _ in range(self.JOINS):
            work()
        gc.collect()
        self.wait_until(lambda: descriptors() <= files + 2, f"{files} descriptors again (now {descriptors()})")
        grown = resident_bytes() - memory
        self.assertLess(grown, 48 << 20, f"{grown >> 20} MiB more after {self.JOINS} joins")

    def holder(self):
        server = self.server()
        server.register_tensors("m", {f"t{index}": pattern(256 << 10, index) for index in range(4)})
        return server.url("m")

    def test_joins_to_memory(self):
        url = self.holder()
        self.steady(lambda: ce.join(url).checkpoint["t0"].memoryview())

    def test_joins_to_tensors_and_buckets(self):
        url, into, turn = self.holder(), bytearray(256 << 10), [0]

        def work():
            turn[0] += 1
            if turn[0] % 2:
                ce.join(url, tensors={"t1": into})
            else:
                ce.join(url, on_bucket=lambda bucket: bucket.tensors[0].tobytes(), bucket_bytes=256 << 10)

        self.steady(work)

    def test_failing_joins_and_fetches(self):
        url, turn = self.holder(), [0]

        def work():
            turn[0] += 1
            with self.assertRaises(ce.CheckpointEngineError if turn[0] % 4 < 3 else ZeroDivisionError):
                if turn[0] % 4 == 0:
                    ce.Metas.fetch(url + "x")
                elif turn[0] % 4 == 1:
                    ce.join(url + "x")
                elif turn[0] % 4 == 2:
                    ce.join(url, tensors={"nobody": bytearray(5)})
                else:
                    ce.join(url, on_bucket=lambda bucket: 1 // 0)

        self.steady(work)

    def test_registrations_and_updates(self):
        server, data = self.server(), bytearray(1 << 20)

        def work():
            server.register_tensors("m", {"t": data})
            with server.updating("m"):
                data[0] ^= 1
            server.metas("m").to_pickle()
            server.checkpoint("m")
            server.unregister("m")

        self.steady(work)


class EndTests(Case):
    """A process that closes nothing ends well."""

    def test_everything_left_open(self):
        peer = self.enter(SilentPeer())
        source = """
import sys, checkpoint_engine as ce
server = ce.ParameterServer()
server.register_tensors("m", {"t": bytearray(1 << 20)})
joined = ce.join(server.url("m"), server=server)
view = joined.checkpoint["t"].memoryview()
running = ce.start_join("ce://127.0.0.1:%s/m" % sys.argv[1], server=server, on_bucket=lambda bucket: None)
other = ce.start_join("ce://127.0.0.1:%s/m" % sys.argv[1], tensors={"t": bytearray(10)})
bucket = ce.start_join(server.url("m"), server=server, on_bucket=lambda bucket: bucket.memoryview()[0], bucket_bytes=1)
print("end", flush=True)
"""
        with Child.python(source, str(peer.port)) as child:
            child.line("end")
            _, errors = child.end()
        self.assertEqual(errors, "")

    def test_daemon_threads_in_waits(self):
        peer = self.enter(SilentPeer())
        source = """
import sys, threading, checkpoint_engine as ce
started = threading.Barrier(3)
def wait():
    with ce.start_join("ce://127.0.0.1:%s/m" % sys.argv[1]) as running:
        started.wait()
        running.wait()
def fetch():
    started.wait()
    ce.Metas.fetch("http://127.0.0.1:%s/v1/metas" % sys.argv[1])
for work in (wait, fetch):
    threading.Thread(target=work, daemon=True).start()
started.wait()
print("end", flush=True)
"""
        with Child.python(source, str(peer.port)) as child:
            child.line("end")
            child.end()


if __name__ == "__main__":
    unittest.main()
