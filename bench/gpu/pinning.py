"""Part 1: devices, and what it costs to pin host memory, called directly (cudaHostRegister, by the driver's own name cuMemHostRegister)."""
import concurrent.futures
import ctypes
import json
import mmap
import os
import subprocess
import time

PORTABLE, READ_ONLY = 1, 8
MADV_POPULATE_WRITE = 23        # Linux 5.14


def driver():
    return ctypes.CDLL("libcuda.so.1")


def check_devices(report, engine):
    import torch
    of_torch = ["GPU-" + str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]
    of_smi = subprocess.run(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], capture_output=True, text=True, check=True).stdout.split()
    ours = [gpu["uuid"] for gpu in json.loads(engine.run("doctor", "--json"))["gpus"]]
    report.check("devices", "ours, torch's and nvidia-smi's", ", ".join(ours), "the same UUIDs", ours == of_torch and set(of_torch) <= set(of_smi))
    return of_torch


def check_gpudirect(report):
    """Whether memory of the device can be read by RDMA devices: told, not required."""
    cuda, value, device = driver(), ctypes.c_int(), ctypes.c_int()
    cuda.cuInit(0)
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    dmabuf = cuda.cuDeviceGetAttribute(ctypes.byref(value), 124, device) == 0 and value.value == 1
    peermem = os.path.isdir("/sys/module/nvidia_peermem")
    rdma = os.listdir("/sys/class/infiniband") if os.path.isdir("/sys/class/infiniband") else []
    report.note("GPUDirect", "dma-buf of device memory; nvidia_peermem; RDMA devices", f"{'yes' if dmabuf else 'no'}; {'yes' if peermem else 'no'}; {', '.join(rdma) or 'none'}")


class Mapping:
    """Memory that is there: of a file in /dev/shm as an engine maps it, or anonymous in huge pages."""

    def __init__(self, size, path=None):
        self._libc = self._memory = None
        if path:
            file = os.open(path, os.O_RDWR | os.O_CREAT)
            os.unlink(path)
            os.ftruncate(file, size)
            writable = mmap.mmap(file, size)
            writable.madvise(MADV_POPULATE_WRITE)
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._libc.mmap.restype = ctypes.c_void_p
            self._libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
            self.address = self._libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
            os.close(file)
            writable.close()
        else:
            self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._memory.madvise(mmap.MADV_HUGEPAGE)
            self._memory.madvise(MADV_POPULATE_WRITE)
            self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.size = size

    def close(self):
        if self._libc:
            self._libc.munmap(ctypes.c_void_p(self.address), ctypes.c_size_t(self.size))
        self._memory = None         # what is anonymous goes with its object


def register(cuda, mapping, threads, flags, piece=256 << 20):
    """Seconds to pin and to unpin all of it, piece by piece."""
    def each(work):
        pieces = [(at, min(piece, mapping.size - at)) for at in range(0, mapping.size, piece)]
        with concurrent.futures.ThreadPoolExecutor(threads, initializer=make_current, initargs=(cuda,)) as pool:
            started = time.perf_counter()
            results = list(pool.map(lambda part: work(*part), pieces))
            seconds = time.perf_counter() - started
        if any(results):
            raise RuntimeError(f"the driver says {next(filter(None, results))}")
        return seconds

    up = each(lambda at, size: cuda.cuMemHostRegister_v2(ctypes.c_void_p(mapping.address + at), ctypes.c_size_t(size), flags))
    down = each(lambda at, size: cuda.cuMemHostUnregister(ctypes.c_void_p(mapping.address + at)))
    return up, down


def make_current(cuda):
    context, device = ctypes.c_void_p(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    cuda.cuCtxSetCurrent(context)


def measure(report, size, folder):
    """What the driver gives when it is called directly."""
    cuda = driver()
    cuda.cuInit(0)
    make_current(cuda)
    for kind, path, flags in (("file in /dev/shm", os.path.join(folder, "pinned"), PORTABLE | READ_ONLY), ("anonymous, huge pages", None, PORTABLE)):
        mapping = Mapping(size, path)
        try:
            for threads in (1, 2, 4, 8):
                up, down = register(cuda, mapping, threads, flags)
                report.note("pinning", f"cuMemHostRegister called directly, {kind}, {threads} {'thread' if threads == 1 else 'threads'}", f"{size / up / 1e9:.1f} GB/s", f"unpinning {size / down / 1e9:.1f} GB/s")
        finally:
            mapping.close()
