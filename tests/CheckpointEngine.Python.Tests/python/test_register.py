"""A server: what it holds in place, updates, names, references."""

import ctypes
import sys
import threading
import unittest
import weakref

from support import NO_TORCH, PATIENCE, Case, ce, import_torch, needs_numpy, np, plain, write_model, write_safetensors


def address_of(view):
    return ctypes.addressof(ctypes.c_ubyte.from_buffer(view))


class InPlaceTests(Case):
    def test_registered_memory_is_the_callers(self):
        server, data = self.server(), bytearray(b"before")
        data[0:1] = b"B"        # before it is registered
        server.register_tensors("m", {"t": data})
        held = server.checkpoint("m")["t"]
        self.assertEqual(held._memory.view(held._start, held.nbytes).tobytes(), b"Before")
        self.assertEqual(held._start, address_of(data))
        self.assertEqual(ce.join(server.url("m")).checkpoint["t"].tobytes(), b"Before")

    @needs_numpy
    def test_address_of_a_numpy_array(self):
        server, data = self.server(), np.arange(1000.0)
        server.register_tensors("m", {"t": data[10:]})
        found = server.checkpoint("m")["t"].numpy()
        self.assertEqual(found.ctypes.data, data[10:].ctypes.data)
        self.assertTrue(np.shares_memory(found, data))

    def test_address_of_a_torch_tensor(self):
        torch = import_torch()
        if torch is None:
            self.skipTest(NO_TORCH)
        server, data = self.server(), torch.arange(1000.0)
        server.register_tensors("m", {"t": data[10:]})
        self.assertEqual(server.checkpoint("m")["t"].torch().data_ptr(), data[10:].data_ptr())

    def test_objects_are_kept_until_unregister(self):
        server = self.server()

        class Block(bytearray):
            pass

        block = Block(b"abc" * 1000)
        gone = weakref.ref(block)
        server.register_tensors("m", {"t": block})
        del block
        self.assertIsNotNone(gone())
        self.assertEqual(ce.join(server.url("m")).checkpoint["t"].tobytes(), b"abc" * 1000)
        server.unregister("m")
        self.assert_collected(gone, "the array")

    def test_objects_are_kept_until_close(self):
        class Block(bytearray):
            pass

        block = Block(b"abc")
        gone = weakref.ref(block)
        server = ce.ParameterServer()
        server.register_tensors("m", {"t": block})
        held = server.checkpoint("m")
        tensor = held["t"]
        del block
        server.close()
        held.close()
        self.assertEqual(tensor.tobytes(), b"abc")      # its memory is the caller's, which the tensor keeps
        view = tensor.memoryview()
        del tensor
        self.assertEqual(bytes(view), b"abc")
        del view, held
        self.assert_collected(gone, "the array")

    def test_a_failed_registration_keeps_nothing(self):
        class Block(bytearray):
            pass

        server, first, second = self.server(), Block(b"1"), Block(b"2")
        server.register_tensors("m", {"t": first})
        with self.assertRaises(ce.AlreadyExistsError):
            server.register_tensors("m", {"t": second})
        gone, kept = weakref.ref(second), weakref.ref(first)
        del first, second
        self.assert_collected(gone, "the second array")
        self.assertIsNotNone(kept())
        self.assertEqual(ce.join(server.url("m")).checkpoint["t"].tobytes(), b"1")

    def test_no_tensors(self):
        server = self.server()
        try:
            server.register_tensors("m", {})
        except ce.ArgumentError:
            return
        self.assertEqual(len(ce.join(server.url("m")).checkpoint), 0)


class UpdateTests(Case):
    def test_an_update_is_seen_by_the_next_join(self):
        server, data = self.server(), bytearray(b"old" * 1000)
        server.register_tensors("m", {"t": data})
        before = ce.join(server.url("m")).checkpoint
        with server.updating("m"):
            data[:] = b"new" * 1000
        result = ce.join(server.url("m"))
        self.assertTrue(result.verified)
        self.assertEqual(result.checkpoint["t"].tobytes(), b"new" * 1000)
        self.assertEqual(before["t"].tobytes(), b"old" * 1000)

    def test_metas_are_busy_meanwhile(self):
        server = self.server()
        server.register_tensors("m", {"t": bytearray(10)})
        url = server.url("m")
        with server.updating("m"):
            with self.assertRaises(ce.BusyError):
                ce.Metas.fetch(url)
            with self.assertRaises(ce.BusyError):
                server.metas("m")
            with self.assertRaises(ce.StateError):
                with server.updating("m"):
                    self.fail("an update within an update")
        ce.Metas.fetch(url)

    def test_an_exception_inside_unregisters_and_goes_on(self):
        server, data = self.server(), bytearray(10)
        server.register_tensors("m", {"t": data})
        error = RuntimeError("the optimizer diverged")
        with self.assertRaises(RuntimeError) as caught:
            with server.updating("m"):
                data[0] = 1
                raise error
        self.assertIs(caught.exception, error)
        with self.assertRaises(ce.NotFoundError):
            server.metas("m")
        with self.assertRaises(ce.NotFoundError):
            ce.join(server.url("m"))
        server.register_tensors("m", {"t": data})
        self.assertEqual(ce.join(server.url("m")).checkpoint["t"].tobytes()[0], 1)

    def test_unregistered_or_closed_inside(self):
        server = ce.ParameterServer()
        server.register_tensors("m", {"t": bytearray(10)})
        with self.assertRaises(ZeroDivisionError):
            with server.updating("m"):
                server.close()
                raise ZeroDivisionError
        with self.assertRaises(ce.ClosedError):
            with server.updating("m"):
                pass

    def test_what_cannot_be_updated(self):
        write_model(self.folder / "model")
        server = self.server()
        server.register_files("files", self.folder / "model")
        with self.assertRaises(ce.StateError):
            with server.updating("files"):
                self.fail("files cannot be updated")
        with self.assertRaises(ce.NotFoundError):
            with server.updating("nobody"):
                self.fail("there is none")
        self.assertEqual(len(ce.join(server.url("files")).checkpoint), 7)

    @needs_numpy
    def test_joins_during_updates_get_one_generation_or_an_error(self):
        server = self.server(drain_timeout=5)
        tensors = {f"t{index}": np.zeros(1 << 16, np.int64) for index in range(8)}
        server.register_tensors("m", tensors)
        url, stop, generations, failures = server.url("m"), threading.Event(), [], []
        attempts = threading.Semaphore(0)       # joins that have ended

        def update():
            generation = 0
            try:
                while not stop.is_set():
                    generation += 1
                    with server.updating("m"):
                        for tensor in tensors.values():
                            tensor.fill(generation)
                    if generation % 20 == 0:        # and now a rest in which a join begins and ends
                        while attempts.acquire(blocking=False):
                            pass
                        for _ in range(2):
                            attempts.acquire(timeout=PATIENCE)
                generations.append(generation)
            except BaseException as error:
                failures.append(error)

        updater = threading.Thread(target=update)
        updater.start()
        whole = errors = 0
        try:
            while whole < 40 and errors < 2000 and not failures:
                into = {name: np.full(1 << 16, -1, np.int64) for name in tensors}
                try:
                    if (whole + errors) % 2:
                        ce.join(url, tensors=into, lanes=2)
                    else:
                        joined = ce.join(url).checkpoint
                        into = {name: joined[name].numpy() for name in tensors}
                except ce.CheckpointEngineError as error:
                    errors += 1
                    self.assertNotIsInstance(error, (ce.InternalError, ce.NotFoundError), str(error))
                    continue
                finally:
                    attempts.release()
                whole += 1
                seen = {int(value) for tensor in into.values() for value in (tensor.min(), tensor.max())}
                self.assertEqual(len(seen), 1, "a mixture of generations")
        finally:
            stop.set()
            attempts.release(2)
            updater.join(PATIENCE)
        self.assertEqual(failures, [])
        self.assertGreater(whole, 0)
        self.assertGreater(generations[0], 1)


class FilesTests(Case):
    def test_a_folder_with_side_files(self):
        model = write_model(self.folder / "model")
        for hold in ("map", "memfd", "anon"):
            with self.subTest(hold), ce.ParameterServer(hold=hold) as server:
                server.register_files("m", self.folder / "model")
                self.assertEqual(plain(server.checkpoint("m")), model)
                result = ce.join(server.url("m"), checkpoint_name="copy")
                self.assertEqual(plain(result.checkpoint), model)
                self.assertEqual(result.checkpoint.name, "copy")
                self.assertEqual(result.checkpoint.side_files, {"config.json": b'{"model_type":"small"}'})
                self.assertEqual(result.checkpoint.nbytes, sum(len(data) for _, _, data in model.values()))
                self.assertEqual(ce.join(server.url("m"), weights_only=True).checkpoint.side_files, {})

    def test_several_files(self):
        write_safetensors(self.folder / "a.safetensors", {"a": ("U8", (2,), b"aa")})
        write_safetensors(self.folder / "b.safetensors", {"b": ("U8", (2,), b"bb")})
        server = self.server()
        server.register_files("m", str(self.folder / "a.safetensors"), self.folder / "b.safetensors")
        self.assertEqual(plain(server.checkpoint("m")), {"a": ("U8", (2,), b"aa"), "b": ("U8", (2,), b"bb")})

    def test_what_is_wrong_with_files_is_told(self):
        server = self.server()
        with self.assertRaises(FileNotFoundError):
            server.register_files("m", self.folder / "nothing")
        with self.assertRaises(TypeError):
            server.register_files("m")
        with self.assertRaises(TypeError):
            server.register_files("m", 5)
        (self.folder / "broken.safetensors").write_bytes(b"\xff" * 100)
        with self.assertRaises(ce.InvalidDataError):
            server.register_files("m", self.folder / "broken.safetensors")
        with self.assertRaises(ce.NotFoundError):
            server.checkpoint("m")


class SharedPoolTests(Case):
    def mapping_of(self, server, name):
        """What /proc/self/maps says of the first tensor's memory: its address and the path behind it."""
        tensor = next(iter(server.checkpoint(name).values()))
        start = tensor._start
        with open("/proc/self/maps", encoding="utf-8") as maps:
            for line in maps:
                fields = line.split(maxsplit=5)
                low, high = (int(end, 16) for end in fields[0].split("-"))
                if low <= start < high:
                    return start, fields[5].strip() if len(fields) > 5 else ""
        return self.fail("it is not mapped")

    def test_chosen_for_one_registration(self):
        server, model = self.server(), write_model(self.folder / "model")
        server.register_files("mapped", self.folder / "model")
        self.assertIn(".safetensors", self.mapping_of(server, "mapped")[1])
        server.register_files("one", self.folder / "model", use_shared_memory_pool=True)
        kept, path = self.mapping_of(server, "one")
        self.assertNotIn(".safetensors", path)
        server.unregister("one")
        server.register_files("two", self.folder / "model", use_shared_memory_pool=True)
        self.assertEqual(self.mapping_of(server, "two")[0], kept)       # it lies in what was kept
        self.assertEqual(plain(server.checkpoint("two")), model)
        server.unregister("two", force=True)
        with self.assertRaises(ce.NotFoundError):
            server.unregister("two", force=True)
        server.register_files("mapped", self.folder / "model", replace=True, use_shared_memory_pool=True)
        self.assertNotIn(".safetensors", self.mapping_of(server, "mapped")[1])

    def test_chosen_against_the_servers_own(self):
        server = self.server(shared_pool=True)
        write_model(self.folder / "model")
        server.register_files("pooled", self.folder / "model")
        self.assertNotIn(".safetensors", self.mapping_of(server, "pooled")[1])
        server.register_files("mapped", self.folder / "model", use_shared_memory_pool=False)
        self.assertIn(".safetensors", self.mapping_of(server, "mapped")[1])
        with self.assertRaises(ValueError):
            server.register_files("m", self.folder / "model", use_shared_memory_pool="yes")


class NamesTests(Case):
    def test_names_beyond_ascii(self):
        server = self.server()
        name = "qwen 7B/größe 重み?#%"
        server.register_tensors(name, {"größe.重み": b"x", "with space": b"y"})
        self.assertEqual(ce.join(server.url(name)).checkpoint["größe.重み"].tobytes(), b"x")
        self.assertEqual([tensor.name for tensor in server.metas(name)], [tensor.name for tensor in ce.Metas.fetch(server.url(name))])

    def test_urls(self):
        server = self.server()
        self.assertRegex(server.peer_url, r"^ce://127\.0\.0\.1:\d+$")
        self.assertRegex(server.p2p_store_addr, r"^127\.0\.0\.1:\d+$")
        self.assertEqual(server.url("a/b"), server.peer_url + "/a%2Fb")
        with ce.ParameterServer(listen=False) as mute:
            for ask in (lambda: mute.peer_url, lambda: mute.p2p_store_addr, lambda: mute.url("m")):
                with self.assertRaises(ce.StateError):
                    ask()

    def test_port_and_rank(self):
        with ce.ParameterServer(rank=3) as server:
            server.register_tensors("m", {"t": b"x"})
            self.assertEqual(server.metas("m").owners, (ce.Owner(3, server.p2p_store_addr),))
            self.assertEqual([tensor.owner_rank for tensor in server.metas("m")], [3])
            port = int(server.p2p_store_addr.rpartition(":")[2])
            with self.assertRaises((ce.NativeError, ce.AlreadyExistsError)):
                ce.ParameterServer(port=port)
        with ce.ParameterServer(port=port) as again:
            self.assertTrue(again.p2p_store_addr.endswith(f":{port}"))


if __name__ == "__main__":
    sys.exit(unittest.main())
