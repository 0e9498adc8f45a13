"""Joins: where they go, how they are watched, ended and refused."""

import threading
import time
import unittest

from support import PATIENCE, Case, SilentPeer, ce, needs_numpy, np, pattern, plain, read_safetensors, write_model


class DestinationTests(Case):
    def setUp(self):
        super().setUp()
        self.model = write_model(self.folder / "model")
        self.holder = self.server()
        self.holder.register_files("m", self.folder / "model")
        self.url = self.holder.url("m")

    def test_memory(self):
        result = ce.join(self.url, verify="require")
        self.assertEqual(plain(result.checkpoint), self.model)
        self.assertEqual((result.bytes, result.tensors), (sum(len(data) for _, _, data in self.model.values()), len(self.model)))
        self.assertEqual((result.verified, result.unverified_reason), (True, None))
        self.assertEqual(list(result.phases), ["metas", "plan", "allocate", "transfer", "verify", "write"])
        self.assertGreater(result.seconds, 0)
        self.assertGreater(result.gib_per_second, 0)
        self.assertEqual(result.checkpoint.name, "join-checkpoint")
        self.assertIsInstance(result.warnings, tuple)

    def test_memory_of_this_host_is_mapped_where_it_is(self):
        result = ce.join(self.url)
        self.assertEqual(plain(result.checkpoint), self.model)
        self.assertEqual((result.verified, result.unverified_reason), (False, "shared-mapping"))
        self.assertEqual(result.attached_bytes, result.bytes)
        self.assertEqual(len(result.planes), 1)
        self.assertRegex(result.planes[0], r"^rank 0 at 127\.0\.0\.1:[0-9]+: local, attached$")
        for arguments, plane in (({"copy": True}, "local"), ({"transport": "tcp"}, "tcp")):
            copied = ce.join(self.url, **arguments)
            self.assertEqual(plain(copied.checkpoint), self.model)
            self.assertEqual((copied.verified, copied.attached_bytes), (True, 0))
            self.assertIn(f": {plane}", copied.planes[0])
        self.holder.unregister("m")
        self.assertEqual(plain(result.checkpoint), self.model)      # nothing takes it back

    def test_memory_that_the_owner_does_not_offer(self):
        with ce.ParameterServer(transport="tcp") as holder:
            holder.register_files("m", self.folder / "model")
            result = ce.join(holder.url("m"))
            self.assertEqual(plain(result.checkpoint), self.model)
            self.assertIn(": tcp; ", result.planes[0])
            with self.assertRaises(ce.NotSupportedError):
                ce.join(holder.url("m"), transport="local")
        with self.assertRaises(ce.ArgumentError):
            ce.ParameterServer(local_peers="nobody")
        with self.assertRaises(ce.ArgumentError):
            ce.ParameterServer(local_socket="not a path")
        with ce.ParameterServer(local_socket=str(self.folder / "engine.sock"), local_peers="all", hold="memfd", attach_files=True) as holder:
            holder.register_files("m", self.folder / "model")
            self.assertTrue((self.folder / "engine.sock").exists())
            result = ce.join(holder.url("m"), transport="local", attach_files=True)
            self.assertEqual(result.attached_bytes, result.bytes)

    def test_memory_of_a_server_that_serves_on(self):
        with ce.ParameterServer() as second:
            result = ce.join(self.url, server=second, checkpoint_name="mine")
            self.assertEqual(plain(second.checkpoint("mine")), self.model)
            self.holder.unregister("m")
            third = ce.join(second.url("mine"), server=second, checkpoint_name="third")
            with self.assertRaises(ce.AlreadyExistsError):
                ce.join(second.url("mine"), server=second, checkpoint_name="third")
        self.assertEqual(plain(result.checkpoint), self.model)      # the server is closed
        self.assertEqual(plain(third.checkpoint), self.model)

    def test_tensors(self):
        into = {name: bytearray(len(data)) for name, (_, _, data) in self.model.items() if name != "lm_head.weight"}
        result = ce.join(self.url, tensors={name: ce.Bits(into[name], *self.model[name][:2]) for name in into})
        self.assertEqual({name: bytes(data) for name, data in into.items()}, {name: self.model[name][2] for name in into})
        self.assertEqual((result.tensors, result.checkpoint), (len(into), None))
        into["model.norm.weight"].clear()       # nobody holds it any more

    def test_tensors_that_do_not_fit(self):
        for name, array, kind in [("nobody", bytearray(3), ce.NotFoundError), ("größe.重み", bytearray(15), ce.WrongShapeError),
                                  ("größe.重み", ce.Bits(bytearray(15), "I8", (3, 5)), ce.WrongShapeError)]:
            with self.subTest(name), self.assertRaises((kind, ce.ArgumentError, ce.WrongShapeError)) as caught:
                ce.join(self.url, tensors={name: array})
            self.assertIn(name, str(caught.exception))

    def test_directory(self):
        result = ce.join(self.url, directory=self.folder / "copy")
        self.assertEqual(read_safetensors(self.folder / "copy"), self.model)
        self.assertTrue((self.folder / "copy" / "config.json").exists())
        self.assertIsNone(result.checkpoint)
        ce.join(self.url, directory=str(self.folder / "weights"), weights_only=True)
        self.assertFalse((self.folder / "weights" / "config.json").exists())

    def test_nowhere(self):
        result = ce.join(self.url, into="null")
        self.assertEqual((result.tensors, result.checkpoint), (len(self.model), None))

    def test_include_and_exclude(self):
        found = ce.join(self.url, include=["model.*", "lm_head.*"], exclude="*.norm.*").checkpoint
        self.assertEqual(set(found), {"model.embed.weight", "model.scale", "model.mlp.weight", "model.empty", "lm_head.weight"})
        self.assertEqual(set(ce.join(self.url, include="lm_*").checkpoint), {"lm_head.weight"})

    def test_verify(self):
        self.assertEqual(ce.join(self.url, into="null", verify=False).unverified_reason, "disabled")
        with ce.ParameterServer(digest="none") as server:
            server.register_files("m", self.folder / "model")
            result = ce.join(server.url("m"), into="null")
            self.assertEqual((result.verified, result.unverified_reason), (False, "owner-has-no-digests"))
            with self.assertRaises(ce.CheckpointEngineError):
                ce.join(server.url("m"), into="null", verify="require")
        with ce.ParameterServer(digest="sha256") as server:
            server.register_files("m", self.folder / "model")
            self.assertTrue(ce.join(server.url("m"), into="null", verify="require").verified)

    def test_bytes_that_differ_from_their_digest(self):
        server, data = self.server(), bytearray(pattern(1 << 20))
        server.register_tensors("m", {"t": data})
        url = server.url("m")
        self.assertTrue(ce.join(url).verified)
        data[777] ^= 1      # outside an update
        with self.assertRaises(ce.DigestMismatchError):
            ce.join(url)
        into = bytearray(1 << 20)
        with self.assertRaises(ce.DigestMismatchError):
            ce.join(url, tensors={"t": into})


class BucketTests(Case):
    def setUp(self):
        super().setUp()
        self.holder = self.server()
        self.data = {f"t{index}": pattern(10_000 + index, index) for index in range(20)}
        self.holder.register_tensors("m", self.data)
        self.url = self.holder.url("m")

    def test_every_tensor_comes_once(self):
        seen, order, threads = {}, [], set()

        def take(bucket):
            order.append((bucket.index, bucket.count, len(bucket)))
            threads.add(threading.get_ident())
            for tensor in bucket:
                seen[tensor.name] = (tensor.dtype, tensor.shape, tensor.tobytes())
                view = tensor.memoryview()
                self.assertFalse(view.readonly)
                view[0] ^= 0xff     # it may be changed
            self.assertEqual(bucket.memoryview().nbytes, bucket.nbytes)

        result = ce.join(self.url, on_bucket=take, bucket_bytes=65536)
        self.assertEqual(seen, {name: ("U8", (len(data),), data) for name, data in self.data.items()})
        self.assertEqual([index for index, _, _ in order], list(range(len(order))))
        self.assertEqual({count for _, count, _ in order}, {len(order)})
        self.assertEqual(result.buckets, len(order))
        self.assertGreater(len(order), 2)
        self.assertEqual(len(threads), 1)
        self.assertNotIn(threading.get_ident(), threads)

    @needs_numpy
    def test_arrays_of_a_bucket(self):
        sums = {}

        def take(bucket):
            for tensor in bucket.tensors:
                sums[tensor.name] = int(tensor.numpy().sum(dtype=np.int64))

        ce.join(self.url, on_bucket=take)
        self.assertEqual(sums, {name: sum(data) for name, data in self.data.items()})

    def test_what_it_raises_is_what_join_raises(self):
        class Special(Exception):
            pass

        for error in (Special("full"), SystemExit(3), KeyboardInterrupt()):
            calls = []

            def take(bucket, calls=calls, error=error):
                calls.append(bucket.index)
                if bucket.index == 1:
                    raise error

            with self.subTest(repr(error)):
                with self.assertRaises(type(error)) as caught:
                    ce.join(self.url, on_bucket=take, bucket_bytes=65536)
                self.assertIs(caught.exception, error)
                self.assertEqual(calls, [0, 1])

    def test_wait_raises_it_once(self):
        def take(bucket):
            raise ZeroDivisionError

        with ce.start_join(self.url, on_bucket=take) as running:
            with self.assertRaises(ZeroDivisionError):
                running.wait(PATIENCE)
            with self.assertRaises(ce.CallbackError):
                running.wait(PATIENCE)
            self.assertEqual(running.poll().state, "failed")

    def test_a_view_that_is_kept_is_found_out(self):
        kept = []

        def keep(bucket):
            kept.append(bucket.tensors[0].memoryview())

        with self.assertRaisesRegex(BufferError, "kept a view"):
            ce.join(self.url, on_bucket=keep, bucket_bytes=65536)
        self.assertEqual(len(kept), 1)
        kept.clear()

        def keep_tensor(bucket):
            kept.extend(bucket)

        ce.join(self.url, on_bucket=keep_tensor)        # no memory in them
        for use in (kept[0].memoryview, kept[0].tobytes):
            with self.assertRaisesRegex(BufferError, "gone"):
                use()

    def test_a_view_in_a_cycle_is_not_kept(self):
        def cycle(bucket):
            loop = [bucket.tensors[0].memoryview()]
            loop.append(loop)

        ce.join(self.url, on_bucket=cycle, bucket_bytes=65536)

    def test_inside_it_may_poll_and_cancel(self):
        states, errors, ready = [], [], threading.Event()
        box = []

        def take(bucket):
            ready.wait(PATIENCE)
            states.append(box[0].poll().state)
            for forbidden in (box[0].wait, box[0].close):
                try:
                    forbidden()
                except ce.StateError as error:
                    errors.append(error)
            box[0].cancel()

        with ce.start_join(self.url, on_bucket=take, bucket_bytes=65536) as running:
            box.append(running)
            ready.set()
            with self.assertRaises(ce.CancelledError):
                running.wait(PATIENCE)
        self.assertEqual(states, ["running"])       # and no bucket more
        self.assertEqual(len(errors), 2)
        box.clear()


class WatchTests(Case):
    def start_against(self, peer, **options):
        return self.enter(ce.start_join(f"ce://127.0.0.1:{peer.port}/m", **options))

    def test_progress_comes_from_the_waiting_thread(self):
        server = self.server()
        server.register_tensors("m", {"t": bytes(1 << 20)})
        calls = []

        def watch(progress):
            calls.append((threading.get_ident(), progress))

        result = ce.join(server.url("m"), progress=watch)
        self.assertEqual({thread for thread, _ in calls}, {threading.get_ident()})
        last = calls[-1][1]
        self.assertEqual((last.bytes_done >= result.bytes, last.state, last.phase), (True, "done", "ended"), last)
        count = len(calls)
        with self.assertRaises(ZeroDivisionError):
            ce.join(server.url("m"), progress=lambda progress: 1 // 0)
        self.assertEqual(len(calls), count)

    def test_wait_has_a_timeout_of_its_own(self):
        peer = self.enter(SilentPeer())
        running = self.start_against(peer)
        started = time.monotonic()
        for timeout in (0, 0.05):
            with self.assertRaises(TimeoutError) as caught:
                running.wait(timeout)
            self.assertIs(type(caught.exception), TimeoutError)
        self.assertLess(time.monotonic() - started, 5)
        self.assertEqual((running.poll().state, running.poll().bytes_total, running.done), ("running", 0, False))
        running.cancel()
        with self.assertRaises(ce.CancelledError):
            running.wait(PATIENCE)
        self.assertEqual((running.poll().state, running.done), ("cancelled", True))
        running.cancel()        # has ended already

    def test_progress_goes_on_while_nothing_comes(self):
        peer, calls = self.enter(SilentPeer()), []

        def watch(progress):
            calls.append(progress)
            if len(calls) == 3:
                raise InterruptedError("enough")

        with self.assertRaises(InterruptedError):
            ce.join(f"ce://127.0.0.1:{peer.port}/m", progress=watch)
        self.assertEqual({progress.state for progress in calls}, {"running"})

    def test_timeouts_of_the_join(self):
        peer = self.enter(SilentPeer())
        started = time.monotonic()
        with self.assertRaises(ce.TimedOutError) as caught:
            ce.join(f"ce://127.0.0.1:{peer.port}/m", timeout=0.3)
        self.assertIsInstance(caught.exception, TimeoutError)
        with self.assertRaises(ce.TimedOutError):
            ce.Metas.fetch(f"http://127.0.0.1:{peer.port}/v1/metas", timeout=0.3)
        self.assertLess(time.monotonic() - started, 10)

    def test_close_ends_it(self):
        peer = self.enter(SilentPeer())
        running = self.start_against(peer, tensors={"t": bytearray(10)})
        self.assertTrue(peer.heard.wait(PATIENCE))
        started = time.monotonic()
        running.close()
        running.close()
        self.assertLess(time.monotonic() - started, 5)
        for use in (running.poll, running.wait):
            with self.assertRaises(ce.ClosedError):
                use()
        self.assertIn("closed", repr(running))

    def test_a_waiting_thread_is_woken_by_cancel_and_close(self):
        for end in ("cancel", "close"):
            with self.subTest(end):
                peer, errors = self.enter(SilentPeer()), []
                running = self.start_against(peer)

                def wait(running=running, errors=errors):
                    try:
                        running.wait(PATIENCE)
                    except BaseException as error:
                        errors.append(error)

                thread = threading.Thread(target=wait)
                thread.start()
                self.assertTrue(peer.heard.wait(PATIENCE))
                getattr(running, end)()
                thread.join(PATIENCE)
                self.assertIsInstance(errors[0], (ce.CancelledError, ce.ClosedError))

    def test_a_server_that_closes_ends_its_joins(self):
        peer, server = self.enter(SilentPeer()), ce.ParameterServer(listen=False)
        running = self.start_against(peer, server=server)
        server.close()
        with self.assertRaises(ce.CancelledError):
            running.wait(PATIENCE)

    def test_the_result_stays(self):
        server = self.server()
        server.register_tensors("m", {"t": b"x"})
        with ce.start_join(server.url("m")) as running:
            result = running.wait()
            self.assertIs(running.wait(), result)
        self.assertIs(running.wait(), result)
        self.assertTrue(running.done)
        self.assertEqual(result.checkpoint["t"].tobytes(), b"x")


class ArgumentTests(Case):
    def test_arguments_that_are_wrong(self):
        url = "ce://127.0.0.1:1/m"
        for kind, options in [(ValueError, {"into": "null", "directory": "x"}), (ValueError, {"into": "nowhere"}), (ValueError, {"verify": "maybe"}),
                              (TypeError, {"on_bucket": 5}), (TypeError, {"progress": 5}), (TypeError, {"server": 5}), (ValueError, {"lanes": -1}),
                              (TypeError, {"lanes": 1.5}), (ValueError, {"bucket_bytes": -1}), (ValueError, {"timeout": 0}), (TypeError, {"timeout": "1"}),
                              (TypeError, {"tensors": 5}), (TypeError, {"include": [5]}), (ValueError, {"include": "a\0b"}),
                              (ValueError, {"transport": "smoke"}), (TypeError, {"checkpoint_name": b"m"}), (TypeError, {"directory": 5}),
                              (ValueError, {"checkpoint_name": "\ud800"}), (ValueError, {"token": "a\0"})]:
            with self.subTest(repr(options)), self.assertRaises(kind) as caught:
                ce.join(url, **options)
            self.assertNotIsInstance(caught.exception, ce.CheckpointEngineError)
        for source in (None, 5, b"ce://127.0.0.1:1/m"):
            with self.subTest(source), self.assertRaises(TypeError):
                ce.join(source)
        with self.assertRaises(ConnectionError):
            ce.join(url)


if __name__ == "__main__":
    unittest.main()
