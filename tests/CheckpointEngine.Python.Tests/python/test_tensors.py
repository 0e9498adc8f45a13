"""What goes in, in place, and what comes out, without a copy: every element type, every kind of array."""

import array
import ctypes
import mmap
import unittest
import warnings

from support import NO_TORCH, Case, ce, import_torch, needs_numpy, np, pattern

torch = import_torch()
needs_torch = unittest.skipIf(torch is None, NO_TORCH)

# (dtype, shape): sizes with and without rest, packed ones of whole bytes
SHAPES = [("BOOL", (9,)), ("U8", (3, 5)), ("I8", (7,)), ("U16", (5,)), ("I16", (2, 3)), ("U32", (3,)), ("I32", (3, 1)), ("U64", (3,)), ("I64", (1, 1, 2)),
          ("F16", (11,)), ("BF16", (13, 2)), ("F32", (17,)), ("F64", (3,)), ("C64", (5,)), ("C128", (3,)), ("F8_E4M3", (31,)), ("F8_E5M2", (4, 4)),
          ("F8_E4M3FNUZ", (3,)), ("F8_E5M2FNUZ", (3,)), ("F8_E8M0", (3,)), ("F4", (3, 2)), ("F6_E2M3", (4,)), ("F6_E3M2", (2, 8))]
BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
NUMPY = {"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32", "U64": "uint64", "I64": "int64",
         "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64", "C128": "complex128"}
TORCH = {**NUMPY, "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
         "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu"}


def byte_count(dtype, shape):
    elements = 1
    for dimension in shape:
        elements *= dimension
    width = BITS.get(dtype) or {"C128": 128}.get(dtype) or 8 * {"BOOL": 1, "U8": 1, "I8": 1}.get(dtype, 0)
    if not width:
        width = 8 if dtype.startswith("F8") else 16 if dtype == "BF16" else int(dtype[1:])
    return elements * width // 8


def all_types():
    return {f"t.{dtype}": (dtype, shape, (b"\1\0\1" * 3 if dtype == "BOOL" else pattern(byte_count(dtype, shape), index)))
            for index, (dtype, shape) in enumerate(SHAPES)}


class EveryTypeTests(Case):
    """Bits of every type, through a server, into memory of the library."""

    def join_all(self):
        expected = all_types()
        server = self.server()
        server.register_tensors("all", {name: ce.Bits(data, dtype, shape) for name, (dtype, shape, data) in expected.items()})
        return expected, server, ce.join(server.url("all")).checkpoint

    def test_bits_of_every_type_come_back(self):
        expected, server, joined = self.join_all()
        self.assertEqual(set(joined), set(expected))
        for name, (dtype, shape, data) in expected.items():
            with self.subTest(dtype):
                self.assertEqual(joined[name].tobytes(), data)
                self.assertEqual((joined[name].dtype, joined[name].shape, joined[name].nbytes), (dtype, shape, len(data)))
                view = joined[name].memoryview()
                self.assertTrue(view.readonly)
                self.assertEqual((view.format, view.nbytes, bytes(view)), ("B", len(data), data))
        held = server.checkpoint("all")
        self.assertEqual({name: held[name].tobytes() for name in held}, {name: data for name, (_, _, data) in expected.items()})

    def test_into_arrays_of_the_same_bits(self):
        expected, server, _ = self.join_all()
        into = {name: bytearray(len(data)) for name, (_, _, data) in expected.items()}
        result = ce.join(server.url("all"), tensors={name: ce.Bits(into[name], dtype, shape) for name, (dtype, shape, _) in expected.items()})
        self.assertIsNone(result.checkpoint)
        self.assertTrue(result.verified, result)
        for name, (_, _, data) in expected.items():
            self.assertEqual(bytes(into[name]), data, name)

    @needs_numpy
    def test_numpy_has_the_type_or_its_bits(self):
        expected, _, joined = self.join_all()
        for name, (dtype, shape, data) in expected.items():
            with self.subTest(dtype):
                found = joined[name].numpy()
                self.assertFalse(found.flags.writeable)
                self.assertEqual(found.tobytes(), data)
                if dtype in BITS:
                    self.assertEqual((found.dtype, found.shape), (np.uint8, (len(data),)))
                    continue
                self.assertEqual(found.shape, shape)
                if dtype in NUMPY:
                    self.assertEqual(found.dtype, np.dtype(NUMPY[dtype]))
                elif found.dtype.kind != "V":       # without ml_dtypes
                    self.assertEqual(found.dtype, np.uint16 if dtype == "BF16" else np.uint8)

    @needs_torch
    def test_torch_has_the_type_or_its_bits(self):
        expected, _, joined = self.join_all()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for name, (dtype, shape, data) in expected.items():
                with self.subTest(dtype):
                    found = joined[name].torch()
                    raw = found.view(torch.uint8) if found.element_size() == 1 else found
                    self.assertEqual(bytes(raw.contiguous().view(-1).view(torch.uint8).tolist()), data)
                    if dtype in BITS:
                        self.assertEqual((found.dtype, found.shape), (torch.uint8, (len(data),)))
                        continue
                    self.assertEqual(tuple(found.shape), shape)
                    real = getattr(torch, TORCH[dtype], None)
                    if real is not None:
                        self.assertEqual(found.dtype, real)
                    else:
                        self.assertEqual(found.element_size() * 8, 8 if dtype.startswith("F8") else int(dtype[1:]))
        self.assertEqual(joined["t.BF16"].torch().dtype, torch.bfloat16)


class ShapeTests(Case):
    def test_empty_and_zero_dimensional_tensors(self):
        server = self.server()
        server.register_tensors("m", {"scalar": ce.Bits(b"\1\2\3\4", "F32", ()), "empty": ce.Bits(b"", "BF16", (0, 4)), "after": b"x", "none": b""})
        joined = ce.join(server.url("m")).checkpoint
        self.assertEqual({name: (tensor.shape, tensor.tobytes()) for name, tensor in joined.items()},
                         {"scalar": ((), b"\1\2\3\4"), "empty": ((0, 4), b""), "after": ((1,), b"x"), "none": ((0,), b"")})
        if np is not None:
            self.assertEqual(joined["scalar"].numpy().shape, ())
            self.assertEqual((joined["empty"].numpy().shape, joined["empty"].numpy().flags.writeable), ((0, 4), False))
        if torch is not None:
            self.assertEqual(joined["scalar"].torch().shape, ())
            self.assertEqual((joined["empty"].torch().shape, joined["empty"].torch().dtype), ((0, 4), torch.bfloat16))
        into = {"scalar": ce.Bits(bytearray(4), "F32", ()), "empty": ce.Bits(bytearray(), "BF16", (0, 4))}
        ce.join(server.url("m"), tensors=into)
        self.assertEqual(into["scalar"].array, b"\1\2\3\4")

    def test_only_empty_tensors(self):
        server = self.server()
        server.register_tensors("m", {"empty": b""})
        self.assertEqual(ce.join(server.url("m")).checkpoint["empty"].tobytes(), b"")

    @needs_numpy
    def test_tied_and_overlapping_tensors(self):
        server = self.server()
        weight = np.arange(1000, dtype=np.float32).reshape(50, 20)
        server.register_tensors("m", {"embed": weight, "lm_head": weight, "rows": weight[10:20], "first": weight[0]})
        joined = ce.join(server.url("m")).checkpoint
        np.testing.assert_array_equal(joined["embed"].numpy(), weight)
        np.testing.assert_array_equal(joined["lm_head"].numpy(), weight)
        np.testing.assert_array_equal(joined["rows"].numpy(), weight[10:20])
        np.testing.assert_array_equal(joined["first"].numpy(), weight[0])
        into = np.zeros_like(weight)
        ce.join(server.url("m"), tensors={"embed": into, "lm_head": into})
        np.testing.assert_array_equal(into, weight)


class BufferTests(Case):
    def test_buffers_have_the_type_of_their_format(self):
        mapped = mmap.mmap(-1, 4096)
        self.addCleanup(mapped.close)
        mapped[:4] = b"mmap"
        numbers = (ctypes.c_int16 * 5)(1, -2, 3, -4, 5)
        table = ((ctypes.c_double * 3) * 2)()
        table[1][2] = 0.5
        given = {
            "bytes": (b"abc", "U8", (3,)), "bytearray": (bytearray(b"defg"), "U8", (4,)), "i": (array.array("i", [1, -2]), "I32", (2,)),
            "b": (array.array("b", [-1]), "I8", (1,)), "H": (array.array("H", [65535]), "U16", (1,)), "q": (array.array("q", [-(2**62)]), "I64", (1,)),
            "L": (array.array("L", [2**63]), "U64", (1,)), "f": (array.array("f", [0.25]), "F32", (1,)), "d": (array.array("d", [0.1]), "F64", (1,)),
            "?": (memoryview(b"\0\1").cast("?"), "BOOL", (2,)), "shaped": (memoryview(bytes(24)).cast("I", (2, 3)), "U32", (2, 3)),
            "ctypes": (numbers, "I16", (5,)), "ctypes table": (table, "F64", (2, 3)), "mmap": (mapped, "U8", (4096,)),
        }
        server = self.server()
        server.register_tensors("m", {name: value for name, (value, _, _) in given.items()})
        joined = ce.join(server.url("m")).checkpoint
        for name, (value, dtype, shape) in given.items():
            self.assertEqual((joined[name].dtype, joined[name].shape, joined[name].tobytes()), (dtype, shape, bytes(memoryview(value).cast("B")) if name != "mmap"
                                                                                               else mapped[:]), name)
        server.unregister("m")

    def test_bytearray_cannot_shrink_while_registered(self):
        server, data = self.server(), bytearray(100)
        server.register_tensors("m", {"t": data})
        with self.assertRaises(BufferError):
            data.clear()
        server.unregister("m")
        data.clear()

    def test_unusable_objects_are_refused_by_name(self):
        server = self.server()
        big = ctypes.c_int32.__ctype_be__ * 3
        for value, kind, text in [("text", TypeError, "no array"), (5, TypeError, "no array"), ([1, 2], TypeError, "no array"), (None, TypeError, "no array"),
                                  (memoryview(bytes(8))[::2], ValueError, ".contiguous()"), (big(), TypeError, "format"),
                                  (ce.Bits(b"abc", "F32"), ValueError, "give the shape"), (ce.Bits(b"abc", "F32", (1,)), ValueError, "3 bytes"),
                                  (ce.Bits(b"abc", "U8", (-3, -1)), ValueError, "3 bytes")]:
            with self.subTest(repr(value)), self.assertRaisesRegex(kind, "'bad'.*" + text.replace(".", r"\.").replace("(", r"\(").replace(")", r"\)")):
                server.register_tensors("m", {"good": b"x", "bad": value})
        with self.assertRaises(ce.NotFoundError):
            server.metas("m")
        with self.assertRaisesRegex(ValueError, "no element type"):
            ce.Bits(b"", "F99")
        with self.assertRaisesRegex(TypeError, "mapping"):
            server.register_tensors("m", [("a", b"x")])

    def test_read_only_objects_cannot_be_filled(self):
        server = self.server()
        server.register_tensors("m", {"t": b"x"})
        with self.assertRaisesRegex(ValueError, "'t' is read-only"):
            ce.join(server.url("m"), tensors={"t": b"y"})


@needs_numpy
class NumpyTests(Case):
    def test_every_type_of_numpy(self):
        server = self.server()
        given = {name: (np.arange(6) % 2).astype(dtype).reshape(2, 3) for name, dtype in NUMPY.items()}
        server.register_tensors("m", given)
        joined = ce.join(server.url("m")).checkpoint
        into = {name: np.zeros_like(value) for name, value in given.items()}
        ce.join(server.url("m"), tensors=into)
        for name, value in given.items():
            self.assertEqual(joined[name].dtype, name)
            np.testing.assert_array_equal(joined[name].numpy(), value, name)
            np.testing.assert_array_equal(into[name], value, name)

    def test_bfloat16_goes_in_as_bits(self):
        server, bits = self.server(), np.array([[0x3f80, 0x4000]], np.uint16)
        server.register_tensors("m", {"t": ce.Bits(bits, "BF16")})
        tensor = ce.join(server.url("m")).checkpoint["t"]
        self.assertEqual((tensor.dtype, tensor.shape), ("BF16", (1, 2)))
        into = np.zeros((1, 2), np.uint16)
        ce.join(server.url("m"), tensors={"t": ce.Bits(into, "BF16")})
        np.testing.assert_array_equal(into, bits)

    def test_unusable_arrays_are_refused_by_name(self):
        server = self.server()
        for value, kind, text in [(np.zeros((3, 4), order="F"), ValueError, "ascontiguousarray"), (np.zeros((4, 4))[:, 1:], ValueError, "contiguous"),
                                  (np.zeros(3, ">f4"), TypeError, "byte order"), (np.zeros(3, "M8[s]"), TypeError, "no counterpart"),
                                  (np.zeros(3, [("a", "f4")]), TypeError, "no counterpart"), (np.array([object()]), TypeError, "no counterpart"),
                                  (np.zeros(2, "S3"), TypeError, "no counterpart")]:
            with self.subTest(repr(value)), self.assertRaisesRegex(kind, "'bad'.*" + text):
                server.register_tensors("m", {"bad": value})

    def test_scalars_and_views_with_an_offset(self):
        server, base = self.server(), np.arange(100, dtype=np.int32)
        server.register_tensors("m", {"slice": base[3:50], "scalar": np.array(7.5)})
        joined = ce.join(server.url("m")).checkpoint
        np.testing.assert_array_equal(joined["slice"].numpy(), base[3:50])
        self.assertEqual(joined["scalar"].numpy(), 7.5)


@needs_torch
class TorchTests(Case):
    def test_every_type_of_torch(self):
        server = self.server()
        given = {name: torch.tensor([[0, 1, 2], [3, 4, 5]]).to(getattr(torch, dtype)) for name, dtype in TORCH.items() if hasattr(torch, dtype)}
        server.register_tensors("m", given)
        joined = ce.join(server.url("m")).checkpoint
        into = {name: torch.zeros_like(value) for name, value in given.items()}
        ce.join(server.url("m"), tensors=into)
        for name, value in given.items():
            self.assertEqual(joined[name].dtype, name)
            for found in (joined[name].torch(), into[name]):
                self.assertEqual(found.dtype, value.dtype)
                raw = [tensor.contiguous().view(torch.uint8).tolist() for tensor in (found, value)]
                self.assertEqual(*raw, name)

    def test_bfloat16_is_real(self):
        server = self.server()
        weight = torch.randn(37, 5).to(torch.bfloat16)
        server.register_tensors("m", {"w": weight})
        found = ce.join(server.url("m")).checkpoint["w"].torch()
        self.assertEqual(found.dtype, torch.bfloat16)
        self.assertTrue(torch.equal(found, weight))

    def test_float8_that_torch_lacks_goes_in_and_out_as_bits(self):
        if hasattr(torch, "float8_e4m3fn"):
            self.skipTest("this torch has float8")
        server, bits = self.server(), torch.arange(64, dtype=torch.uint8).reshape(8, 8)
        server.register_tensors("m", {"w": ce.Bits(bits, "F8_E4M3")})
        tensor = ce.join(server.url("m")).checkpoint["w"]
        self.assertEqual((tensor.dtype, tensor.shape), ("F8_E4M3", (8, 8)))
        self.assertTrue(torch.equal(tensor.torch(), bits))
        into = torch.zeros(8, 8, dtype=torch.uint8)
        ce.join(server.url("m"), tensors={"w": ce.Bits(into, "F8_E4M3")})
        self.assertTrue(torch.equal(into, bits))

    def test_state_dict_with_tied_parameters(self):
        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = torch.nn.Embedding(10, 4)
                self.norm = torch.nn.BatchNorm1d(4)
                self.head = torch.nn.Linear(4, 10, bias=False)
                self.head.weight = self.embed.weight

        trained, fresh = Model(), Model()
        server = self.server()
        server.register_tensors("m", trained.state_dict())
        ce.join(server.url("m"), tensors=fresh.state_dict())
        for name, value in trained.state_dict().items():
            self.assertTrue(torch.equal(value, fresh.state_dict()[name]), name)
        self.assertIs(fresh.head.weight, fresh.embed.weight)

    def test_unusable_tensors_are_refused_by_name(self):
        server = self.server()
        for value, kind, text in [(torch.zeros(3, 4).t(), ValueError, r"\.contiguous\(\)"), (torch.zeros(4, 4)[:, 1:], ValueError, r"\.contiguous\(\)"),
                                  (torch.zeros(1).expand(5), ValueError, r"\.contiguous\(\)"), (torch.zeros(3, device="meta"), ValueError, "meta"),
                                  (torch.zeros(3, 3).to_sparse(), ValueError, "to_dense"), (torch.ones(3, dtype=torch.complex64).conj(), ValueError, "conj"),
                                  (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), TypeError, "no counterpart")]:
            with self.subTest(repr(value)), self.assertRaisesRegex(kind, "'bad'.*" + text):
                server.register_tensors("m", {"bad": value})

    def test_parameter_whose_data_is_replaced_keeps_what_is_registered(self):
        server = self.server()
        parameter = torch.nn.Parameter(torch.full((1000,), 3.0))
        address = parameter.data_ptr()
        server.register_tensors("m", {"p": parameter})
        parameter.data = torch.zeros(1000)
        self.assertNotEqual(parameter.data_ptr(), address)
        self.assertTrue(torch.equal(ce.join(server.url("m")).checkpoint["p"].torch(), torch.full((1000,), 3.0)))
