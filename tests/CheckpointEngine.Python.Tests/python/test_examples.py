"""The examples, as they stand, against each other and the command."""

import struct
import sys
import unittest

from support import NO_TORCH, ROOT, Case, Child, ce, import_torch, needs_numpy, np, read_safetensors, run_command

EXAMPLES = ROOT / "examples/python"


class ExampleTests(Case):
    def trainer(self, *arguments):
        child = self.enter(Child(sys.executable, EXAMPLES / "trainer.py", "--width", "64", "--seconds", "0.01", "--keep", *arguments))
        url = child.line("serving ")
        child.line("done")
        return child, url

    def check(self, backend, element):
        child, url = self.trainer("--backend", backend, "--steps", "7")
        names = {"embed.weight": (1000, 64), "layer.weight": (64, 64), "layer.bias": (64,), "head.weight": (1000, 64)}
        sizes = {name: shape[0] * (shape[1] if len(shape) == 2 else 1) for name, shape in names.items()}
        expected = {name: element * size for name, size in sizes.items()}

        joined = ce.join(url)
        self.assertTrue(joined.verified)
        self.assertEqual({name: tensor.tobytes() for name, tensor in joined.checkpoint.items()}, expected)

        run_command("join", "--metas-url", url, "--to", f"dir:{self.folder / 'copy'}")
        copy = read_safetensors(self.folder / "copy")
        self.assertEqual({name: data for name, (_, _, data) in copy.items()}, expected)
        self.assertEqual({name: shape for name, (_, shape, _) in copy.items()}, names)

        for into in ("memory", "tensors") if backend == "torch" else ("null",):
            with Child(sys.executable, EXAMPLES / "joiner.py", url, "--into", into) as joiner:
                output, _ = joiner.end()
                self.assertRegex(output, r"^4 tensors, .* GiB/s, every byte verified")
        child.process.stdin.close()
        child.end()

    def test_with_torch(self):
        if import_torch() is None:
            self.skipTest(NO_TORCH)
        self.check("torch", struct.pack("<f", 7)[2:])

    @needs_numpy
    def test_with_numpy(self):
        self.check("numpy", np.float32(7).tobytes())

    def test_with_a_token(self):
        if np is None:
            self.skipTest("numpy is not there: apt-get install python3-numpy")
        _, url = self.trainer("--backend", "numpy", "--steps", "1", "--token", "5e" * 32)
        with Child(sys.executable, EXAMPLES / "joiner.py", url) as joiner:
            _, errors = joiner.end(expected=1)
            self.assertEqual(errors.count("\n"), 1, errors)
        with Child(sys.executable, EXAMPLES / "joiner.py", url, "--token", "5e" * 32) as joiner:
            joiner.end()

    def test_joins_while_it_trains(self):
        backend = "torch" if import_torch() is not None else "numpy"
        if backend == "numpy" and np is None:
            self.skipTest("numpy is not there: apt-get install python3-numpy")
        child = self.enter(Child(sys.executable, EXAMPLES / "trainer.py", "--steps", "100000", "--seconds", "0.001", "--backend", backend))
        url = child.line("serving ")
        child.line("step 1")
        whole = 0
        for _ in range(2000):
            try:
                joined = ce.join(url).checkpoint
            except ce.CheckpointEngineError as error:
                self.assertNotIsInstance(error, (ce.InternalError, ce.NotFoundError))
                continue
            width = {"BF16": 2, "F32": 4}
            seen = {tensor.tobytes()[at:at + width[tensor.dtype]] for tensor in joined.values() for at in (0, tensor.nbytes - width[tensor.dtype])}
            self.assertEqual(len(seen), 1, "a mixture of two steps")
            whole += 1
            if whole == 5:
                break
        self.assertGreater(whole, 0)
        child.signal(2)
        child.end(expected=130)


if __name__ == "__main__":
    unittest.main()
