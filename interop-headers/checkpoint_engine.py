"""CheckpointEngine: holds model weights in registered memory and lets other processes read them one-sidedly. For Python.

One file over ``libcheckpoint_engine.so``: ctypes and the standard library, CPython 3.9 or newer on Linux. numpy and torch are taken where they are
there and needed nowhere. Install by copying: this file where your imports look, the library beside it.

Hold tensors, and tell where they are::

    import checkpoint_engine as ce

    with ce.ParameterServer(address="10.0.0.5") as server:
        server.register_tensors("actor", dict(model.state_dict()))       # in place: nothing is copied
        print(server.url("actor"))                                       # ce://10.0.0.5:40123/actor
        for batch in batches:
            with server.updating("actor"):                               # nobody reads while they change
                optimizer.step()

Read them in another process, into memory of the library or into tensors of your own::

    result = ce.join("ce://10.0.0.5:40123/actor")
    weight = result.checkpoint["model.norm.weight"].torch()              # no copy

    ce.join("ce://10.0.0.5:40123/actor", tensors=dict(model.state_dict()))

Take weights as a worker of an inference server that keeps them in host memory, when ``checkpoint-engine update`` or `join --endpoint` sends them::

    ce.update_weights_from_ipc(zmq_handles["HOST-0"], model.load_weights)

Library
    Loaded at the first use, not at import: from the path in the environment variable CHECKPOINT_ENGINE_LIBRARY if that is set, else from beside this
    file, from ``../lib`` seen from this file, and where the system's loader looks. `ImportError` tells what was tried.

Name
    The Python package ``checkpoint_engine`` of others has the same import name. Rename this file where a process needs both; nothing in it minds.

Element types
    Have safetensors' names: BOOL U8 I8 U16 I16 U32 I32 U64 I64 F16 BF16 F32 F64 C64 C128 F8_E4M3 F8_E5M2 F8_E4M3FNUZ F8_E5M2FNUZ F8_E8M0 F4 F6_E2M3
    F6_E3M2, and UNKNOWN for what metas name by a word the library does not know. What the numpy or torch at hand lacks comes as its bits, see `Tensor`,
    and goes in as `Bits`.

Threads
    Everything may be called from any thread, several at once. Calls that block release the GIL. In the main thread they return to the interpreter at
    least ten times a second, so that signals are handled: Ctrl-C ends what was waited for and leaves as KeyboardInterrupt.

fork
    The library does not survive fork(2): in a child of a process that had loaded it, every call raises `ForkedError`. Use the start method "spawn" of
    multiprocessing. A child may use it if its parent has imported this module and called nothing.

Errors
    `CheckpointEngineError` and its subclasses, which also are what Python calls such errors (TimeoutError, ConnectionError, KeyError, ...); a wrong
    argument that is seen here, before the library is asked, is a plain TypeError or ValueError.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import importlib
import importlib.util
import io
import math
import mmap
import os
import pathlib
import pickle
import re
import sys
import threading
import time
import traceback
import types
import urllib.parse
import warnings
import weakref
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_ssize_t, c_uint32, c_uint64, c_ubyte, c_void_p
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, NoReturn, Optional, Sequence, Tuple, Type, TypeVar, Union

__all__ = [
    "AlreadyExistsError", "ArgumentError", "Bits", "Bucket", "BusyError", "CallbackError", "CancelledError", "Checkpoint", "CheckpointEngineError",
    "ClosedError", "DigestMismatchError", "FileError", "ForkedError", "InternalError", "InvalidDataError", "Join", "JoinResult", "Metas",
    "NativeError", "NotFoundError", "NotSupportedError", "OutOfMemoryError", "Owner", "ParameterServer", "Progress", "ProtocolError",
    "RefusedError", "StateError", "SupersededError", "Tensor", "TensorInfo", "TimedOutError", "UnreachableError", "UpdateResult",
    "Weight", "WrongShapeError", "follow", "join", "library_version", "start_join", "update_weights_from_ipc",
]

_ABI_MAJOR = 0
_ABI_MINOR = 3          # the least that this file can do with
_SLICE_SECONDS = 0.1    # how long the main thread may be away from its signal handlers
_Value = TypeVar("_Value")


# ---- Errors --------------------------------------------------------------------------------------------------------------------------------


class CheckpointEngineError(Exception):
    """What the library reports: ``str`` is its text (operation, subject, reason, what to try).

    ``status`` is the number of the C interface, ``name`` its name, for example "CE_E_TIMEOUT".
    """

    status: int = -9
    name: str = "CE_E_UNKNOWN"

    def __init__(self, message: str = "", status: Optional[int] = None) -> None:
        super().__init__(message)
        self.message = message
        if status is not None:
            self.status = status

    def __str__(self) -> str:
        return self.message


class ArgumentError(CheckpointEngineError, ValueError):
    """An argument that the library does not take."""

    status, name = -1, "CE_E_ARGUMENT"


class ClosedError(CheckpointEngineError, ValueError):
    """The object was closed."""

    status, name = -2, "CE_E_HANDLE"


class StateError(CheckpointEngineError, RuntimeError):
    """Not now: the text says what has to come first."""

    status, name = -3, "CE_E_STATE"


class CancelledError(CheckpointEngineError):
    """Ended by `Join.cancel` or by closing what it needs."""

    status, name = -6, "CE_E_CANCELLED"


class CallbackError(CheckpointEngineError):
    """A callback ended the join, and its exception has been raised already."""

    status, name = -7, "CE_E_CALLBACK"


class ForkedError(CheckpointEngineError, RuntimeError):
    """Called in a child of fork(2); use the start method "spawn"."""

    status, name = -8, "CE_E_FORKED"


class InternalError(CheckpointEngineError, RuntimeError):
    """A fault of the library."""

    status, name = -9, "CE_E_INTERNAL"


class InvalidDataError(CheckpointEngineError, ValueError):
    """A file, message or document from outside has not the form it must have."""

    status, name = -101, "CE_E_INVALID_DATA"


class NotFoundError(CheckpointEngineError, KeyError, FileNotFoundError):
    """A checkpoint, tensor, file or owner that was named is not there."""

    status, name = -102, "CE_E_NOT_FOUND"


class AlreadyExistsError(CheckpointEngineError, ValueError):
    """A name or a memory range is taken already."""

    status, name = -103, "CE_E_ALREADY_EXISTS"


class UnreachableError(CheckpointEngineError, ConnectionError):
    """A peer could not be reached, or the connection broke."""

    status, name = -104, "CE_E_UNREACHABLE"


class TimedOutError(CheckpointEngineError, TimeoutError):
    """A peer or operation made no progress in its time."""

    status, name = -105, "CE_E_TIMEOUT"


class RefusedError(CheckpointEngineError, PermissionError):
    """A peer refused: the token, or a range that it does not serve."""

    status, name = -106, "CE_E_REFUSED"


class ProtocolError(CheckpointEngineError, ConnectionError):
    """A peer broke the protocol."""

    status, name = -107, "CE_E_PROTOCOL"


class DigestMismatchError(CheckpointEngineError):
    """Bytes differ from the digest that their owner vouches for."""

    status, name = -108, "CE_E_DIGEST_MISMATCH"


class OutOfMemoryError(CheckpointEngineError, MemoryError):
    """There is not enough memory."""

    status, name = -109, "CE_E_OUT_OF_MEMORY"


class FileError(CheckpointEngineError, OSError):
    """A file could not be read or written."""

    status, name = -110, "CE_E_IO"


class NotSupportedError(CheckpointEngineError, NotImplementedError):
    """This host or build lacks what was asked for."""

    status, name = -111, "CE_E_NOT_SUPPORTED"


class NativeError(CheckpointEngineError, OSError):
    """A system call failed."""

    status, name = -112, "CE_E_NATIVE"


class WrongShapeError(CheckpointEngineError, ValueError):
    """Well-formed, but not what it must be: a tensor of another type or shape, a missing member."""

    status, name = -113, "CE_E_WRONG_SHAPE"


class BusyError(CheckpointEngineError):
    """Somebody is at it: a checkpoint that is being updated. Try again."""

    status, name = -114, "CE_E_BUSY"


class SupersededError(CheckpointEngineError):
    """The owner has changed or taken away what was being read. Fetch the metas anew and try again."""

    status, name = -115, "CE_E_SUPERSEDED"


_ERRORS: Dict[int, Type[CheckpointEngineError]] = {
    kind.status: kind for kind in (
        ArgumentError, ClosedError, StateError, CancelledError, CallbackError, ForkedError, InternalError, InvalidDataError, NotFoundError,
        AlreadyExistsError, UnreachableError, TimedOutError, RefusedError, ProtocolError, DigestMismatchError, OutOfMemoryError, FileError,
        NotSupportedError, NativeError, WrongShapeError, BusyError, SupersededError)
}

_OK = 0
_E_HANDLE = -2
_E_STATE = -3
_E_BUFFER_TOO_SMALL = -4
_E_PENDING = -5
_E_CALLBACK = -7
_NEVER = 2**64 - 2     # CE_NEVER
_FOREVER = 2**64 - 1


# ---- Element types -------------------------------------------------------------------------------------------------------------------------


class _Dtype(NamedTuple):
    code: int
    name: str
    bits: int       # of one element; 0 for UNKNOWN
    torch: str      # torch's name; also ml_dtypes' for what numpy lacks
    numpy: str      # a numpy type string, or "" where numpy by itself has none


_DTYPES: Tuple[_Dtype, ...] = (
    _Dtype(0, "UNKNOWN", 0, "", ""),
    _Dtype(1, "BOOL", 8, "bool", "?"),
    _Dtype(2, "U8", 8, "uint8", "u1"),
    _Dtype(3, "I8", 8, "int8", "i1"),
    _Dtype(4, "U16", 16, "uint16", "u2"),
    _Dtype(5, "I16", 16, "int16", "i2"),
    _Dtype(6, "U32", 32, "uint32", "u4"),
    _Dtype(7, "I32", 32, "int32", "i4"),
    _Dtype(8, "U64", 64, "uint64", "u8"),
    _Dtype(9, "I64", 64, "int64", "i8"),
    _Dtype(10, "F16", 16, "float16", "f2"),
    _Dtype(11, "BF16", 16, "bfloat16", ""),
    _Dtype(12, "F32", 32, "float32", "f4"),
    _Dtype(13, "F64", 64, "float64", "f8"),
    _Dtype(14, "C64", 64, "complex64", "c8"),
    _Dtype(15, "C128", 128, "complex128", "c16"),
    _Dtype(16, "F8_E4M3", 8, "float8_e4m3fn", ""),
    _Dtype(17, "F8_E5M2", 8, "float8_e5m2", ""),
    _Dtype(18, "F8_E4M3FNUZ", 8, "float8_e4m3fnuz", ""),
    _Dtype(19, "F8_E5M2FNUZ", 8, "float8_e5m2fnuz", ""),
    _Dtype(20, "F8_E8M0", 8, "float8_e8m0fnu", ""),
    _Dtype(21, "F4", 4, "", ""),
    _Dtype(22, "F6_E2M3", 6, "", ""),
    _Dtype(23, "F6_E3M2", 6, "", ""),
)
_DTYPE_BY_NAME: Dict[str, _Dtype] = {dtype.name: dtype for dtype in _DTYPES[1:]}
_DTYPE_BY_TORCH: Dict[str, _Dtype] = {dtype.torch: dtype for dtype in _DTYPES if dtype.torch}
_SIGNED = {1: "I8", 2: "I16", 4: "I32", 8: "I64"}
_UNSIGNED = {1: "U8", 2: "U16", 4: "U32", 8: "U64"}


def _dtype_of_code(code: int) -> _Dtype:
    return _DTYPES[code] if 0 <= code < len(_DTYPES) else _DTYPES[0]


# ---- The library: structs, functions, finding it -------------------------------------------------------------------------------------------


class _CTensor(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("shape", c_void_p), ("data", c_void_p), ("size_bytes", c_uint64), ("rank", c_uint32), ("dtype", c_uint32)]


class _CFetchOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("token", c_char_p), ("ca_file", c_char_p), ("cert_file", c_char_p), ("key_file", c_char_p),
                ("timeout_ms", c_uint64)]


class _CServerOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("address", c_char_p), ("token", c_char_p), ("plain_peers", c_char_p), ("drain_timeout_ms", c_uint64),
                ("flags", c_uint32), ("rank", c_int32), ("port", c_uint32), ("hold", c_uint32), ("pin", c_uint32), ("digest", c_uint32),
                ("local_socket", c_char_p), ("local_peers", c_char_p), ("transport", c_uint32), ("attach_files", c_uint32),
                ("rdma_devices", c_char_p), ("grace_time_ms", c_uint64), ("tls_cert_file", c_char_p), ("tls_key_file", c_char_p),
                ("tls_client_ca_file", c_char_p), ("ca_file", c_char_p), ("cert_file", c_char_p), ("key_file", c_char_p), ("audit_log", c_char_p),
                ("require_tls", c_uint32), ("max_peers", c_uint32), ("max_peers_of_address", c_uint32), ("max_data", c_uint32),
                ("max_data_of_address", c_uint32), ("max_handshakes", c_uint32), ("max_handshakes_of_address", c_uint32), ("max_requests", c_uint32),
                ("max_leases", c_uint32), ("max_in_flight_kib", c_uint32), ("encrypt_data", c_uint32), ("require_encryption", c_uint32)]


class _CRegisterOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("replace", c_uint32), ("shared_pool", c_uint32)]


class _CBucket(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("size_bytes", c_uint64), ("tensors", POINTER(_CTensor)), ("tensor_count", c_uint64), ("index", c_uint64),
                ("count", c_uint64)]


_BUCKET_FN = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(_CBucket))


class _CJoinOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("checkpoint_name", c_char_p), ("metas_url", c_char_p), ("metas", c_void_p),
                ("fetch", POINTER(_CFetchOptions)), ("include", POINTER(c_char_p)), ("exclude", POINTER(c_char_p)), ("include_count", c_size_t),
                ("exclude_count", c_size_t), ("tensors", POINTER(_CTensor)), ("tensor_count", c_size_t), ("directory", c_char_p),
                ("on_bucket", _BUCKET_FN), ("user", c_void_p), ("bucket_bytes", c_uint64), ("timeout_ms", c_uint64), ("stall_timeout_ms", c_uint64),
                ("destination", c_uint32), ("verify", c_uint32), ("transport", c_uint32), ("lanes", c_uint32), ("weights_only", c_uint32),
                ("reserved", c_uint32), ("copy", c_uint32), ("attach_files", c_uint32), ("replica_urls", POINTER(c_char_p)), ("replica_count", c_size_t),
                ("earlier_checkpoint", c_char_p), ("retry_timeout_ms", c_uint64), ("replace", c_uint32), ("relay", c_uint32)]


class _CJoinProgress(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("bytes_done", c_uint64), ("bytes_total", c_uint64), ("lanes", c_uint32), ("phase", c_uint32),
                ("state", c_uint32), ("buckets_done", c_uint32)]


class _CJoinReport(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("bytes", c_uint64), ("tensors", c_uint64), ("seconds", c_double), ("metas_seconds", c_double),
                ("plan_seconds", c_double), ("allocate_seconds", c_double), ("transfer_seconds", c_double), ("verify_seconds", c_double),
                ("write_seconds", c_double), ("unverified_reason", c_char_p), ("verified", c_uint32), ("buckets", c_uint32),
                ("attached_bytes", c_uint64), ("reused_bytes", c_uint64), ("retried_bytes", c_uint64), ("relayed_bytes", c_uint64)]


class _CUpdateOptions(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("endpoint", c_char_p), ("unix_socket", c_char_p), ("api_key", c_char_p), ("weight_version", c_char_p),
                ("files_directory", c_char_p), ("bucket_bytes", c_uint64), ("health_timeout_ms", c_uint64), ("step_timeout_ms", c_uint64),
                ("update_timeout_ms", c_uint64), ("engine", c_uint32), ("parallel_size", c_uint32), ("worker_protocol", c_uint32), ("devices", c_uint32),
                ("keep_cache", c_uint32), ("keep_files", c_uint32)]


class _CUpdateReport(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("bytes", c_uint64), ("tensors", c_uint64), ("bucket_bytes", c_uint64), ("buckets", c_uint64),
                ("seconds", c_double), ("health_seconds", c_double), ("write_seconds", c_double), ("copy_seconds", c_double),
                ("load_seconds", c_double), ("finish_seconds", c_double)]


class _PyBuffer(ctypes.Structure):      # Py_buffer of CPython's buffer protocol
    _fields_ = [("buf", c_void_p), ("obj", c_void_p), ("len", c_ssize_t), ("itemsize", c_ssize_t), ("readonly", c_int), ("ndim", c_int),
                ("format", c_void_p), ("shape", c_void_p), ("strides", c_void_p), ("suboffsets", c_void_p), ("internal", c_void_p)]


# Every function of the header: what it returns ("s": a status, "n": a count, "t": static text, "u": 32 bits), and its arguments.
_HANDLE = c_void_p
_OUT = POINTER(c_void_p)
_SIZE = POINTER(c_size_t)
_FUNCTIONS: Dict[str, Tuple[str, Tuple[Any, ...]]] = {
    "ce_abi_version": ("u", ()),
    "ce_version": ("t", ()),
    "ce_status_name": ("t", (c_int32,)),
    "ce_last_error": ("s", (c_char_p, _SIZE)),
    "ce_cancel_create": ("s", (_OUT,)),
    "ce_cancel_trigger": ("s", (_HANDLE,)),
    "ce_cancel_destroy": ("s", (_HANDLE,)),
    "ce_dtype_name": ("t", (c_uint32,)),
    "ce_dtype_bits": ("u", (c_uint32,)),
    "ce_metas_parse": ("s", (c_void_p, c_size_t, _OUT)),
    "ce_metas_fetch": ("s", (c_char_p, POINTER(_CFetchOptions), _HANDLE, _OUT)),
    "ce_metas_follow": ("s", (c_char_p, POINTER(_CFetchOptions), _HANDLE, c_uint64, _HANDLE, _OUT)),
    "ce_metas_write": ("s", (_HANDLE, c_uint32, _OUT, _SIZE)),
    "ce_metas_tensor_count": ("n", (_HANDLE,)),
    "ce_metas_tensor": ("s", (_HANDLE, c_uint64, POINTER(_CTensor), POINTER(c_int32))),
    "ce_metas_owner_count": ("n", (_HANDLE,)),
    "ce_metas_owner": ("s", (_HANDLE, c_uint64, POINTER(c_int32), c_char_p, _SIZE)),
    "ce_metas_destroy": ("s", (_HANDLE,)),
    "ce_checkpoint_tensor_count": ("n", (_HANDLE,)),
    "ce_checkpoint_size": ("n", (_HANDLE,)),
    "ce_checkpoint_tensor": ("s", (_HANDLE, c_uint64, POINTER(_CTensor))),
    "ce_checkpoint_find": ("s", (_HANDLE, c_char_p, POINTER(_CTensor))),
    "ce_checkpoint_side_file_count": ("n", (_HANDLE,)),
    "ce_checkpoint_side_file": ("s", (_HANDLE, c_uint64, c_char_p, _SIZE, _OUT, _SIZE)),
    "ce_checkpoint_destroy": ("s", (_HANDLE,)),
    "ce_server_create": ("s", (POINTER(_CServerOptions), _OUT)),
    "ce_server_destroy": ("s", (_HANDLE,)),
    "ce_server_peer_url": ("s", (_HANDLE, c_char_p, _SIZE)),
    "ce_server_p2p_address": ("s", (_HANDLE, c_char_p, _SIZE)),
    "ce_server_register_files": ("s", (_HANDLE, c_char_p, POINTER(c_char_p), c_size_t, _HANDLE)),
    "ce_server_replace_files": ("s", (_HANDLE, c_char_p, POINTER(c_char_p), c_size_t, _HANDLE)),
    "ce_server_register_files_with": ("s", (_HANDLE, c_char_p, POINTER(c_char_p), c_size_t, POINTER(_CRegisterOptions), _HANDLE)),
    "ce_server_register_tensors": ("s", (_HANDLE, c_char_p, POINTER(_CTensor), c_size_t)),
    "ce_server_begin_update": ("s", (_HANDLE, c_char_p)),
    "ce_server_commit_update": ("s", (_HANDLE, c_char_p)),
    "ce_server_unregister": ("s", (_HANDLE, c_char_p)),
    "ce_server_unregister_force": ("s", (_HANDLE, c_char_p)),
    "ce_server_set_token": ("s", (_HANDLE, c_char_p)),
    "ce_server_reload_certificates": ("s", (_HANDLE,)),
    "ce_server_finish_relays": ("s", (_HANDLE, c_uint64, _HANDLE, POINTER(c_uint32))),
    "ce_server_update": ("s", (_HANDLE, c_char_p, POINTER(_CUpdateOptions), _HANDLE, POINTER(_CUpdateReport))),
    "ce_update_warnings": ("s", (c_char_p, _SIZE)),
    "ce_server_metas": ("s", (_HANDLE, c_char_p, _OUT)),
    "ce_server_load_metas": ("s", (_HANDLE, c_char_p, _HANDLE)),
    "ce_server_checkpoint": ("s", (_HANDLE, c_char_p, _OUT)),
    "ce_join_start": ("s", (_HANDLE, POINTER(_CJoinOptions), _OUT)),
    "ce_join_poll": ("s", (_HANDLE, POINTER(_CJoinProgress))),
    "ce_join_wait": ("s", (_HANDLE, c_uint64)),
    "ce_join_cancel": ("s", (_HANDLE,)),
    "ce_join_get_report": ("s", (_HANDLE, POINTER(_CJoinReport))),
    "ce_join_warnings": ("s", (_HANDLE, c_char_p, _SIZE)),
    "ce_join_planes": ("s", (_HANDLE, c_char_p, _SIZE)),
    "ce_join_checkpoint": ("s", (_HANDLE, _OUT)),
    "ce_join_destroy": ("s", (_HANDLE,)),
}
_RESULTS: Dict[str, Any] = {"s": c_int32, "n": c_uint64, "t": c_char_p, "u": c_uint32}

_loading = threading.Lock()
_loaded: Optional[ctypes.CDLL] = None
_forked = False
_live: "weakref.WeakSet[Any]" = weakref.WeakSet()     # servers and joins that are open, for the end of the process


def _lib() -> ctypes.CDLL:
    if _forked:
        raise ForkedError("checkpoint_engine: this process is a child of fork, and its parent had loaded the library, whose threads are not here; "
                          "start it with the method 'spawn' (multiprocessing.get_context('spawn'))")
    return _loaded if _loaded is not None else _load()


def _load() -> ctypes.CDLL:
    global _loaded
    with _loading:
        if _loaded is not None:
            return _loaded
        library = _open_library()
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype = _RESULTS[result]
            function.argtypes = arguments
        os.register_at_fork(after_in_child=_after_fork)
        atexit.register(_at_exit)
        _loaded = library
        return library


def _open_library() -> ctypes.CDLL:
    named = os.environ.get("CHECKPOINT_ENGINE_LIBRARY")
    if named:
        candidates = [named]
    else:
        here = pathlib.Path(__file__).resolve().parent
        files = [folder / file for folder in (here, here.parent / "lib") for file in ("libcheckpoint_engine.so.0", "libcheckpoint_engine.so")]
        candidates = [str(file) for file in files if file.exists()] + ["libcheckpoint_engine.so.0"]
    tried: List[str] = []
    for candidate in candidates:
        try:
            library = ctypes.CDLL(candidate)
        except OSError as error:
            tried.append(f"{candidate}: {error}")
            continue
        try:
            library.ce_abi_version.restype = c_uint32
            version = int(library.ce_abi_version())
        except AttributeError:
            tried.append(f"{candidate}: it is another library, without ce_abi_version")
            continue
        if version >> 8 != _ABI_MAJOR or version & 0xff < _ABI_MINOR:
            raise ImportError(f"checkpoint_engine: {candidate} has interface {version >> 8}.{version & 0xff}, and this file needs "
                              f"{_ABI_MAJOR}.{_ABI_MINOR} or a later {_ABI_MAJOR}.x; take both from one release")
        return library
    where = ("CHECKPOINT_ENGINE_LIBRARY names it" if named
             else "put libcheckpoint_engine.so beside this file, or set CHECKPOINT_ENGINE_LIBRARY to its path")
    raise ImportError(f"checkpoint_engine: the library cannot be loaded ({where}); tried {'; '.join(tried)}")


def _after_fork() -> None:
    global _forked
    _forked = True


def _at_exit() -> None:
    """Ends what was left open before the interpreter takes away memory that peers read and functions that buckets call."""
    if _forked:
        return
    left = list(_live)
    for item in [item for item in left if isinstance(item, Join)] + [item for item in left if isinstance(item, ParameterServer)]:
        item._abandon()


def library_version() -> str:
    """The version of the library that is loaded, for example "0.1.0"; loads it."""
    return _text(_lib().ce_version())


def _text(value: Optional[bytes]) -> str:
    return (value or b"").decode("utf-8", "replace")


def _last_error(library: ctypes.CDLL) -> str:
    size = c_size_t(1024)
    while True:
        buffer = ctypes.create_string_buffer(size.value)
        status = library.ce_last_error(buffer, byref(size))
        if status != _E_BUFFER_TOO_SMALL:
            return _text(buffer.value) if status == _OK else ""


def _check(status: int) -> None:
    """Raises what the status of a call in this thread says."""
    if status != _OK:
        raise _error(status)


def _error(status: int) -> CheckpointEngineError:
    library = _lib()
    name = _text(library.ce_status_name(status))
    error = _ERRORS.get(status, CheckpointEngineError)(_last_error(library) or name, status)
    error.name = name
    return error


def _get_text(call: Callable[[Any, Any], Any]) -> str:
    """A string that the library puts into a buffer of ours."""
    size = c_size_t(256)
    while True:
        buffer = ctypes.create_string_buffer(size.value)
        status = call(buffer, byref(size))
        if status != _E_BUFFER_TOO_SMALL:
            _check(status)
            return _text(buffer.value)


class _Handle:
    """Owns a handle of the library; made before the handle is, so that nothing can come between."""

    __slots__ = ("_destroy", "pointer", "__weakref__")

    def __init__(self, destroy: str) -> None:
        self.pointer = c_void_p()
        self._destroy = getattr(_lib(), destroy)

    def out(self) -> Any:
        return byref(self.pointer)

    def get(self, what: str) -> int:
        value = self.pointer.value
        if not value:
            _raise_closed(what)
        return value

    def take(self) -> Optional[int]:
        value = self.pointer.value
        self.pointer.value = None
        return value

    def __del__(self) -> None:
        pointer = getattr(self, "pointer", None)
        if pointer is not None and pointer.value and not _forked:
            self._destroy(pointer)


def _raise_closed(what: str) -> NoReturn:
    _lib()
    raise ClosedError(f"the {what} is closed")


# ---- Blocking calls that Ctrl-C ends ---------------------------------------------------------------------------------------------------------


class _Work:
    """A blocking call on a thread of its own. When who waits for it goes away, `undo` takes back what it did."""

    def __init__(self, call: Callable[[], Any], undo: Optional[Callable[[], Any]]) -> None:
        self._call: Optional[Callable[[], Any]] = call
        self._undo = undo
        self._lock = threading.Lock()
        self._abandoned = False
        self._succeeded = False
        self.done = threading.Event()
        self.value: Any = None
        self.error: Optional[BaseException] = None

    def run(self) -> None:
        try:
            assert self._call is not None
            self.value = self._call()
            with self._lock:
                self._succeeded = True
                undo = self._undo if self._abandoned else None
            if undo is not None:
                undo()
        except BaseException as error:
            self.error = error.with_traceback(None)     # without its frames it is in no cycle
        finally:
            self._call = None
            self.done.set()

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            undo = self._undo if self._succeeded else None
        if undo is not None:
            undo()


def _interruptible(call: Callable[[], _Value], cancel: Optional[_Handle] = None, undo: Optional[Callable[[], Any]] = None) -> _Value:
    """Runs a blocking call so that the main thread goes on handling signals. `cancel` makes it end when a signal's handler raises; without one it
    goes on in the background to its end, and keeps alive what it uses."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    work = _Work(call, undo)
    thread = threading.Thread(target=work.run, name="checkpoint_engine call")
    try:
        try:
            thread.start()
        except RuntimeError:        # no thread can be had, for example at the end of the interpreter
            if thread.ident is not None:
                raise
            return call()
        while not work.done.wait(_SLICE_SECONDS):
            pass
    except BaseException:
        try:
            work.abandon()
        finally:
            if cancel is not None:
                _lib().ce_cancel_trigger(cancel.pointer)
                while thread.ident is not None and not work.done.wait(_SLICE_SECONDS):
                    pass
        raise
    error, work.error = work.error, None
    if error is not None:
        try:
            raise error
        finally:
            del error
    value: _Value = work.value
    return value


def _new_cancel() -> _Handle:
    cancel = _Handle("ce_cancel_destroy")
    _check(_lib().ce_cancel_create(cancel.out()))
    return cancel


# ---- Arguments -----------------------------------------------------------------------------------------------------------------------------


def _utf8(value: Any, what: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be str, not {type(value).__name__}")
    encoded = value.encode("utf-8")     # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    if b"\0" in encoded:
        raise ValueError(f"{what} has a NUL inside")
    return encoded


def _utf8_or_none(value: Optional[str], what: str) -> Optional[bytes]:
    return None if value is None else _utf8(value, what)


def _path(value: Any, what: str) -> bytes:
    encoded = os.fsencode(value)
    if b"\0" in encoded:
        raise ValueError(f"{what} has a NUL inside")
    return encoded


def _path_or_none(value: Any, what: str) -> Optional[bytes]:
    return None if value is None else _path(value, what)


def _milliseconds(seconds: Optional[float], what: str) -> int:
    """As the library counts: whole milliseconds, at least one; 0, its default, for None."""
    if seconds is None:
        return 0
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{what} must be seconds or None, not {type(seconds).__name__}")
    if not seconds > 0:
        raise ValueError(f"{what} must be more than 0 seconds, or None; it is {seconds}")
    return max(1, math.ceil(min(float(seconds), 1e12) * 1000))


def _choice(value: Any, what: str, choices: Mapping[Any, int]) -> int:
    try:
        return choices[value]
    except (KeyError, TypeError):
        raise ValueError(f"{what} must be one of {', '.join(repr(choice) for choice in choices)}; it is {value!r}") from None


def _number(value: Any, what: str, most: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} must be int, not {type(value).__name__}")
    number = int(value.__index__())
    if not 0 <= number <= most:
        raise ValueError(f"{what} must be from 0 to {most}; it is {number}")
    return number


def _strings(values: Sequence[bytes]) -> Any:
    return (c_char_p * len(values))(*values) if values else None


def _patterns(value: Union[None, str, Sequence[str]], what: str) -> List[bytes]:
    if value is None:
        return []
    return [_utf8(pattern, what) for pattern in ([value] if isinstance(value, str) else value)]


class Bits:
    """An array whose bytes are of another element type than the array says, for what numpy or torch has no type for.

    ``Bits(array, "BF16")`` takes the shape of the array, whose items must be as wide as the type; with ``shape=`` any array of as many bytes will do,
    as for packed types: ``Bits(bytes_of_it, "F4", shape=(64, 32))``. Where tensors are given, to register or to be filled, it may stand for an array.
    """

    __slots__ = ("array", "dtype", "shape")

    def __init__(self, array: Any, dtype: str, shape: Optional[Sequence[int]] = None) -> None:
        if dtype not in _DTYPE_BY_NAME:
            raise ValueError(f"there is no element type {dtype!r}; there are {', '.join(_DTYPE_BY_NAME)}")
        self.array = array
        self.dtype = dtype
        self.shape = None if shape is None else tuple(int(dimension) for dimension in shape)


class _Place(NamedTuple):
    """Where a tensor of the caller lies."""

    address: int
    nbytes: int
    dtype: _Dtype
    shape: Tuple[int, ...]
    keep: Any       # as long as this lives, so does the memory


def _place(name: str, array: Any, writable: bool) -> _Place:
    if isinstance(array, Bits):
        place = _place_of_array(name, array.array, writable, bits=True)
        dtype = _DTYPE_BY_NAME[array.dtype]
        shape = array.shape
        if shape is None:
            if place.dtype.bits != dtype.bits:
                raise ValueError(f"tensor {name!r}: an array of {place.dtype.name} is not as wide as {dtype.name}; give the shape")
            shape = place.shape
        elif any(dimension < 0 for dimension in shape) or math.prod(shape) * dtype.bits != place.nbytes * 8:
            raise ValueError(f"tensor {name!r}: {dtype.name} of shape {shape} is not the {place.nbytes} bytes of the array")
        return place._replace(dtype=dtype, shape=shape)
    return _place_of_array(name, array, writable, bits=False)


def _place_of_array(name: str, array: Any, writable: bool, bits: bool) -> _Place:
    torch_tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    if torch_tensor is not None and isinstance(array, torch_tensor):
        return _place_of_torch(name, array)
    numpy_array = getattr(sys.modules.get("numpy"), "ndarray", None)
    if numpy_array is not None and isinstance(array, numpy_array):
        return _place_of_numpy(name, array, writable, bits)
    return _place_of_buffer(name, array, writable)


def _place_of_torch(name: str, array: Any) -> _Place:
    if array.device.type != "cpu":
        raise ValueError(f"tensor {name!r} is on {array.device}; only memory of the CPU can be used in place: take .cpu()")
    if str(array.layout) != "torch.strided":
        raise ValueError(f"tensor {name!r} has the layout {array.layout}; take .to_dense()")
    torch_name = str(array.dtype)[len("torch."):]
    shape = tuple(int(dimension) for dimension in array.shape)
    dtype = _DTYPE_BY_TORCH.get(torch_name)
    if torch_name == "float4_e2m1fn_x2" and shape:      # torch counts pairs
        dtype, shape = _DTYPE_BY_NAME["F4"], shape[:-1] + (2 * shape[-1],)
    if dtype is None:
        raise TypeError(f"tensor {name!r}: torch's {array.dtype} has no counterpart here; give its bytes as Bits")
    if not array.is_contiguous():
        raise ValueError(f"tensor {name!r} is not contiguous (shape {shape}, strides {tuple(array.stride())}); take .contiguous()")
    if (array.is_conj() if hasattr(array, "is_conj") else False) or (array.is_neg() if hasattr(array, "is_neg") else False):
        raise ValueError(f"tensor {name!r} is a lazy conjugate or negative; take .resolve_conj() or .resolve_neg()")
    nbytes = int(array.numel()) * int(array.element_size())
    address = int(array.data_ptr())
    if nbytes != 0 and address == 0:
        raise ValueError(f"tensor {name!r} has no memory of its own")
    return _Place(address, nbytes, dtype, shape, array.detach())    # a tensor of its own: 'x.data = y' must not free the memory


def _place_of_numpy(name: str, array: Any, writable: bool, bits: bool) -> _Place:
    dtype = array.dtype
    if not dtype.isnative:
        raise TypeError(f"tensor {name!r}: {dtype} is in the byte order of other machines; take .astype({dtype.name!r})")
    kind = _DTYPE_BY_TORCH.get(dtype.name)      # ml_dtypes name theirs as torch does
    if kind is None or kind.bits != 8 * dtype.itemsize:
        raise TypeError(f"tensor {name!r}: numpy's {dtype} has no counterpart here")
    if not array.flags.c_contiguous:
        raise ValueError(f"tensor {name!r} is not contiguous in row-major order (shape {array.shape}, strides {array.strides}); "
                         "take numpy.ascontiguousarray(...), as torch's .contiguous()")
    if writable and not array.flags.writeable:
        raise ValueError(f"tensor {name!r} is read-only, and is to be filled")
    return _Place(int(array.__array_interface__["data"][0]), int(array.nbytes), kind, tuple(int(dimension) for dimension in array.shape), array)


def _place_of_buffer(name: str, array: Any, writable: bool) -> _Place:
    if isinstance(array, (str, Tensor)):
        raise TypeError(f"tensor {name!r}: {type(array).__name__} is no array; give a torch tensor, a numpy array, a buffer, or Bits")
    try:
        view = memoryview(array)
    except TypeError:
        raise TypeError(f"tensor {name!r}: {type(array).__name__} is no array; give a torch tensor, a numpy array, a buffer, or Bits") from None
    if not view.c_contiguous:
        raise ValueError(f"tensor {name!r} is not contiguous in row-major order; take a copy that is, as torch's .contiguous()")
    if writable and view.readonly:
        raise ValueError(f"tensor {name!r} is read-only, and is to be filled")
    kind = _dtype_of_format(view.format, view.itemsize)
    if kind is None:
        raise TypeError(f"tensor {name!r}: items of the format {view.format!r} have no counterpart here; give Bits")
    return _Place(_address_of(view), view.nbytes, kind, tuple(view.shape or ()), view)


def _dtype_of_format(format: str, itemsize: int) -> Optional[_Dtype]:
    """The element type of the struct module's format."""
    order, letter = (format[0], format[1:]) if format[:1] in "@=<>!" else ("@", format)
    if order in ">!" and itemsize > 1 or (order in "<" and sys.byteorder != "little" and itemsize > 1):
        return None
    if letter in ("B", "c"):
        name = "U8"
    elif letter in ("b", "h", "i", "l", "q", "n"):
        name = _SIGNED.get(itemsize, "")
    elif letter in ("H", "I", "L", "Q", "N"):
        name = _UNSIGNED.get(itemsize, "")
    else:
        name = {"?": "BOOL", "e": "F16", "f": "F32", "d": "F64", "Zf": "C64", "Zd": "C128", "F": "C64", "D": "C128"}.get(letter, "")
    dtype = _DTYPE_BY_NAME.get(name)
    return dtype if dtype is not None and dtype.bits == 8 * itemsize else None


def _address_of(view: memoryview) -> int:
    buffer = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), byref(buffer), 0)
    address = buffer.buf or 0
    ctypes.pythonapi.PyBuffer_Release(byref(buffer))
    return int(address)


def _c_tensors(tensors: Mapping[str, Any], writable: bool) -> Tuple[Any, List[Any]]:
    """The array of ce_tensor for the caller's tensors, and what keeps their memory."""
    if not isinstance(tensors, Mapping):
        raise TypeError(f"tensors must be a mapping of names to arrays, not {type(tensors).__name__}")
    places = [(_utf8(name, "a tensor's name"), _place(name, array, writable)) for name, array in tensors.items()]
    dimensions = [dimension for _, place in places for dimension in place.shape]
    shapes = (c_int64 * len(dimensions))(*dimensions)
    described = (_CTensor * len(places))()
    at = ctypes.addressof(shapes)
    for item, (name, place) in zip(described, places):
        item.name = name
        item.shape = at
        item.data = place.address if place.nbytes else None
        item.size_bytes = place.nbytes
        item.rank = len(place.shape)
        item.dtype = place.dtype.code
        at += 8 * len(place.shape)
    setattr(described, "_shapes", shapes)     # what it points at
    return described, [place.keep for _, place in places]


# ---- Tensors and checkpoints ---------------------------------------------------------------------------------------------------------------


def _shape_of(tensor: _CTensor) -> Tuple[int, ...]:
    return tuple((c_int64 * tensor.rank).from_address(tensor.shape)) if tensor.rank else ()


class _CheckpointMemory(_Handle):
    """A handle of a checkpoint, which keeps its memory; every view has a reference to it."""

    __slots__ = ("keep",)

    def __init__(self) -> None:
        super().__init__("ce_checkpoint_destroy")
        self.keep: Any = None       # of tensors registered in place: the caller's objects

    def view(self, address: int, nbytes: int) -> memoryview:
        array = (c_ubyte * nbytes).from_address(address)
        setattr(array, "_owner", self)      # so does every view of it
        return memoryview(array).cast("B")


class _BucketMemory:
    """A bucket's memory, which is there until the callback returns."""

    __slots__ = ("_reference", "_whole")

    def __init__(self, address: int, nbytes: int) -> None:
        array = (c_ubyte * nbytes).from_address(address)
        self._reference = weakref.ref(array)
        self._whole: Optional[memoryview] = memoryview(array).cast("B")

    def view(self, offset: int, nbytes: int) -> memoryview:
        if self._whole is None:
            raise BufferError("the bucket is gone: its memory is there until on_bucket returns")
        return self._whole[offset:offset + nbytes]

    def end(self) -> None:
        self._whole = None

    def has_views(self) -> bool:
        return self._reference() is not None


class Tensor:
    """A tensor in memory of the library, dense in row-major order. Made by `Checkpoint` and `Bucket`.

    ``name``, ``dtype`` (safetensors' name, "BF16"), ``shape`` and ``nbytes``. `memoryview`, `numpy` and `torch` are views, without a copy. A view of a
    checkpoint's tensor keeps the checkpoint's memory, whatever else is dropped or closed. A view of a bucket's is over when on_bucket returns.

    What comes for an element type that the numpy or torch at hand lacks (bfloat16 in numpy without ml_dtypes, float8 in an old torch) is its bits:
    unsigned integers of the same width with the shape kept (in torch before 2.3, which has none wider than uint8, signed ones). Packed types (F4, F6)
    and UNKNOWN are flat uint8.
    """

    __slots__ = ("name", "dtype", "shape", "nbytes", "_memory", "_start", "_writable")

    name: str
    dtype: str
    shape: Tuple[int, ...]
    nbytes: int

    def __init__(self, described: _CTensor, memory: Union[_CheckpointMemory, _BucketMemory], start: int, writable: bool) -> None:
        self.name = described.name.decode("utf-8")
        self.dtype = _dtype_of_code(described.dtype).name
        self.shape = _shape_of(described)
        self.nbytes = int(described.size_bytes)
        self._memory = memory
        self._start = start
        self._writable = writable

    def __repr__(self) -> str:
        return f"<Tensor {self.name!r} {self.dtype} {list(self.shape)} {self.nbytes} bytes>"

    def memoryview(self) -> memoryview:
        """Its bytes as a flat memoryview of format "B"; read-only for a checkpoint's, writable for a bucket's."""
        view = self._memory.view(self._start, self.nbytes)
        return view if self._writable else view.toreadonly()

    def tobytes(self) -> bytes:
        """A copy of its bytes."""
        return self._memory.view(self._start, self.nbytes).tobytes()

    def numpy(self) -> Any:
        """A numpy array over its memory; read-only for a checkpoint's. Needs numpy."""
        import numpy

        dtype: Any = None
        kind = _DTYPE_BY_NAME.get(self.dtype)
        if kind is None or kind.bits % 8 != 0:
            return self._numpy(numpy, numpy.dtype("u1"), (self.nbytes,))
        if kind.numpy:
            dtype = numpy.dtype(kind.numpy)
        else:
            extended = getattr(_ml_dtypes(), kind.torch, None)
            dtype = numpy.dtype(f"u{kind.bits // 8}" if extended is None else extended)
        return self._numpy(numpy, dtype, self.shape)

    def _numpy(self, numpy: Any, dtype: Any, shape: Tuple[int, ...]) -> Any:
        if self.nbytes == 0:
            empty = numpy.empty(shape, dtype)
            empty.flags.writeable = self._writable
            return empty
        return numpy.ndarray(shape, dtype, self.memoryview())

    def torch(self) -> Any:
        """A torch tensor over its memory. Needs torch 1.10 or newer.

        torch knows no read-only tensors: to write into a checkpoint's tensor is an error that nobody stops. It changes what peers read, whose digests
        then differ, and of a mapped file it ends the process with SIGSEGV. Take ``.clone()`` of what is to be changed.
        """
        import torch

        kind = _DTYPE_BY_NAME.get(self.dtype)
        dtype: Any = torch.uint8
        shape: Tuple[int, ...] = (self.nbytes,)
        if kind is not None and kind.bits % 8 == 0:
            dtype = next(getattr(torch, name) for name in (kind.torch, f"uint{kind.bits}", f"int{kind.bits}") if hasattr(torch, name))
            shape = self.shape
        if self.nbytes == 0:
            return torch.empty(shape, dtype=dtype)
        # From the writable view: torch warns about read-only ones, and warnings are the whole process's to switch off.
        return torch.frombuffer(self._memory.view(self._start, self.nbytes), dtype=dtype).reshape(shape)


def _ml_dtypes() -> Any:
    try:
        return importlib.import_module("ml_dtypes")
    except ImportError:
        return None


class Checkpoint(Mapping[str, Tensor]):
    """A checkpoint in this process's memory: a mapping of names to `Tensor`, in the order in which they lie in memory.

    Keeps its memory: unregistering it and closing the server take the name away, the pages stay until this object, its tensors and all their views are
    gone. `close` (or ``with``) gives up this object's share early; tensors and views that are out stay good. Tensors that were registered in place are
    the caller's own memory, and their objects are kept as long.
    """

    def __init__(self, memory: _CheckpointMemory, name: str) -> None:
        """Not for callers: see `ParameterServer.checkpoint` and `JoinResult`."""
        self.name = name
        self._memory: Optional[_CheckpointMemory] = memory
        self._names: Optional[Tuple[str, ...]] = None

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close()

    def close(self) -> None:
        """Gives up its share of the memory; again does nothing."""
        self._memory = None

    def _open(self) -> _CheckpointMemory:
        memory = self._memory
        if memory is None:
            _raise_closed(f"checkpoint {self.name!r}")
        _lib()
        return memory

    def __repr__(self) -> str:
        return f"<Checkpoint {self.name!r} closed>" if self._memory is None else f"<Checkpoint {self.name!r} {len(self)} tensors {self.nbytes} bytes>"

    def __eq__(self, other: object) -> bool:
        return self is other        # a Mapping's would read gigabytes

    __hash__ = object.__hash__

    def __len__(self) -> int:
        return int(_lib().ce_checkpoint_tensor_count(self._open().pointer))

    def __iter__(self) -> Iterator[str]:
        if self._names is None:
            memory, described = self._open(), _CTensor()
            names: List[str] = []
            for index in range(len(self)):
                _check(_lib().ce_checkpoint_tensor(memory.pointer, index, byref(described)))
                names.append(described.name.decode("utf-8"))
            self._names = tuple(names)
        self._open()
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        try:
            self[name]      # type: ignore[index]
            return True
        except (KeyError, TypeError, UnicodeEncodeError):
            return False

    def __getitem__(self, name: str) -> Tensor:
        memory, described = self._open(), _CTensor()
        key = _utf8(name, "a tensor's name") if not (isinstance(name, str) and "\0" in name) else None
        if key is None:
            raise NotFoundError(f"checkpoint {self.name!r} has no tensor {name!r}")
        _check(_lib().ce_checkpoint_find(memory.pointer, key, byref(described)))
        return Tensor(described, memory, int(described.data or 0), writable=False)

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data."""
        return int(_lib().ce_checkpoint_size(self._open().pointer))

    @property
    def side_files(self) -> Dict[str, bytes]:
        """Files that came along (config, tokenizer), by name; copies."""
        library, memory = _lib(), self._open()
        files: Dict[str, bytes] = {}
        for index in range(int(library.ce_checkpoint_side_file_count(memory.pointer))):
            data, size = c_void_p(), c_size_t()
            get = functools.partial(library.ce_checkpoint_side_file, memory.pointer, index)
            name = _get_text(lambda buffer, name_size: get(buffer, name_size, byref(data), byref(size)))
            files[name] = ctypes.string_at(data.value, size.value) if size.value and data.value else b""
        return files


# ---- Metas ---------------------------------------------------------------------------------------------------------------------------------


class TensorInfo(NamedTuple):
    """What metas tell of a tensor."""

    name: str
    dtype: str
    shape: Tuple[int, ...]
    nbytes: int
    owner_rank: int


class Owner(NamedTuple):
    """Who holds tensors: its rank and, as "host:port", where its handshake service is."""

    rank: int
    address: str


class Metas:
    """Who holds which tensor where. Immutable. Made by `fetch`, `parse`, `load` and `ParameterServer.metas`; iterates over `TensorInfo`."""

    def __init__(self, handle: _Handle) -> None:
        """Not for callers: see `fetch`, `parse` and `load`."""
        self._handle = handle

    @classmethod
    def fetch(cls, url: str, token: Optional[str] = None, timeout: Optional[float] = None, ca_file: Optional[str] = None, cert_file: Optional[str] = None,
              key_file: Optional[str] = None) -> "Metas":
        """Fetches metas: http://, https://, unix:/run/ce.sock:/v1/metas, ce://host:port/NAME, or file:///path. Blocks; Ctrl-C ends it.

        token: what the holder demands. timeout: the longest it may take, in seconds; None is 60. ca_file: PEM authorities for https instead of the
        system's; cert_file and key_file: a PEM client certificate.
        """
        library, handle, cancel = _lib(), _Handle("ce_metas_destroy"), _new_cancel()
        options = _fetch_options(token, timeout, ca_file, cert_file, key_file)
        encoded = _utf8(url, "url")
        _interruptible(lambda: _check(library.ce_metas_fetch(encoded, byref(options), cancel.pointer, handle.out())), cancel)
        return cls(handle)

    @classmethod
    def follow(cls, url: str, known: Optional["Metas"] = None, wait: Optional[float] = None, token: Optional[str] = None, timeout: Optional[float] = None,
               ca_file: Optional[str] = None, cert_file: Optional[str] = None, key_file: Optional[str] = None) -> Optional["Metas"]:
        """Waits until a URL (of `fetch`, but no file) tells other metas than those that are known, and fetches them. Blocks; Ctrl-C ends it.

        known: what an earlier `follow` of this URL gave; None is none: what there is comes at once. wait: the longest, in whole seconds, rounded up; 0
        asks and does not wait, None is for ever. The others are as in `fetch`; timeout is for the answer, beside wait. Returns None when they are the
        same still. The function `follow` gives one version after the other.
        """
        if known is not None and not isinstance(known, Metas):
            raise TypeError(f"known must be Metas or None, not {type(known).__name__}")
        library, handle, cancel = _lib(), _Handle("ce_metas_destroy"), _new_cancel()
        options = _fetch_options(token, timeout, ca_file, cert_file, key_file)
        encoded = _utf8(url, "url")
        wait_ms = _FOREVER if wait is None else 0 if wait == 0 else _milliseconds(wait, "wait")
        before = None if known is None else known._handle.pointer

        def ask() -> bool:
            status = library.ce_metas_follow(encoded, byref(options), before, wait_ms, cancel.pointer, handle.out())
            if status == _E_PENDING:
                return False
            _check(status)
            return True

        return cls(handle) if _interruptible(ask, cancel) else None

    @classmethod
    def parse(cls, document: Union[bytes, bytearray, memoryview, str]) -> "Metas":
        """Reads metas from a document, JSON or pickle, which is found out. Pickle is parsed, never executed."""
        data = document.encode("utf-8") if isinstance(document, str) else bytes(memoryview(document))
        handle = _Handle("ce_metas_destroy")
        _check(_lib().ce_metas_parse(data, len(data), handle.out()))
        return cls(handle)

    @classmethod
    def load(cls, path: Union[str, "os.PathLike[str]"]) -> "Metas":
        """Reads metas from a file, JSON or pickle, as `save`, the command and the Python checkpoint-engine write them."""
        return cls.parse(pathlib.Path(path).read_bytes())

    def to_json(self) -> str:
        """The metas as JSON, as GET /v1/metas gives them."""
        return self._write(0).decode("utf-8")

    def to_pickle(self) -> bytes:
        """The metas as the pickle that the Python checkpoint-engine loads, of its own classes."""
        return self._write(1)

    def save(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """Writes them to a file: pickle where the name ends in .pkl or .pickle, else JSON. The file is there whole or not at all."""
        target = pathlib.Path(path)
        data = self.to_pickle() if target.suffix in (".pkl", ".pickle") else self._write(0)
        partial = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.partial")
        try:
            partial.write_bytes(data)
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _write(self, format: int) -> bytes:
        data, size = c_void_p(), c_size_t()
        _check(_lib().ce_metas_write(self._handle.pointer, format, byref(data), byref(size)))
        return ctypes.string_at(data.value, size.value) if data.value else b""

    def __len__(self) -> int:
        return int(_lib().ce_metas_tensor_count(self._handle.pointer))

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[TensorInfo]:
        library, described, rank = _lib(), _CTensor(), c_int32()
        for index in range(len(self)):
            _check(library.ce_metas_tensor(self._handle.pointer, index, byref(described), byref(rank)))
            yield TensorInfo(described.name.decode("utf-8"), _dtype_of_code(described.dtype).name, _shape_of(described), int(described.size_bytes),
                             rank.value)

    @property
    def owners(self) -> Tuple[Owner, ...]:
        """Who holds them."""
        library, handle = _lib(), self._handle
        owners: List[Owner] = []
        for index in range(int(library.ce_metas_owner_count(handle.pointer))):
            rank = c_int32()
            address = _get_text(functools.partial(library.ce_metas_owner, handle.pointer, index, byref(rank)))
            owners.append(Owner(rank.value, address))
        return tuple(owners)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self)

    def __repr__(self) -> str:
        return f"<Metas {len(self)} tensors>"


def _fetch_options(token: Optional[str], timeout: Optional[float], ca_file: Optional[str], cert_file: Optional[str],
                   key_file: Optional[str]) -> _CFetchOptions:
    options = _CFetchOptions(struct_size=ctypes.sizeof(_CFetchOptions))
    options.token = _utf8_or_none(token, "token")
    options.ca_file = _path_or_none(ca_file, "ca_file")
    options.cert_file = _path_or_none(cert_file, "cert_file")
    options.key_file = _path_or_none(key_file, "key_file")
    options.timeout_ms = _milliseconds(timeout, "timeout")
    return options


_PASSING = (UnreachableError, TimedOutError, BusyError, NotFoundError)
_PAUSE_SECONDS = 1.0


def follow(url: str, token: Optional[str] = None, timeout: Optional[float] = None, ca_file: Optional[str] = None, cert_file: Optional[str] = None,
           key_file: Optional[str] = None, on_error: Optional[Callable[[CheckpointEngineError], Any]] = None) -> Iterator[Metas]:
    """The metas of a URL, and again whenever it tells others, without end: a generator for what follows a trainer. ::

        for metas in ce.follow("ce://10.0.0.5:40123/actor"):
            try:
                ce.join(metas, server=server, checkpoint_name="actor", replace=True, earlier_checkpoint="actor")
            except ce.SupersededError:
                pass        # by the version that comes next

    What is told while the loop is busy is not lost: the newest version comes next. Arguments as in `Metas.fetch`; the URL is no file. When the holder
    cannot be reached, is busy, or does not have the checkpoint, it is asked again every second; on_error is called with each such error, and ends it by
    raising. Other errors are raised. Ctrl-C leaves as KeyboardInterrupt.
    """
    if on_error is not None and not callable(on_error):
        raise TypeError(f"on_error must be callable, not {type(on_error).__name__}")
    return _follow(url, token, timeout, ca_file, cert_file, key_file, on_error)


def _follow(url: str, token: Optional[str], timeout: Optional[float], ca_file: Optional[str], cert_file: Optional[str], key_file: Optional[str],
            on_error: Optional[Callable[[CheckpointEngineError], Any]]) -> Iterator[Metas]:
    known: Optional[Metas] = None
    while True:
        try:
            told = Metas.follow(url, known, None, token, timeout, ca_file, cert_file, key_file)
        except _PASSING as error:
            if on_error is not None:
                on_error(error)
            time.sleep(_PAUSE_SECONDS)
            continue
        if told is not None:
            known = told
            yield told


# ---- Server --------------------------------------------------------------------------------------------------------------------------------

_HOLDS = {"map": 0, "memfd": 1, "anon": 2}
_PINS = {"auto": 0, "mlock": 1, "none": 2}
_DIGESTS = {"xxh3": 0, "sha256": 1, "none": 2}


_ENGINES = {"vllm": 0, "sglang": 1, "lmdeploy": 2, "vllm-files": 3, "sglang-files": 4}
_WORKER_PROTOCOLS = {"0.4": 0, "0.2": 1, "0.1": 2}
_UPDATE_DEVICES = {"host": 0, "cuda": 1, "auto": 2}
_TRANSPORTS = {"auto": 0, "tcp": 1, "local": 2, "rdma": 3, "mooncake": 4}
_POOLS = {None: 0, True: 1, False: 2}
_LISTENERS = {"peers": 0, "data": 1, "handshake": 2}


def _limit(value: Optional[int], name: str) -> int:
    if value == 0:
        raise ValueError(f"{name} is 0, which lets nobody in; None is the default")
    return 0 if value is None else _number(value, name, 2**31 - 1)


class ParameterServer:
    """Holds checkpoints, tells where they are, and joins those of others.

    address: IP address of this host to bind and announce; None is 127.0.0.1. port: of the handshake service; 0 is any.
    rank: this owner's rank in the world.
    token: what peers must prove to know, and its joins show; None demands nothing. Of several lines the first is shown, each accepted: see `set_token`.
    plain_peers: who may read without our handshake, as Mooncake's processes do: "all", "none" or networks ("10.0.0.0/8,fd00::/8"); None is all without a
        token and none with one.
    hold: files are mapped in place ("map"), copied to a memfd ("memfd") or to anonymous memory ("anon").
    pin: lock memory when the limit allows ("auto"), or fail ("mlock"); never ("none").
    digest: what readers check by: "xxh3", "sha256" or "none".
    drain_timeout: how long `unregister`, `updating` and `close` wait for reads under way before they cut them, in seconds; None is 30.
    listen: False makes a server that only joins; what it holds nobody can read.
    local_socket: where processes of this host ask for the memory itself, a path or "@name"; None is one of its own. local_peers: which users of this
        host may have it when no token is set: "own" (and root), "all", or numbers "1000,1001" beside the own one. transport: "tcp" offers it to nobody.
    attach_files: offer mapped files for attaching even if others than this user may write them.
    rdma_devices: which RDMA devices it and its joins use, "mlx5_0,mlx5_3"; None is PS_P2P_STORE_RDMA_DEVICES, else NCCL_IB_HCA, else all that are up.
    consume: remove the weight files of a checkpoint, which lie in /dev/shm, once it is held. shared_pool: keep the memory of what was unregistered last for
        the next checkpoint of its layout, anonymous memory whatever hold says.
    require_lease: nobody reads over the network without a lease, which keeps what it is for from being freed or changed: no plain Mooncake peer.
        grace_time: how long what is taken away or changed stays readable for readers without a lease, in seconds; None is not at all.
    tls_cert_file, tls_key_file: PEM certificate and key with which the peer service speaks TLS 1.3; without a key file the first holds both.
        tls_client_ca_file: authorities of the certificates that clients must then show.
    ca_file: PEM authorities of the owners that its joins read from; None is the system's. cert_file, key_file: the certificate that they show.
        require_tls: they read from no owner whose peer service speaks no TLS.
    encrypt_data: weights leave this host within TLS 1.3 alone, with tls_cert_file, which it needs: no plain Mooncake peer, and nothing over RDMA.
        require_encryption: its joins read over a network from no owner that does not encrypt what it sends; implies require_tls.
    audit_log: a file that gets a line for who registered, read and was refused; "-" is stderr.
    max_connections: of each listener at a time, in all or (in all, of one address): {"peers": (2048, 512), "data": (4096, 1024), "handshake": 512}.
        max_requests: of one address to the peer service in a second. max_leases: at a time. max_in_flight_kib: what the kernel holds of one data
        connection for a peer that does not take it. None is what it is without them.

    Close it, best by ``with``: its listeners, its joins and what it holds go then, after reads under way have ended.
    """

    def __init__(self, address: Optional[str] = None, port: int = 0, rank: int = 0, token: Optional[str] = None, plain_peers: Optional[str] = None,
                 hold: str = "map", pin: str = "auto", digest: str = "xxh3", drain_timeout: Optional[float] = None, listen: bool = True,
                 local_socket: Optional[str] = None, local_peers: Optional[str] = None, transport: str = "auto", attach_files: bool = False,
                 rdma_devices: Optional[str] = None, consume: bool = False, shared_pool: bool = False, require_lease: bool = False,
                 grace_time: Optional[float] = None, tls_cert_file: Optional[str] = None, tls_key_file: Optional[str] = None,
                 tls_client_ca_file: Optional[str] = None, ca_file: Optional[str] = None, cert_file: Optional[str] = None,
                 key_file: Optional[str] = None, require_tls: bool = False, audit_log: Optional[str] = None,
                 max_connections: Optional[Dict[str, Union[int, Tuple[int, int]]]] = None, max_requests: Optional[int] = None,
                 max_leases: Optional[int] = None, max_in_flight_kib: Optional[int] = None, encrypt_data: bool = False,
                 require_encryption: bool = False) -> None:
        options = _CServerOptions(struct_size=ctypes.sizeof(_CServerOptions))
        options.address = _utf8_or_none(address, "address")
        options.token = _utf8_or_none(token, "token")
        options.plain_peers = _utf8_or_none(plain_peers, "plain_peers")
        options.drain_timeout_ms = _milliseconds(drain_timeout, "drain_timeout")
        options.flags = (0 if listen else 1) | (2 if consume else 0) | (4 if shared_pool else 0) | (8 if require_lease else 0)
        options.grace_time_ms = _milliseconds(grace_time, "grace_time")
        options.rank = _number(rank, "rank", 2**31 - 1)
        options.port = _number(port, "port", 65535)
        options.hold = _choice(hold, "hold", _HOLDS)
        options.pin = _choice(pin, "pin", _PINS)
        options.digest = _choice(digest, "digest", _DIGESTS)
        options.local_socket = _utf8_or_none(local_socket, "local_socket")
        options.local_peers = _utf8_or_none(local_peers, "local_peers")
        options.transport = _choice(transport, "transport", _TRANSPORTS)
        options.attach_files = 1 if attach_files else 0
        options.rdma_devices = _utf8_or_none(rdma_devices, "rdma_devices")
        for name, path in (("tls_cert_file", tls_cert_file), ("tls_key_file", tls_key_file), ("tls_client_ca_file", tls_client_ca_file),
                           ("ca_file", ca_file), ("cert_file", cert_file), ("key_file", key_file), ("audit_log", audit_log)):
            setattr(options, name, _path_or_none(path, name))
        options.require_tls = 1 if require_tls else 0
        options.encrypt_data = 1 if encrypt_data else 0
        options.require_encryption = 1 if require_encryption else 0
        for listener, limit in (max_connections or {}).items():
            name = ("max_peers", "max_data", "max_handshakes")[_choice(listener, "max_connections", _LISTENERS)]
            everybody, of_address = limit if isinstance(limit, tuple) else (limit, None)
            setattr(options, name, _limit(everybody, name))
            setattr(options, name + "_of_address", _limit(of_address, name + "_of_address"))
        options.max_requests = _limit(max_requests, "max_requests")
        options.max_leases = _limit(max_leases, "max_leases")
        options.max_in_flight_kib = _limit(max_in_flight_kib, "max_in_flight_kib")
        self._token = token
        self._kept: Dict[str, List[Any]] = {}       # by checkpoint: objects whose memory is registered in place
        self._replaced: List[Any] = []              # the same of those that were replaced, and may be read still
        self._lock = threading.Lock()
        self._handle = _Handle("ce_server_destroy")
        _check(_lib().ce_server_create(byref(options), self._handle.out()))
        _live.add(self)

    def __enter__(self) -> "ParameterServer":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends its joins, stops listening, waits for reads under way, and frees what it holds and no `Checkpoint` keeps. Again does nothing.

        Blocks up to drain_timeout. Ctrl-C leaves at once; closing then goes on in the background, and the end of the process waits for it.
        """
        pointer = self._handle.take()
        if pointer is None:
            return
        if _forked:
            return

        def destroy() -> None:
            status = _lib().ce_server_destroy(pointer)
            if status == _E_STATE:      # from a callback of one of its own joins
                self._handle.pointer.value = pointer
            elif status != _E_HANDLE:
                self._kept.clear()
                self._replaced.clear()
            if status not in (_OK, _E_HANDLE):
                raise _error(status)

        _interruptible(destroy)

    def _abandon(self) -> None:
        pointer = self._handle.take()
        if pointer is not None and not _forked and _lib().ce_server_destroy(pointer) == _E_STATE:
            _destroy_elsewhere("ce_server_destroy", pointer, (self._kept, self._replaced))

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            self._abandon()

    def __repr__(self) -> str:
        return "<ParameterServer closed>" if not self._handle.pointer.value else f"<ParameterServer at {id(self):#x}>"

    def _open(self) -> int:
        _lib()
        return self._handle.get("server")

    @property
    def peer_url(self) -> str:
        """"ce://host:port" of the peer service."""
        pointer = self._open()
        return _get_text(functools.partial(_lib().ce_server_peer_url, pointer))

    def url(self, name: str) -> str:
        """The URL of a checkpoint's metas, which `join` and the command (``join --metas-url``) take. The checkpoint need not be there yet."""
        _utf8(name, "name")
        return f"{self.peer_url}/{urllib.parse.quote(name, safe='')}"

    @property
    def p2p_store_addr(self) -> str:
        """"host:port" of the handshake service, as metas tell it."""
        pointer = self._open()
        return _get_text(functools.partial(_lib().ce_server_p2p_address, pointer))

    def register_files(self, name: str, *paths: Union[str, "os.PathLike[str]"], replace: bool = False,
                       use_shared_memory_pool: Optional[bool] = None) -> None:
        """Holds files under a name: one directory, index or .safetensors file (with its side files), or several .safetensors files. All or nothing.

        replace: it is the next generation of the name, which may be held already. Who asks is told of the old one until all of the new one is there; joins
        of the old one go on, and its memory is freed when they are done or drain_timeout is over. When it fails, the old one stays.
        use_shared_memory_pool: whether it takes the memory that is kept of a checkpoint of its layout, and leaves its own there; None: as the server's
        shared_pool says.

        Blocks for a copy (hold "anon", "memfd"); Ctrl-C ends it, and nothing is left (with replace, the old one). Mapping takes no time.
        """
        if not paths:
            raise TypeError("register_files needs a path at least")
        pointer, library, cancel = self._open(), _lib(), _new_cancel()
        key = _utf8(name, "name")
        encoded = [_path(path, "a path") for path in paths]
        array = _strings(encoded)
        options = _CRegisterOptions(struct_size=ctypes.sizeof(_CRegisterOptions), replace=1 if replace else 0,
                                    shared_pool=_choice(use_shared_memory_pool, "use_shared_memory_pool", _POOLS))

        def register() -> None:
            if replace:
                self._keep_replaced(name)
            _check(library.ce_server_register_files_with(pointer, key, array, len(encoded), byref(options), cancel.pointer))

        _interruptible(register, cancel, None if replace else lambda: library.ce_server_unregister(pointer, key))

    def _keep_replaced(self, name: str) -> None:
        """Nobody tells when the last reader of what is replaced is done: it is kept as long as the server."""
        with self._lock:
            if name in self._kept:
                self._replaced.append(self._kept[name])

    def register_tensors(self, name: str, tensors: Mapping[str, Any]) -> None:
        """Holds the caller's own tensors in place under a name: nothing is copied, what is in them is what joiners read.

        tensors: names to torch CPU tensors, numpy arrays, objects with the buffer protocol (the element type is their format's; bytes and bytearray are
        U8), or `Bits`. They must be dense in row-major order: others are a ValueError that names the tensor; take ``.contiguous()`` of it and keep
        the result, for a copy would be what is served. Several names may share memory (tied weights).

        The objects are referenced until `unregister` or `close` has returned. Until then change them within `updating` only. Giving a torch tensor other
        memory (``x.data = y``) leaves the old memory registered.
        """
        key = _utf8(name, "name")
        pointer = self._open()
        array, kept = _c_tensors(tensors, writable=False)
        with self._lock:
            before = self._kept.get(name)
            self._kept[name] = kept         # before: an interrupt may come right after
            try:
                _check(_lib().ce_server_register_tensors(pointer, key, array, len(array)))
            except CheckpointEngineError:
                if before is None:
                    del self._kept[name]
                else:
                    self._kept[name] = before
                raise

    def unregister(self, name: str, force: bool = False) -> None:
        """Takes a checkpoint away: nobody new reads it, reads under way are waited for (drain_timeout) and then cut. After it the caller's tensors may
        be changed and freed. Blocks; Ctrl-C leaves at once while it goes on in the background, which keeps the tensors as long.

        force: a checkpoint of the shared pool leaves no memory there: its own is freed, and so is what is kept of others."""
        pointer, key = self._open(), _utf8(name, "name")
        with self._lock:
            kept = self._kept.get(name)

        def unregister() -> None:
            function = _lib().ce_server_unregister_force if force else _lib().ce_server_unregister
            _check(function(pointer, key))
            with self._lock:
                if kept is not None and self._kept.get(name) is kept:
                    del self._kept[name]

        _interruptible(unregister)

    def set_token(self, token: str) -> None:
        """Takes another token in the place of the server's: what is shown and accepted from now on, by its joins too. Of several lines the first is shown,
        each accepted: to change it without a gap, give every host "OLD\\nNEW", then "NEW\\nOLD", then "NEW". Connections that are open go on: a token is
        proved once a connection. A server that was made without one stays so (`StateError`)."""
        pointer = self._open()
        encoded = _utf8(token, "token")
        with self._lock:
            _check(_lib().ce_server_set_token(pointer, encoded))
            self._token = token

    def reload_certificates(self) -> None:
        """Reads tls_cert_file, tls_key_file and tls_client_ca_file now, which is otherwise done within two seconds of a change. Connections that are open
        go on. After a failure (`FileError`, `InvalidDataError`) those that were read before stay."""
        _check(_lib().ce_server_reload_certificates(self._open()))

    def finish_relays(self, timeout: Optional[float] = 10.0) -> bool:
        """Waits while other joiners are in the middle of what joins of this server with ``relay=True`` have brought, so that they need not read it from
        its owner again; then offers it no more, whatever the outcome. A program that ends after its joins calls it before `close`, which waits for
        nobody; one that goes on need not. Joins that still run are not waited for. Blocks; Ctrl-C ends it.

        timeout: the longest wait, in seconds; 0 does not wait, None is for ever. Returns whether nobody was left in the middle.
        """
        pointer, library, cancel = self._open(), _lib(), _new_cancel()
        timeout_ms = _FOREVER if timeout is None else 0 if timeout == 0 else _milliseconds(timeout, "timeout")
        done = c_uint32()
        _interruptible(lambda: _check(library.ce_server_finish_relays(pointer, timeout_ms, cancel.pointer, byref(done))), cancel)
        return bool(done.value)

    def updating(self, name: str) -> "_Update":
        """``with server.updating(name):`` change the tensors of `register_tensors` inside.

        On entry they are taken out of reach: nobody new reads them (who fetches the metas gets `BusyError`), reads under way are waited for
        (drain_timeout) and then cut. On exit they are published as a new generation with digests of their own. A join that began before fails; none ever
        gets a mixture of two generations.

        When the block raises, the tensors are half changed: they are not published but unregistered, and the exception goes on. Register them again
        once they are whole.
        """
        return _Update(self, name)

    def update_inference(self, name: str, endpoint: str = "http://localhost:19730", engine: str = "vllm", parallel_size: int = 1, *,
                         unix_socket: Optional[Union[str, "os.PathLike[str]"]] = None, api_key: Optional[str] = None, worker_protocol: str = "0.4",
                         devices: str = "auto", bucket_bytes: int = 0, weight_version: Optional[str] = None, flush_cache: bool = True,
                         files_directory: Optional[Union[str, "os.PathLike[str]"]] = None, keep_files: bool = False, health_timeout: Optional[float] = None,
                         step_timeout: Optional[float] = None, update_timeout: Optional[float] = None) -> "UpdateResult":
        """Brings a checkpoint that is held here into a running inference server. Blocks; Ctrl-C ends it, and the server's workers are told to stop.

        engine           "vllm", "sglang" or "lmdeploy"; "vllm-files" or "sglang-files": it reads safetensors, written for it and removed again
        parallel_size    number of its workers
        unix_socket      reach it through this socket; api_key: what its admin endpoints ask for
        worker_protocol  which checkpoint-engine its workers have: "0.4" and later, "0.2", "0.1"
        devices          which memory they take weights from: "host", "cuda" (of their GPUs), or "auto": "cuda" where there is one for each
        bucket_bytes     of which there are two; 0: 64 MiB in host memory, 256 MiB on GPUs
        weight_version, flush_cache    for SGLang
        files_directory  where files are written, absent or empty; keep_files leaves them there
        health_timeout   the longest it may take to be up (None: 600), a worker may take for a bucket (step_timeout, None: 120), and all of the update may
                         take once it is up (update_timeout, None: 300); seconds

        After a failure the server may have parts of the new weights: update it again. The text of `RefusedError` has the server's or a worker's words.
        """
        pointer, library, cancel = self._open(), _lib(), _new_cancel()
        key = _utf8(name, "name")
        options = _CUpdateOptions(
            struct_size=ctypes.sizeof(_CUpdateOptions), endpoint=_utf8(endpoint, "endpoint"), unix_socket=_path_or_none(unix_socket, "unix_socket"),
            api_key=_utf8_or_none(api_key, "api_key"), weight_version=_utf8_or_none(weight_version, "weight_version"),
            files_directory=_path_or_none(files_directory, "files_directory"), bucket_bytes=_number(bucket_bytes, "bucket_bytes", 2**63 - 1),
            health_timeout_ms=_milliseconds(health_timeout, "health_timeout"), step_timeout_ms=_milliseconds(step_timeout, "step_timeout"),
            update_timeout_ms=_milliseconds(update_timeout, "update_timeout"), engine=_choice(engine, "engine", _ENGINES),
            parallel_size=_number(parallel_size, "parallel_size", 1024), worker_protocol=_choice(worker_protocol, "worker_protocol", _WORKER_PROTOCOLS),
            devices=_choice(devices, "devices", _UPDATE_DEVICES), keep_cache=int(not flush_cache), keep_files=int(bool(keep_files)))
        report = _CUpdateReport(struct_size=ctypes.sizeof(_CUpdateReport))
        remarks: List[str] = []

        def update() -> None:
            _check(library.ce_server_update(pointer, key, byref(options), cancel.pointer, byref(report)))
            remarks.extend(line for line in _get_text(library.ce_update_warnings).splitlines() if line)       # this thread's

        _interruptible(update, cancel)
        return UpdateResult(report.bytes, report.tensors, report.buckets, report.bucket_bytes, report.seconds,
                            {phase: getattr(report, f"{phase}_seconds") for phase in ("health", "write", "copy", "load", "finish")}, tuple(remarks))

    def metas(self, name: str) -> Metas:
        """What this server knows of a checkpoint: what it holds, merged with what `load_metas` told it."""
        handle = _Handle("ce_metas_destroy")
        _check(_lib().ce_server_metas(self._open(), _utf8(name, "name"), handle.out()))
        return Metas(handle)

    def load_metas(self, name: str, metas: Metas) -> None:
        """Replaces what is known of the other owners of a checkpoint."""
        if not isinstance(metas, Metas):
            raise TypeError(f"metas must be Metas, not {type(metas).__name__}")
        _check(_lib().ce_server_load_metas(self._open(), _utf8(name, "name"), metas._handle.pointer))

    def checkpoint(self, name: str) -> Checkpoint:
        """A checkpoint that the server holds: files, the caller's tensors, or what a join brought."""
        key, memory = _utf8(name, "name"), _CheckpointMemory()
        with self._lock:
            memory.keep = self._kept.get(name)
            _check(_lib().ce_server_checkpoint(self._open(), key, memory.out()))
        return Checkpoint(memory, name)


class UpdateResult(NamedTuple):
    """What an update of an inference server did.

    seconds: without the wait for its health, which is ``phases["health"]``, beside "write" (files), "copy" (into the buckets), "load" (the slowest
    worker's, summed over the buckets) and "finish". buckets, bucket_bytes: 0 for files. warnings: remarks for the user.
    """

    bytes: int
    tensors: int
    buckets: int
    bucket_bytes: int
    seconds: float
    phases: Dict[str, float]
    warnings: Tuple[str, ...] = ()

    @property
    def gib_per_second(self) -> float:
        """The rate over all of `seconds`."""
        return self.bytes / 2**30 / self.seconds if self.seconds > 0 else 0.0


class _Update:
    """The context of `ParameterServer.updating`."""

    def __init__(self, server: ParameterServer, name: str) -> None:
        self._server = server
        self._key = _utf8(name, "name")
        self._name = name

    def __enter__(self) -> None:
        library, pointer, key = _lib(), self._server._open(), self._key
        _interruptible(lambda: _check(library.ce_server_begin_update(pointer, key)), undo=lambda: library.ce_server_commit_update(pointer, key))

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[types.TracebackType]) -> None:
        if kind is None:
            _check(_lib().ce_server_commit_update(self._server._open(), self._key))
            return
        try:
            self._server.unregister(self._name)
        except CheckpointEngineError:
            pass        # closed, or taken away inside the block: either way nobody reads it, and the block's own exception matters


# ---- Join ----------------------------------------------------------------------------------------------------------------------------------


class Bucket:
    """Whole tensors that have arrived and were checked, in memory of the library. Iterates over its `Tensor`.

    ``index`` counts from 0 in the order of the calls, ``count`` is how many this join has, ``nbytes`` its size with padding. All of it is there until
    on_bucket returns, and may be changed. A view that is still alive then (an array that was kept, not copied) is found out: the join ends with a
    BufferError, and the view must not be touched, for its memory is gone.
    """

    __slots__ = ("index", "count", "nbytes", "_memory", "_tensors")

    def __init__(self, described: _CBucket, memory: _BucketMemory) -> None:
        self.index = int(described.index)
        self.count = int(described.count)
        self.nbytes = int(described.size_bytes)
        self._memory = memory
        start = described.data or 0
        self._tensors = tuple(Tensor(tensor, memory, int(tensor.data - start) if tensor.data else 0, writable=True)
                              for tensor in (described.tensors[index] for index in range(described.tensor_count)))

    @property
    def tensors(self) -> Tuple[Tensor, ...]:
        """The tensors in it."""
        return self._tensors

    def memoryview(self) -> memoryview:
        """All bytes of the bucket, padding included; writable."""
        return self._memory.view(0, self.nbytes)

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._tensors)

    def __repr__(self) -> str:
        return f"<Bucket {self.index} of {self.count}: {len(self._tensors)} tensors {self.nbytes} bytes>"


class _BucketRelay:
    """What the library's callback calls: gives buckets to the caller's function and keeps the exception that it raises. Knows nothing of the join."""

    __slots__ = ("function", "error")

    def __init__(self, function: Callable[[Bucket], Any]) -> None:
        self.function: Optional[Callable[[Bucket], Any]] = function
        self.error: Optional[BaseException] = None

    def __call__(self, user: Any, described: Any) -> int:
        try:
            self.error = self._run(described.contents)
        except BaseException as failure:        # of this file, not of the function
            self.error = failure
        return 0 if self.error is None else 1       # no variable: the frames of an exception keep this one, too

    def _run(self, described: _CBucket) -> Optional[BaseException]:
        function = self.function
        if function is None:
            return None
        memory = _BucketMemory(described.data or 0, int(described.size_bytes))
        try:
            function(Bucket(described, memory))
        except BaseException as error:
            memory.end()
            _forget_first_frame(error)
            if memory.has_views():
                traceback.clear_frames(error.__traceback__)     # the variables of its frames may be views of what is about to go
            return error
        memory.end()
        if memory.has_views():
            gc.collect()        # what only a cycle keeps is not kept
            if memory.has_views():
                return BufferError(f"on_bucket has kept a view of bucket {described.index}, whose memory is gone when it returns; keep a copy "
                                   "(.tobytes(), .copy(), .clone()), and do not touch the view any more")
        return None


def _forget_first_frame(error: BaseException) -> None:
    """Takes the frame that caught it out of its traceback: whoever keeps the error would keep that function's variables, the error among them."""
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next


class Progress(NamedTuple):
    """How far a join is.

    bytes_total is 0 until the plan is made; phase is "metas", "plan", "transfer", "verify", "write" or "ended", state "running", "done", "failed" or
    "cancelled"; lanes are connections at work.
    """

    bytes_done: int
    bytes_total: int
    lanes: int
    phase: str
    state: str
    buckets_done: int


@dataclass(frozen=True)
class JoinResult:
    """What a join did.

    bytes: tensor data read, padding not counted. seconds: from plan to publication; fetching metas is ``phases["metas"]``, beside "plan", "allocate",
    "transfer", "verify" and "write". verified: every byte was checked against its owner's digest; else unverified_reason says why ("disabled",
    "owner-has-no-digests", "shared-mapping"). warnings: remarks for the user. attached_bytes: of bytes, those that were not copied but mapped where their
    owner has them. planes: which way each owner's bytes came, and why not a better one. reused_bytes: those that were not read, padding included, because
    they were here already (earlier_checkpoint). retried_bytes: asked for once more, since an owner or a connection was lost, or sent something else.
    relayed_bytes: those that came from other joins and not from the owners, padding included (relay). checkpoint: what was read, where it went to memory
    of the library.
    """

    bytes: int
    tensors: int
    seconds: float
    phases: Dict[str, float]
    verified: bool
    unverified_reason: Optional[str]
    buckets: int
    warnings: Tuple[str, ...]
    checkpoint: Optional[Checkpoint]
    attached_bytes: int = 0
    planes: Tuple[str, ...] = ()
    reused_bytes: int = 0
    retried_bytes: int = 0
    relayed_bytes: int = 0

    @property
    def gib_per_second(self) -> float:
        """The rate over all of `seconds`."""
        return self.bytes / 2**30 / self.seconds if self.seconds > 0 else 0.0


_INTO = {"memory": 0, "null": 4}
_VERIFY = {True: 0, "require": 1, False: 2}
_PHASES = ("metas", "plan", "transfer", "verify", "write", "ended")
_STATES = ("running", "done", "failed", "cancelled")
_DEFAULT_NAME = "join-checkpoint"


class Join:
    """A join that runs by itself. Made by `start_join`, which says what the arguments are.

    Close it, best by ``with``: a join that still runs is ended then, and after it nobody calls on_bucket or writes into the caller's tensors. What a
    join has brought stays.
    """

    def __init__(self, source: Union[str, "os.PathLike[str]", Metas, Sequence[str]], server: Optional[ParameterServer] = None, into: Optional[str] = None,
                 tensors: Optional[Mapping[str, Any]] = None, on_bucket: Optional[Callable[[Bucket], Any]] = None, bucket_bytes: int = 0,
                 directory: Union[None, str, "os.PathLike[str]"] = None, checkpoint_name: Optional[str] = None,
                 include: Union[None, str, Sequence[str]] = None, exclude: Union[None, str, Sequence[str]] = None, verify: Union[bool, str] = True,
                 lanes: int = 0, timeout: Optional[float] = None, stall_timeout: Optional[float] = None, weights_only: bool = False,
                 progress: Optional[Callable[[Progress], Any]] = None, transport: str = "auto", token: Optional[str] = None,
                 ca_file: Optional[str] = None, cert_file: Optional[str] = None, key_file: Optional[str] = None, copy: bool = False,
                 attach_files: bool = False, replace: bool = False, earlier_checkpoint: Optional[str] = None, retry_timeout: Optional[float] = None,
                 relay: bool = False) -> None:
        given = {"into": into, "tensors": tensors, "on_bucket": on_bucket, "directory": directory}
        destinations = [what for what, value in given.items() if value is not None]
        if len(destinations) > 1:
            raise ValueError(f"a join has one destination, and {' and '.join(destinations)} are given")
        if server is not None and not isinstance(server, ParameterServer):
            raise TypeError(f"server must be a ParameterServer, not {type(server).__name__}")
        for what, function in (("on_bucket", on_bucket), ("progress", progress)):
            if function is not None and not callable(function):
                raise TypeError(f"{what} must be callable, not {type(function).__name__}")
        library = _lib()
        options = _CJoinOptions(struct_size=ctypes.sizeof(_CJoinOptions))
        self._kept: List[Any] = []
        self._relay: Optional[_BucketRelay] = None
        self._function: Any = None
        self._progress = progress
        self._result: Optional[JoinResult] = None
        self._own_server: Optional[ParameterServer] = None
        self._name = _DEFAULT_NAME if checkpoint_name is None else checkpoint_name

        if isinstance(source, Metas):
            options.metas = source._handle.pointer
        elif isinstance(source, os.PathLike):
            source = Metas.load(source)
            options.metas = source._handle.pointer
        elif isinstance(source, (list, tuple)):
            if not source:
                raise ValueError("source has no URL")
            first, *replicas = [_utf8(url, "a URL of source") for url in source]
            options.metas_url = first
            options.replica_urls = _strings(replicas)
            options.replica_count = len(replicas)
        else:
            options.metas_url = _utf8(source, "source")
        if any(value is not None for value in (token, ca_file, cert_file, key_file)):
            url_token = server._token if token is None and server is not None else token
            options.fetch = ctypes.pointer(_fetch_options(url_token, None, ca_file, cert_file, key_file))
        options.checkpoint_name = _utf8(self._name, "checkpoint_name")
        includes, excludes = _patterns(include, "include"), _patterns(exclude, "exclude")
        include_array, exclude_array = _strings(includes), _strings(excludes)
        if includes:
            options.include = include_array
            options.include_count = len(includes)
        if excludes:
            options.exclude = exclude_array
            options.exclude_count = len(excludes)
        if tensors is not None:
            described, self._kept = _c_tensors(tensors, writable=True)
            options.tensors = described
            options.tensor_count = len(described)
            options.destination = 1
        elif on_bucket is not None:
            self._relay = _BucketRelay(on_bucket)
            self._function = _BUCKET_FN(self._relay)
            options.on_bucket = self._function
            options.destination = 2
        elif directory is not None:
            options.directory = _path(directory, "directory")
            options.destination = 3
        else:
            options.destination = _choice("memory" if into is None else into, "into", _INTO)
        self._to_memory = options.destination == 0
        options.bucket_bytes = _number(bucket_bytes, "bucket_bytes", 2**63 - 1)
        options.timeout_ms = _milliseconds(timeout, "timeout")
        options.stall_timeout_ms = _milliseconds(stall_timeout, "stall_timeout")
        options.verify = _choice(verify, "verify", _VERIFY)
        options.transport = _choice(transport, "transport", _TRANSPORTS)
        options.lanes = _number(lanes, "lanes", 2**31 - 1)
        options.weights_only = 1 if weights_only else 0
        options.copy = 1 if copy else 0
        options.attach_files = 1 if attach_files else 0
        options.replace = 1 if replace else 0
        options.relay = 1 if relay else 0
        options.earlier_checkpoint = _utf8_or_none(earlier_checkpoint, "earlier_checkpoint")
        options.retry_timeout_ms = _NEVER if retry_timeout == 0 else _milliseconds(retry_timeout, "retry_timeout")

        if server is None:
            self._own_server = server = ParameterServer(listen=False, token=token)
        if replace:
            server._keep_replaced(self._name)
        self._server: Optional[ParameterServer] = server      # a server that is dropped would end its joins
        self._handle = _Handle("ce_join_destroy")
        _check(library.ce_join_start(server._open(), byref(options), self._handle.out()))
        _live.add(self)

    def __enter__(self) -> "Join":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            self._abandon()

    def __repr__(self) -> str:
        return f"<Join {self._name!r} {self.poll().state if self._handle.pointer.value else 'closed'}>"

    def poll(self) -> Progress:
        """How far it is; never waits."""
        _lib()
        progress = _CJoinProgress(struct_size=ctypes.sizeof(_CJoinProgress))
        _check(_lib().ce_join_poll(self._handle.get("join"), byref(progress)))
        return Progress(int(progress.bytes_done), int(progress.bytes_total), int(progress.lanes),
                        _PHASES[progress.phase] if progress.phase < len(_PHASES) else str(progress.phase),
                        _STATES[progress.state] if progress.state < len(_STATES) else str(progress.state), int(progress.buckets_done))

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._result is not None or self.poll().state != "running"

    def wait(self, timeout: Optional[float] = None) -> JoinResult:
        """Waits until it has ended, and gives what it did, or raises how it failed: what on_bucket raised, or a `CheckpointEngineError`.

        timeout: the longest this waits, in seconds; 0 asks only. After it the builtin TimeoutError is raised (not its subclass `TimedOutError`, which is
        a join that failed), and the join goes on, as it does when Ctrl-C or the progress function ends the wait.
        """
        if self._result is not None:
            return self._result
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _SLICE_SECONDS if deadline is None else min(_SLICE_SECONDS, max(0.0, deadline - time.monotonic()))
            library = _lib()
            status = library.ce_join_wait(self._handle.get("join"), math.ceil(left * 1000))
            if status == _OK:
                return self._finish()
            if status != _E_PENDING:
                self._fail(_error(status))
            if self._progress is not None:
                self._progress(self.poll())
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"join {self._name!r} has not ended within {timeout} s; it goes on")

    def cancel(self) -> None:
        """Asks it to end, and returns at once; `wait` then raises `CancelledError`. A join that has ended stays as it is."""
        _lib()
        if self._handle.pointer.value:
            _check(_lib().ce_join_cancel(self._handle.get("join")))

    def close(self) -> None:
        """Ends it if it runs, waits until no callback runs and nobody writes to the caller's tensors, and forgets it. Again does nothing."""
        if not self._handle.pointer.value or _forked:
            return
        library = _lib()
        status = library.ce_join_cancel(self._handle.pointer)
        while status == _OK or status == _E_PENDING:
            status = library.ce_join_wait(self._handle.pointer, math.ceil(_SLICE_SECONDS * 1000))
            if status == _OK:
                break
        if status == _E_STATE:
            raise _error(status)        # from its own callback
        pointer = self._handle.take()
        if pointer is not None:
            status = library.ce_join_destroy(pointer)
            if status not in (_OK, _E_HANDLE):
                self._handle.pointer.value = pointer
                raise _error(status)
        self._forget()

    def _abandon(self) -> None:
        pointer = self._handle.take()
        if pointer is None or _forked:
            return
        if _lib().ce_join_destroy(pointer) == _E_STATE:     # collected on the thread of its own callback
            _destroy_elsewhere("ce_join_destroy", pointer, (self._kept, self._function, self._relay, self._server, self._own_server))
            self._own_server = None
        self._forget()

    def _forget(self) -> None:
        own, self._own_server, self._server = self._own_server, None, None
        self._kept = []
        self._function = None
        self._progress = None
        if self._relay is not None:
            self._relay.function = None
        if own is not None:
            own.close()

    def _finish(self) -> JoinResult:
        library, pointer = _lib(), self._handle.get("join")
        report = _CJoinReport(struct_size=ctypes.sizeof(_CJoinReport))
        _check(library.ce_join_get_report(pointer, byref(report)))
        warnings = _get_text(functools.partial(library.ce_join_warnings, pointer))
        planes = _get_text(functools.partial(library.ce_join_planes, pointer))
        checkpoint: Optional[Checkpoint] = None
        if self._to_memory:
            memory = _CheckpointMemory()
            _check(library.ce_join_checkpoint(pointer, memory.out()))
            checkpoint = Checkpoint(memory, self._name)
        if self._progress is not None:
            self._progress(self.poll())
        phases = {"metas": report.metas_seconds, "plan": report.plan_seconds, "allocate": report.allocate_seconds, "transfer": report.transfer_seconds,
                  "verify": report.verify_seconds, "write": report.write_seconds}
        self._result = JoinResult(
            bytes=int(report.bytes), tensors=int(report.tensors), seconds=float(report.seconds), phases=phases, verified=bool(report.verified),
            unverified_reason=_text(report.unverified_reason) if report.unverified_reason else None, buckets=int(report.buckets),
            warnings=tuple(line for line in warnings.splitlines() if line), checkpoint=checkpoint,
            attached_bytes=int(report.attached_bytes), planes=tuple(line for line in planes.splitlines() if line), reused_bytes=int(report.reused_bytes),
            retried_bytes=int(report.retried_bytes), relayed_bytes=int(report.relayed_bytes))
        return self._result

    def _fail(self, error: CheckpointEngineError) -> NoReturn:
        if error.status == _E_CALLBACK and self._relay is not None and self._relay.error is not None:
            raised, self._relay.error = self._relay.error, None
            try:
                raise raised
            finally:
                del raised, error
        raise error


def _destroy_elsewhere(function: str, pointer: int, keep: Any) -> None:
    """Destroys what cannot be destroyed on this thread, a callback's, and keeps what it uses until then."""
    def run() -> None:
        getattr(_lib(), function)(pointer)
        kept.clear()

    kept = [keep]
    threading.Thread(target=run, name="checkpoint_engine destroy").start()


def start_join(source: Union[str, "os.PathLike[str]", Metas, Sequence[str]], server: Optional[ParameterServer] = None, into: Optional[str] = None,
               tensors: Optional[Mapping[str, Any]] = None, on_bucket: Optional[Callable[[Bucket], Any]] = None, bucket_bytes: int = 0,
               directory: Union[None, str, "os.PathLike[str]"] = None, checkpoint_name: Optional[str] = None,
               include: Union[None, str, Sequence[str]] = None, exclude: Union[None, str, Sequence[str]] = None, verify: Union[bool, str] = True,
               lanes: int = 0, timeout: Optional[float] = None, stall_timeout: Optional[float] = None, weights_only: bool = False,
               progress: Optional[Callable[[Progress], Any]] = None, transport: str = "auto", token: Optional[str] = None,
               ca_file: Optional[str] = None, cert_file: Optional[str] = None, key_file: Optional[str] = None, copy: bool = False,
               attach_files: bool = False, replace: bool = False, earlier_checkpoint: Optional[str] = None, retry_timeout: Optional[float] = None,
               relay: bool = False) -> Join:
    """Starts reading what others hold, and returns. `join` is this with the waiting, and has the same arguments.

    source: a URL as in `Metas.fetch`, a list of such URLs, `Metas`, or a path of saved metas. Several URLs are of replicas, which share the work, and of
        which some may die; those whose metas cannot be had are left out (`JoinResult.warnings`).
    server: who joins; None makes one that only joins, for this join alone. With a server, what comes to memory is held by it under checkpoint_name
        ("join-checkpoint") and, if it listens, served on.

    Where it goes, one of:
        into="memory"           memory of the library: `JoinResult.checkpoint`. The default.
        tensors={name: array}   into arrays of the caller, as in `ParameterServer.register_tensors` but writable; only these are read, and each must be
                                in the metas with the same element type and shape. They are referenced until the join has been closed. After a failure
                                their bytes are undefined.
        on_bucket=function      called with each `Bucket` on a thread of the library, one at a time, while the next is on its way. An exception in it
                                ends the join, and is what `join` and `Join.wait` raise. bucket_bytes: a bucket's size; it grows to the largest tensor,
                                and there are two of them. 0 is 256 MiB.
        directory=path          safetensors files with index and side files.
        into="null"             read, checked, dropped: to measure.

    include, exclude: name patterns (*, ?, [...]) of tensors to take and to leave.
    verify: True checks what can be checked against the owners' digests, "require" fails if not all could be, False does not check.
    lanes: connections per owner; 0 is found out on the way. transport: "auto", "tcp", "local" (memory of this host), "rdma",
    or "mooncake" (its own library, which CHECKPOINT_ENGINE_MOONCAKE_LIBRARY names).
    copy: copy what could be attached to. False maps memory that owners of this host offer, read-only, where it is (into="memory"): no byte is copied,
        and they are checked only by verify="require". attach_files: attach to files that others than their owner may write, too.
    timeout: for the whole join, in seconds; None is none. stall_timeout: the longest an owner may send nothing; None is 30.
    retry_timeout: how long the URL is asked again when an owner is lost or has gone on to its next generation, in seconds; the join then goes on with what
        it has (tensors: it begins again; not with on_bucket), with digests. None is 10; 0: it fails.
    replace: into memory, replace what the server holds under checkpoint_name: that is served until all of the new one is here and checked, and freed when
        its readers are done. earlier_checkpoint: a version that the server holds under that name; what the owners' digests say is the same is copied
        from it instead of read (`JoinResult.reused_bytes`); into memory or a directory.
    relay: read together with other joins that say so: each reads a part from the owner and the rest from the others, and offers them, at a port of its own,
        what it has and has checked (`JoinResult.relayed_bytes`); into memory or a directory, over a network, with digests, else it reads alone and
        `JoinResult.warnings` says why. Give it a server: what was brought is offered as long as that holds it, or until
        `ParameterServer.finish_relays`; without one nobody is offered anything once the join has ended.
    weights_only: leave side files where they are.
    progress: called with `Progress` about ten times a second by the thread that waits, and by no other; never after the wait is over.
    token: what the owners and the metas' URL demand; with a server, its own token is taken unless one for the URL is given here.
    ca_file, cert_file, key_file: as in `Metas.fetch`; None is as of the server.
    """
    return Join(source, server, into, tensors, on_bucket, bucket_bytes, directory, checkpoint_name, include, exclude, verify, lanes, timeout,
                stall_timeout, weights_only, progress, transport, token, ca_file, cert_file, key_file, copy, attach_files, replace, earlier_checkpoint,
                retry_timeout, relay)


def join(source: Union[str, "os.PathLike[str]", Metas, Sequence[str]], server: Optional[ParameterServer] = None, into: Optional[str] = None,
         tensors: Optional[Mapping[str, Any]] = None, on_bucket: Optional[Callable[[Bucket], Any]] = None, bucket_bytes: int = 0,
         directory: Union[None, str, "os.PathLike[str]"] = None, checkpoint_name: Optional[str] = None,
         include: Union[None, str, Sequence[str]] = None, exclude: Union[None, str, Sequence[str]] = None, verify: Union[bool, str] = True,
         lanes: int = 0, timeout: Optional[float] = None, stall_timeout: Optional[float] = None, weights_only: bool = False,
         progress: Optional[Callable[[Progress], Any]] = None, transport: str = "auto", token: Optional[str] = None,
         ca_file: Optional[str] = None, cert_file: Optional[str] = None, key_file: Optional[str] = None, copy: bool = False,
         attach_files: bool = False, replace: bool = False, earlier_checkpoint: Optional[str] = None, retry_timeout: Optional[float] = None,
         relay: bool = False) -> JoinResult:
    """Reads what others hold: all or nothing, every byte checked. Blocks until it has ended; the arguments are those of `start_join`.

    Ctrl-C, and an exception in progress, cancel the join; when they leave here it is over, and nobody writes into the caller's tensors.
    """
    with Join(source, server, into, tensors, on_bucket, bucket_bytes, directory, checkpoint_name, include, exclude, verify, lanes, timeout,
              stall_timeout, weights_only, progress, transport, token, ca_file, cert_file, key_file, copy, attach_files, replace, earlier_checkpoint,
              retry_timeout, relay) as running:
        return running.wait()


# ---- A worker of an inference server -------------------------------------------------------------------------------------------------------

_HOST_BUFFER_PATH = re.compile(r"/proc/[0-9]+/fd/[0-9]+", re.ASCII)
_TORCH_WIDTHS = {
    "bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "float16": 2, "bfloat16": 2, "uint32": 4, "int32": 4, "float32": 4, "uint64": 8, "int64": 8,
    "float64": 8, "complex64": 8, "complex128": 16, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
}


class Weight:
    """A tensor that the engine hands to a worker: read-only memory that both share, valid until ``load_weights`` returns.

    ``name``, ``dtype`` (as torch calls it, for example "bfloat16"), ``shape``; ``nbytes``.
    """

    __slots__ = ("name", "dtype", "shape", "_data")

    def __init__(self, name: str, dtype: str, shape: Tuple[int, ...], data: memoryview) -> None:
        self.name, self.dtype, self.shape, self._data = name, dtype, shape, data

    def __repr__(self) -> str:
        return f"<Weight {self.name!r} {self.dtype} {list(self.shape)}>"

    @property
    def nbytes(self) -> int:
        return len(self._data)

    def memoryview(self) -> memoryview:
        """Its bytes."""
        return self._data

    def numpy(self) -> Any:
        """An array over its bytes; bfloat16 and float8, which numpy lacks, come as their bits in uint16 and uint8."""
        numpy = importlib.import_module("numpy")
        try:
            dtype = numpy.dtype(self.dtype)
        except TypeError:
            dtype = numpy.dtype(f"uint{8 * _TORCH_WIDTHS[self.dtype]}")
        return numpy.frombuffer(self._data, dtype=dtype).reshape(self.shape)

    def torch(self) -> Any:
        """A tensor over its bytes; it must not be written to."""
        torch = importlib.import_module("torch")
        dtype = getattr(torch, self.dtype)
        if not self._data:
            return torch.empty(self.shape, dtype=dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)        # that the memory cannot be written: so it is meant
            flat = torch.frombuffer(self._data, dtype=torch.uint8)
        return flat.view(dtype).view(self.shape)


def map_host_buffer(path: str, size: int) -> mmap.mmap:
    """Maps the memory that the engine shares, for reading; `update_weights_from_ipc` does it."""
    if not isinstance(path, str) or not _HOST_BUFFER_PATH.fullmatch(path) or not isinstance(size, int) or size <= 0:
        raise ValueError(f"{path!r} with {size!r} bytes is no buffer of an engine")
    with open(path, "rb") as file:
        actual = os.fstat(file.fileno()).st_size
        if actual < size:
            raise ValueError(f"{path} has {actual} bytes and not {size}")
        return mmap.mmap(file.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ)


class _Named(str):
    """A type of torch, by its name: torch itself is not needed to read messages."""


class _WorkerUnpickler(pickle.Unpickler):
    """Reads what an engine sends, and no other object."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("checkpoint_engine", "map_host_buffer"):
            return map_host_buffer
        if (module, name) == ("builtins", "RuntimeError"):
            return RuntimeError
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and name in _TORCH_WIDTHS:
            return _Named(name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a message of an engine")


def _weights_of(message: List[Any], buffer: memoryview) -> Iterator[Weight]:
    for item in message:
        name, dtype, shape, offset = item["name"], item["dtype"], tuple(item["shape"]), item["offset"]
        if not isinstance(name, str) or not isinstance(dtype, _Named) or not all(isinstance(dimension, int) and dimension >= 0 for dimension in shape):
            raise ValueError(f"{item!r} describes no tensor")
        nbytes = _TORCH_WIDTHS[dtype] * math.prod(shape)
        if not isinstance(offset, int) or offset < 0 or offset + nbytes > len(buffer):
            raise ValueError(f"{name!r}: {nbytes} bytes at {offset} are not in a buffer of {len(buffer)}")
        yield Weight(name, str(dtype), shape, buffer[offset:offset + nbytes])


def update_weights_from_ipc(address: str, load_weights: Callable[[Iterator[Tuple[str, Any]]], Any], post_hook: Optional[Callable[[], Any]] = None, *,
                            context: Any = None, timeout: float = 300.0, as_torch: Optional[bool] = None) -> None:
    """Takes one update of the weights out of host memory, as a worker of an inference server; returns when all of it is loaded.

    address       this worker's entry of ``zmq_handles`` in the engine's request: ``zmq_handles["HOST-3"]`` for the fourth
    load_weights  called for every bucket with an iterator of (name, tensor). A tensor is memory shared with the engine, read-only, and valid until the
                  return: copy it to where it is to stay
    post_hook     called when everything is loaded and the memory is let go
    context       a zmq.Context; without one it makes its own
    timeout       the longest that the engine may say nothing, seconds
    as_torch      whether tensors are torch's (default: if torch can be imported) or `Weight` objects

    Speaks the protocol of checkpoint-engine 0.4 and needs pyzmq. Of pickles it takes what engines send, and no other object. What ``load_weights``
    raises is told to the engine, which then has all workers raise. Raises what the engine says, TimeoutError, or its own exception.
    """
    zmq = importlib.import_module("zmq")
    if as_torch is None:
        as_torch = importlib.util.find_spec("torch") is not None
    own_context = context is None
    context = zmq.Context() if own_context else context
    socket = context.socket(zmq.REP)
    socket.setsockopt(zmq.LINGER, 1000)
    mapping: Optional[mmap.mmap] = None
    buffer: Optional[memoryview] = None

    def receive() -> Any:
        if not socket.poll(int(timeout * 1000)):
            raise TimeoutError(f"the engine at {address} said nothing for {timeout:g} s")
        return socket.recv()

    def read(message: bytes) -> Any:
        return _WorkerUnpickler(io.BytesIO(message)).load()

    def tell(error: Exception) -> None:
        socket.send_string("".join(traceback.format_exception(type(error), error, error.__traceback__)))

    try:
        socket.connect(address)
        message = receive()
        try:
            function, arguments = read(message)
            if function is not map_host_buffer:
                raise ValueError(f"{function!r} maps no memory of the host; have the engine use it (--update-devices host)")
            mapping = map_host_buffer(*arguments)
            buffer = memoryview(mapping)
        except Exception as error:
            tell(error)
            receive()
            raise
        socket.send(b"")
        while True:
            message = read(receive())
            if message is None and mapping is None:
                if post_hook is not None:
                    post_hook()
                socket.send(b"")
                return
            if message is None:
                buffer = _release(mapping, buffer)
                mapping = None
                socket.send(b"")
            elif isinstance(message, list) and buffer is not None:
                try:
                    load_weights((weight.name, weight.torch() if as_torch else weight) for weight in _weights_of(message, buffer))
                except Exception as error:
                    tell(error)         # and goes on: the engine tells all workers when to stop
                else:
                    socket.send(b"")
            elif isinstance(message, Exception):
                raise message
            else:
                raise TypeError(f"an engine sends no {type(message).__name__} here")
    finally:
        socket.close()
        _release(mapping, buffer)
        if own_context:
            context.term()


def _release(mapping: Optional[mmap.mmap], buffer: Optional[memoryview]) -> None:
    """Unmaps, unless somebody has kept a tensor of it: then that one does when it goes."""
    if buffer is not None:
        gc.collect()
        try:
            buffer.release()
        except BufferError:
            return
    if mapping is not None:
        try:
            mapping.close()
        except BufferError:
            pass
