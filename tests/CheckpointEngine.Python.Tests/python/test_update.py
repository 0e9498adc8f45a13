"""Updates of inference servers, from Python; and the worker that this file is."""

import contextlib
import io
import json
import os
import pickle
import subprocess
import sys
import threading
import unittest
import urllib.request

from support import PATIENCE, ROOT, Case, ce, pattern, write_model

try:
    import zmq
except ImportError:
    zmq = None

STAND_IN = ROOT / "tests/CheckpointEngine.Core.Tests/Inference/python/inference_server.py"
NO_ZMQ = "pyzmq is not there: apt-get install python3-zmq"


class InferenceServer:
    def __init__(self, *arguments):
        self._process = subprocess.Popen([sys.executable, str(STAND_IN), "--binding", ce.__file__, *arguments], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True)
        self.endpoint = f"http://127.0.0.1:{json.loads(self._process.stdout.readline())['port']}"

    def get(self, path):
        with urllib.request.urlopen(self.endpoint + path, timeout=PATIENCE) as answer:
            return json.load(answer)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


@unittest.skipIf(zmq is None, NO_ZMQ)
class UpdateTests(Case):
    def setUp(self):
        super().setUp()
        self.model = write_model(self.folder / "model")
        self.holder = self.server()
        self.holder.register_files("m", self.folder / "model")

    def test_workers_of_every_generation(self):
        for generation in ("0.4", "0.2", "0.1", "own"):
            with self.subTest(generation), InferenceServer("--generation", generation, "--workers", "2") as server:
                result = self.holder.update_inference("m", server.endpoint, parallel_size=2, bucket_bytes=40_000,
                                                      worker_protocol="0.4" if generation == "own" else generation)
                self.assertEqual((result.bytes, result.tensors), (sum(len(data) for _, _, data in self.model.values()), len(self.model)))
                self.assertGreater(result.buckets, 1)
                self.assertEqual(result.warnings, ())
                for received in server.get("/received"):
                    self.assertEqual(sorted(received["tensors"]), sorted(self.model))
                    self.assertEqual(received["buckets"], result.buckets)

    def test_workers_of_another_generation_are_remarked_on(self):
        for generation, said, remark in (("0.2", "0.4", "older than 0.4"), ("0.4", "0.2", "0.4 or later")):
            with self.subTest(generation), InferenceServer("--generation", generation) as server:
                warning, = self.holder.update_inference("m", server.endpoint, worker_protocol=said).warnings
                self.assertIn(remark, warning)

    def test_files(self):
        with InferenceServer("--kind", "sglang") as server:
            result = self.holder.update_inference("m", server.endpoint, "sglang-files", files_directory=self.folder / "files", weight_version="7")
            self.assertEqual((result.buckets, result.tensors), (0, len(self.model)))
            self.assertFalse((self.folder / "files").exists())
            self.assertEqual(server.get("/requests")[0]["body"]["weight_version"], "7")

    def test_what_a_worker_says_is_raised(self):
        with InferenceServer("--fault", "error:1") as server:
            with self.assertRaisesRegex(ce.RefusedError, "no such parameter in bucket 1"):
                self.holder.update_inference("m", server.endpoint)
            with self.assertRaisesRegex(ce.RefusedError, "are not \\['HOST-0'\\]"):
                self.holder.update_inference("m", server.endpoint, parallel_size=2)

    def test_misuse(self):
        for arguments in ({"engine": "other"}, {"devices": "npu"}, {"worker_protocol": 0.4}, {"parallel_size": 2000}):
            with self.assertRaises(ValueError):
                self.holder.update_inference("m", **arguments)
        with self.assertRaises(ce.ArgumentError):
            self.holder.update_inference("m", "not a URL")
        with self.assertRaises(ce.NotFoundError):
            self.holder.update_inference("other")
        with self.assertRaises(ce.TimedOutError):
            self.holder.update_inference("m", "http://127.0.0.1:1", health_timeout=0.2)


class MessageTests(Case):
    """What the worker takes from an engine."""

    def read(self, message):
        return ce._WorkerUnpickler(io.BytesIO(message)).load()

    def test_a_program_is_refused(self):
        for harmful in (os.system, subprocess.Popen, eval):
            with self.assertRaises(pickle.UnpicklingError):
                self.read(pickle.dumps((harmful, ("true",)), 4))

    def test_only_a_buffer_of_an_engine_is_mapped(self):
        for path, size in (("/etc/passwd", 1), ("/proc/self/fd/0", 1), ("/proc/1/fd/../environ", 1), (f"/proc/{os.getpid()}/fd/0", 0), (7, 1)):
            with self.assertRaises(ValueError):
                ce.map_host_buffer(path, size)
        descriptor = os.memfd_create("test")
        with contextlib.closing(os.fdopen(descriptor, "wb")):
            os.write(descriptor, pattern(5000))
            path = f"/proc/{os.getpid()}/fd/{descriptor}"
            with self.assertRaises(ValueError):
                ce.map_host_buffer(path, 5001)
            with ce.map_host_buffer(path, 5000) as mapping:
                self.assertEqual(mapping[:], pattern(5000))

    def test_a_tensor_beyond_the_buffer_is_refused(self):
        good = {"name": "w", "dtype": ce._Named("float32"), "shape": (2, 3), "offset": 8}
        buffer = memoryview(bytes(range(32)))
        weight, = ce._weights_of([good], buffer)
        self.assertEqual((weight.name, weight.dtype, weight.shape, weight.nbytes, bytes(weight.memoryview())), ("w", "float32", (2, 3), 24, bytes(range(8, 32))))
        for change in ({"offset": 9}, {"offset": -1}, {"shape": (2, 4)}, {"shape": (-1,)}, {"dtype": "float32"}, {"name": 7}):
            with self.assertRaises(ValueError):
                list(ce._weights_of([{**good, **change}], buffer))

    @unittest.skipIf(zmq is None, NO_ZMQ)
    def test_an_engine_that_goes_is_not_waited_for(self):
        with zmq.Context() as context, context.socket(zmq.REQ) as engine:
            engine.setsockopt(zmq.LINGER, 0)
            address = f"ipc://@checkpoint-engine-test-{os.getpid()}.sock"
            engine.bind(address)
            with self.assertRaises(TimeoutError):
                ce.update_weights_from_ipc(address, list, timeout=0.2)

    @unittest.skipIf(zmq is None, NO_ZMQ)
    def test_memory_of_a_gpu_is_refused_with_its_reason(self):
        with zmq.Context() as context, context.socket(zmq.REQ) as engine:
            engine.setsockopt(zmq.LINGER, 0)
            address = f"ipc://@checkpoint-engine-test-{os.getpid()}-gpu.sock"
            engine.bind(address)
            raised = []

            def work():
                try:
                    ce.update_weights_from_ipc(address, list, timeout=PATIENCE)
                except Exception as error:
                    raised.append(error)

            worker = threading.Thread(target=work)
            worker.start()
            engine.send(pickle.dumps((RuntimeError, ()), 4))
            self.assertTrue(engine.poll(PATIENCE * 1000))
            self.assertIn("--update-devices host", engine.recv_string())
            engine.send(b"")
            worker.join(PATIENCE)
            self.assertIsInstance(raised[0], ValueError)


if __name__ == "__main__":
    unittest.main()
