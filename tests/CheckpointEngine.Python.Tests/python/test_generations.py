"""Versions that follow each other, and owners that come and go: replaced, joined again, followed, replicas."""

import gc
import threading
import time
import unittest
import weakref

from support import PATIENCE, Case, Serve, ce, plain, small_model, write_safetensors


class GenerationCase(Case):
    def setUp(self):
        super().setUp()
        self.first = small_model()
        self.first["large"] = ("U8", (12 << 20,), bytes(range(256)) * (12 << 12))       # what is reused comes in pieces of a few MiB
        self.second = {**self.first, "model.norm.weight": ("F32", (7,), b"new!" * 7)}
        for name, model in (("first", self.first), ("second", self.second)):
            (self.folder / name).mkdir()
            write_safetensors(self.folder / name / "model.safetensors", model)
        self.joiner = self.server(listen=False)

    def dead_url(self):
        with ce.ParameterServer() as server:
            return server.url("m")


class ReplaceTests(GenerationCase):
    def test_files_while_a_join_reads_the_old_ones(self):
        holder = self.server()
        holder.register_files("m", self.folder / "first")
        entered, go_on, seen = threading.Event(), threading.Event(), {}

        def on_bucket(bucket):
            entered.set()
            self.assertTrue(go_on.wait(PATIENCE))
            seen.update({tensor.name: (tensor.dtype, tensor.shape, tensor.tobytes()) for tensor in bucket})

        with ce.start_join(holder.url("m"), on_bucket=on_bucket, bucket_bytes=1, transport="tcp") as slow:
            self.assertTrue(entered.wait(PATIENCE))
            with self.assertRaises(ce.AlreadyExistsError):
                holder.register_files("m", self.folder / "second")
            with self.assertRaises(ce.NotFoundError):
                holder.register_files("m", self.folder / "nowhere", replace=True)
            self.assertEqual(plain(holder.checkpoint("m")), self.first)
            holder.register_files("m", self.folder / "second", replace=True)
            self.assertEqual(plain(ce.join(holder.url("m"), transport="tcp").checkpoint), self.second)
            go_on.set()
            slow.wait(PATIENCE)
        self.assertEqual(seen, self.first)

    def test_tensors_that_are_replaced_are_kept(self):
        class Block(bytearray):
            pass

        holder, block = ce.ParameterServer(), Block(b"abc")
        gone = weakref.ref(block)
        holder.register_tensors("m", {"t": block})
        del block
        holder.register_files("m", self.folder / "first", replace=True)
        holder.unregister("m")
        gc.collect()
        self.assertIsNotNone(gone())        # somebody may read it still
        holder.close()
        self.assert_collected(gone, "the array")

    def test_a_join_takes_what_has_not_changed_from_the_earlier_version(self):
        with Serve(self.folder / "first") as before, Serve(self.folder / "second") as after:
            result = ce.join(before.url, self.joiner, checkpoint_name="mine", transport="tcp", earlier_checkpoint="nobody")
            self.assertEqual(result.reused_bytes, 0)
            with self.assertRaises(ce.AlreadyExistsError):
                ce.join(after.url, self.joiner, checkpoint_name="mine")
            with self.assertRaises(ce.UnreachableError):
                ce.join(self.dead_url(), self.joiner, checkpoint_name="mine", replace=True)
            self.assertEqual(plain(self.joiner.checkpoint("mine")), self.first)
            again = ce.join(after.url, self.joiner, checkpoint_name="mine", transport="tcp", replace=True, earlier_checkpoint="mine")
        self.assertTrue(again.verified)
        self.assertGreater(again.reused_bytes, again.bytes // 2)
        self.assertLess(again.reused_bytes, again.bytes)
        self.assertEqual(plain(self.joiner.checkpoint("mine")), self.second)
        self.assertEqual(plain(again.checkpoint), self.second)
        self.assertEqual(plain(result.checkpoint), self.first)


class ReplicaTests(GenerationCase):
    def test_one_that_cannot_be_had_is_left_out(self):
        dead = self.dead_url()
        with Serve(self.folder / "first") as one, Serve(self.folder / "first") as two:
            result = ce.join([dead, one.url, two.url], transport="tcp")
            self.assertEqual(plain(result.checkpoint), self.first)
            self.assertEqual(len(result.planes), 2)
            left_out = [warning for warning in result.warnings if warning.startswith("went on without it: ")]
            self.assertEqual(len(left_out), 1)
            self.assertIn(dead.split("/")[2], left_out[0])
        with self.assertRaises(ce.UnreachableError):
            ce.join([dead, dead])

    def test_one_that_dies_is_gone_on_without(self):
        entered, go_on, seen = threading.Event(), threading.Event(), {}

        def on_bucket(bucket):
            entered.set()
            self.assertTrue(go_on.wait(PATIENCE))
            seen.update({tensor.name: (tensor.dtype, tensor.shape, tensor.tobytes()) for tensor in bucket})

        with Serve(self.folder / "first") as one, Serve(self.folder / "first") as two:
            with ce.start_join((one.url, two.url), on_bucket=on_bucket, bucket_bytes=1, transport="tcp") as running:
                self.assertTrue(entered.wait(PATIENCE))
                one.process.kill()
                one.process.wait(PATIENCE)
                go_on.set()
                running.wait(PATIENCE)
        self.assertEqual(seen, self.first)

    def test_a_url_that_tells_of_another_generation_is_asked_again(self):
        holder = self.server()
        holder.register_files("m", self.folder / "first")
        told = self.folder / "metas.json"
        holder.metas("m").save(told)
        holder.register_files("m", self.folder / "second", replace=True)
        for retry in (0, 0.001):
            with self.assertRaises((ce.RefusedError, ce.SupersededError)):
                ce.join(f"file://{told}", transport="tcp", retry_timeout=retry)
        with ce.start_join(f"file://{told}", transport="tcp", retry_timeout=float("inf")) as running:
            self.wait_until(lambda: running.poll().phase != "metas", "the first metas")
            self.assertFalse(running.done)
            holder.metas("m").save(told)
            result = running.wait(PATIENCE)
        self.assertEqual(plain(result.checkpoint), self.second)
        self.assertTrue(any(warning.startswith("went on with the metas of now: ") for warning in result.warnings), result.warnings)


class FollowTests(GenerationCase):
    def test_every_version_comes_once(self):
        holder = self.server()
        holder.register_files("m", self.folder / "first")
        url = holder.url("m")
        known = ce.Metas.follow(url)
        self.assertEqual(len(known), len(self.first))
        self.assertIsNone(ce.Metas.follow(url, known, 0))
        self.assertIsNone(ce.Metas.follow(url, known, 0.1))
        versions, seen = ce.follow(url), []
        for metas in versions:
            ce.join(metas, self.joiner, checkpoint_name="m", transport="tcp", replace=True, earlier_checkpoint="m")
            seen.append(plain(self.joiner.checkpoint("m")))
            if len(seen) == 2:
                break
            holder.register_files("m", self.folder / "second", replace=True)
        versions.close()
        self.assertEqual(seen, [self.first, self.second])

    def test_a_change_ends_a_wait(self):
        holder, data = self.server(), bytearray(b"old")
        holder.register_tensors("m", {"t": data})
        known, told = ce.Metas.follow(holder.url("m")), []
        thread = threading.Thread(target=lambda: told.append(ce.Metas.follow(holder.url("m"), known)))
        thread.start()
        with holder.updating("m"):
            data[:] = b"new"
        thread.join(PATIENCE)
        self.assertEqual(ce.join(told[0]).checkpoint["t"].tobytes(), b"new")

    def test_what_passes_is_tried_again_and_told(self):
        class Enough(Exception):
            pass

        holder, errors = self.server(), []

        def on_error(error):
            errors.append(error)
            if len(errors) == 1:
                holder.register_files("m", self.folder / "first")

        versions = ce.follow(holder.url("m"), on_error=on_error)
        self.assertEqual(len(next(versions)), len(self.first))
        self.assertEqual([type(error) for error in errors], [ce.NotFoundError])
        versions.close()

        def give_up(error):
            raise Enough from error

        with self.assertRaises(Enough):
            next(ce.follow(self.dead_url(), on_error=give_up))

    def test_bad_arguments(self):
        holder = self.server()
        holder.register_files("m", self.folder / "first")
        url = holder.url("m")
        for call, kind in [(lambda: ce.Metas.follow(url, ce.Metas.fetch(url), 0), ce.ArgumentError), (lambda: ce.Metas.follow(url, url), TypeError),
                           (lambda: ce.Metas.follow(url, None, -1), ValueError), (lambda: next(ce.follow("file:///nowhere")), ce.ArgumentError),
                           (lambda: ce.follow(url, on_error=5), TypeError), (lambda: ce.join([]), ValueError), (lambda: ce.join([url, 5]), TypeError),
                           (lambda: ce.join(url, earlier_checkpoint=b"m"), TypeError), (lambda: ce.join(url, retry_timeout=-1), ValueError),
                           (lambda: ce.ParameterServer(grace_time=0), ValueError), (lambda: ce.ParameterServer(require_lease=True, plain_peers="all"), ce.ArgumentError)]:
            with self.assertRaises(kind):
                call()


class LeaseTests(GenerationCase):
    def test_readers_with_a_lease_read(self):
        holder = self.server(require_lease=True, grace_time=0.2)
        holder.register_files("m", self.folder / "first")
        self.assertEqual(plain(ce.join(holder.url("m"), transport="tcp").checkpoint), self.first)
        start = time.monotonic()
        holder.unregister("m")
        self.assertGreaterEqual(time.monotonic() - start, 0.19)


if __name__ == "__main__":
    unittest.main()
