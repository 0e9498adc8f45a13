#!/usr/bin/env python3
"""A peer that speaks Mooncake's handshake and RDMA reads, made of Debian's pyverbs and nothing of the engine.

    peer.py hold    --host IP --devices D[,D] --size BYTES --seed S    offers memory, answers handshakes until stdin ends
    peer.py read    --host IP --devices D[,D] --segment HOST:PORT --address A --length N --seed S    reads and checks it
    peer.py connect --host IP --devices D[,D] --segment HOST:PORT --times N    connects and drops, N times

Each prints one line of JSON. `hold` prints it when it can be read from; `read` and `connect` at their end, with status 1 and
{"ok":false,"error":...} when something failed. Offers, handshake and queue pairs are as Mooncake's RDMA transport has them.
"""
import argparse
import ctypes
import ipaddress
import json
import mmap
import random
import socket
import struct
import sys
import threading
import time
from datetime import datetime

CONNECTION, METADATA, NOTIFY, PROBE = range(4)
MAX_FRAME = 1 << 20
SERVER_TIMEOUT, CLIENT_TIMEOUT = 5.0, 60.0
# of ibv_wc_status, those that a read can end with
STATUSES = {4: "local protection error", 5: "flushed", 9: "remote invalid request", 10: "remote access error", 11: "remote operation error",
            12: "transport retries exceeded", 13: "receiver-not-ready retries exceeded"}
NULL = object()     # answered as JSON null; None closes without an answer


class PeerError(Exception):
    """Something that the other side or a device did; the text is for the line of JSON."""

    def __init__(self, text, **details):
        super().__init__(text)
        self.details = details


# ---- frames: 8 bytes of length, one of type, JSON

def encode_frame(kind, value):
    """The bytes of a message: compact JSON with its keys in order and a newline, as the real engine writes it."""
    body = (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode()
    return struct.pack("<QB", len(body) + 1, kind) + body


def decode_frame(content):
    """Type and value of one whole message."""
    length, kind = struct.unpack_from("<QB", content)
    if length != len(content) - 8:
        raise PeerError(f"a message of {len(content) - 8} bytes says it has {length}")
    return kind, json.loads(content[9:])


def receive_exactly(stream, count):
    parts = bytearray()
    while len(parts) < count:
        part = stream.recv(count - len(parts))
        if not part:
            raise PeerError(f"the connection ended {count - len(parts)} bytes early")
        parts += part
    return bytes(parts)


def receive_frame(stream):
    head = receive_exactly(stream, 8)
    length, = struct.unpack("<Q", head)
    if not 1 <= length <= MAX_FRAME:
        raise PeerError(f"a message of {length} bytes")
    return decode_frame(head + receive_exactly(stream, length))


def exchange(address, kind, value):
    """One request and its reply over a connection of their own, closed at once."""
    with socket.create_connection(split_address(address), timeout=CLIENT_TIMEOUT) as stream:
        stream.sendall(encode_frame(kind, value))
        reply_kind, reply = receive_frame(stream)
    if reply_kind != kind:
        raise PeerError(f"a message of type {kind} was answered by one of type {reply_kind}")
    return reply


def split_address(address):
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


# ---- what the messages say

def descriptor(name, devices, buffers, location="cpu:0", timestamp=None):
    """What a segment offers. devices: (name, gid, lid); buffers: (address, length, lkeys, rkeys), keys in the order of the devices."""
    names = [device[0] for device in devices]
    return {
        "buffers": [{"addr": a, "length": n, "lkey": lkeys, "name": location, "rkey": rkeys} for a, n, lkeys, rkeys in buffers],
        "devices": [{"gid": gid, "lid": lid, "name": device} for device, gid, lid in devices],
        "name": name,
        "priority_matrix": {location: [names[:1], names[1:]]},
        "protocol": "rdma",
        "tcp_data_port": 0,
        "tcp_proto_version": 1,
        "timestamp": timestamp or datetime.now().strftime("%Y-%m-%d %H:%M:%S.%f"),
    }


def connection(local, peer, numbers, gid, lid, ready_ack=False, reply=""):
    """A Connection message; gid or ready_ack None leaves those keys out, as releases that do not know them do."""
    message = {"local_nic_path": local, "payload": "", "peer_nic_path": peer, "qp_num": numbers, "reply_msg": reply}
    if gid is not None:
        message.update(local_gid=gid, local_lid=lid)
    if ready_ack is not None:
        message.update(ready_ack=ready_ack)
    return message


def refusal(reason=""):
    """With an empty reason it is the answer to a ready-ack, where all fields are empty too."""
    return connection("", "", [], "", 0, ready_ack=None, reply=reason)


def gid_text(address):
    """16 bytes as pairs of digits, from the eight groups that verbs print."""
    digits = ipaddress.IPv6Address(address).packed.hex()
    return ":".join(digits[i:i + 2] for i in range(0, 32, 2))


def gid_address(text):
    return ipaddress.IPv6Address(bytes.fromhex(text.replace(":", ""))).exploded


# ---- the roles; a device has name, gid, lid and queue_pairs(count), which have numbers, connect(numbers, gid, lid) and close()

class Segment:
    """What this process offers and how it answers the handshake."""

    def __init__(self, host, devices, qps=2, ready_ack=True, local_gid=True, refuse=None):
        self.host, self.devices, self.qps = host, devices, qps
        self.ready_ack, self.local_gid, self.refuse = ready_ack, local_gid, refuse
        self.buffers = []
        self.name = None
        self.endpoints = {}     # (own path, other's path) -> (other's numbers, queue pairs)
        self.acknowledged = 0
        self._lock = threading.Lock()

    def listen(self):
        """Serves from now on, each connection on a thread of its own, at a port that the system chooses."""
        listener = socket.create_server((self.host, 0), backlog=128)
        self.name = f"{self.host}:{listener.getsockname()[1]}"
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def path(self, device):
        return f"{self.name}@{device.name}"

    def descriptor(self):
        return descriptor(self.name, [(d.name, d.gid, d.lid) for d in self.devices], self.buffers)

    def answer(self, kind, value):
        if kind == METADATA:
            return self.descriptor()
        if kind == NOTIFY:
            return {"name": "", "notify_msg": "success"}
        if kind == PROBE:
            return {"status": "success"}
        if kind != CONNECTION:
            return None
        if self.refuse is not None:
            return refusal(self.refuse) if self.refuse else NULL
        return self._accept_connection(value)

    def _accept_connection(self, request):
        own, other, numbers = request["peer_nic_path"], request["local_nic_path"], request["qp_num"]
        device = next((d for d in self.devices if self.path(d) == own), None)
        if device is None:
            return refusal(f"{self.name} has no NIC path {own}")
        with self._lock:
            known = self.endpoints.get((own, other))
            if request.get("ready_ack"):
                if known is None or known[0] != numbers:
                    return refusal("ready-ack for an unknown endpoint")
                self.acknowledged += 1
                return refusal()
            if len(numbers) != self.qps:
                return refusal(f"{len(numbers)} queue pairs, not {self.qps}")
            if known is None or known[0] != numbers:
                if known is not None:
                    known[1].close()
                    del self.endpoints[own, other]
                gid, lid = request.get("local_gid"), request.get("local_lid", 0)
                if not gid:
                    gid, lid = self._address_of(other)
                queue_pairs = device.queue_pairs(self.qps)
                queue_pairs.connect(numbers, gid, lid)
                known = self.endpoints[own, other] = numbers, queue_pairs
        return connection(own, other, known[1].numbers, device.gid if self.local_gid else None, device.lid, False if self.ready_ack else None)

    def _address_of(self, path):
        """A device's GID and LID, asked of the process that it belongs to."""
        server, _, name = path.partition("@")
        offered = exchange(server, METADATA, self.descriptor())
        found = next((d for d in offered["devices"] if d["name"] == name), None)
        if found is None:
            raise PeerError(f"{server} offers no device {name}")
        return found["gid"], found["lid"]

    def _accept(self, listener):
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream):
        with stream:
            try:
                stream.settimeout(SERVER_TIMEOUT)
                kind, value = receive_frame(stream)
                reply = self.answer(kind, value)
                if reply is None:
                    return
                stream.sendall(encode_frame(kind, None if reply is NULL else reply))
                stream.shutdown(socket.SHUT_WR)
                stream.recv(1)
            except (OSError, ValueError, KeyError, PeerError) as error:
                print(f"peer.py: {error!r}", file=sys.stderr, flush=True)


def connect(segment, device, target, index, send=exchange):
    """Queue pairs between a device of ours and device number `index` of a target's descriptor, ready to post."""
    remote = target["devices"][index]
    own, other = segment.path(device), f"{target.get('rdma_server_name', target['name'])}@{remote['name']}"
    queue_pairs = device.queue_pairs(segment.qps)
    try:
        request = connection(own, other, queue_pairs.numbers, device.gid if segment.local_gid else None, device.lid,
                             False if segment.ready_ack else None)
        reply = send(target["name"], CONNECTION, request)
        if reply is None:
            raise PeerError("refused: null")
        if reply["reply_msg"]:
            raise PeerError(f"refused: {reply['reply_msg']}")
        if (reply["local_nic_path"], reply["peer_nic_path"]) != (other, own):
            raise PeerError(f"the reply is for {reply['peer_nic_path']} from {reply['local_nic_path']}, not for {own} from {other}")
        if len(reply["qp_num"]) != len(queue_pairs.numbers):
            raise PeerError(f"{len(reply['qp_num'])} queue pairs in reply to {len(queue_pairs.numbers)}")
        gid, lid = (reply["local_gid"], reply["local_lid"]) if reply.get("local_gid") else (remote["gid"], remote["lid"])
        queue_pairs.connect(reply["qp_num"], gid, lid)
        if segment.ready_ack and "ready_ack" in reply:
            acknowledged = send(target["name"], CONNECTION, {**request, "ready_ack": True})
            if acknowledged is None or acknowledged["reply_msg"]:
                raise PeerError(f"ready-ack refused: {acknowledged and acknowledged['reply_msg']}")
        return queue_pairs
    except BaseException:
        queue_pairs.close()
        raise


# ---- verbs

class VerbsDevice:
    """An opened device with one protection domain and one completion queue for all queue pairs."""

    def __init__(self, name, gid_index):
        from pyverbs.cq import CQ
        from pyverbs.device import Context
        from pyverbs.pd import PD
        self.name, self.gid_index = name, gid_index
        self.context = Context(name=name)
        port = self.context.query_port(1)
        self.lid, self.mtu = port.lid, port.active_mtu      # 5 is 4096 bytes, the largest there is
        self.gid = gid_text(self.context.query_gid(1, gid_index).gid)
        self.domain = PD(self.context)
        self.completions = CQ(self.context, 4096)

    def register(self, address, length):
        from pyverbs import enums
        from pyverbs.mr import MR
        return MR(self.domain, length, enums.IBV_ACCESS_LOCAL_WRITE | enums.IBV_ACCESS_REMOTE_WRITE | enums.IBV_ACCESS_REMOTE_READ, address=address)

    def queue_pairs(self, count):
        return VerbsQueuePairs(self, count)

    def poll(self):
        """Finished work: (id, status) each."""
        _, finished = self.completions.poll(64)
        return [(f.wr_id, f.status) for f in finished or []]


class VerbsQueuePairs:
    """One endpoint: RC queue pairs with the attributes of Mooncake's."""

    DEPTH = 16      # reads in flight on each: max_rd_atomic

    def __init__(self, device, count):
        from pyverbs import enums
        from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
        self.device, self.pairs = device, []
        for _ in range(count):
            limits = QPCap(max_send_wr=256, max_recv_wr=256, max_send_sge=4, max_recv_sge=4, max_inline_data=64)
            pair = QP(device.domain, QPInitAttr(qp_type=enums.IBV_QPT_RC, scq=device.completions, rcq=device.completions, cap=limits, sq_sig_all=0))
            attributes = QPAttr(port_num=1)
            attributes.pkey_index = 0
            attributes.qp_access_flags = 0xf    # local write, remote write, read and atomic
            pair.to_init(attributes)
            self.pairs.append(pair)

    @property
    def numbers(self):
        return [pair.qp_num for pair in self.pairs]

    def connect(self, numbers, gid, lid):
        from pyverbs import enums
        from pyverbs.addr import GID, AHAttr, GlobalRoute
        from pyverbs.qp import QPAttr
        for pair, number in zip(self.pairs, numbers, strict=True):
            attributes = QPAttr(port_num=1)
            route = GlobalRoute(dgid=GID(gid_address(gid)), sgid_index=self.device.gid_index, hop_limit=16, traffic_class=0)
            attributes.ah_attr = AHAttr(dlid=lid, sl=0, port_num=1, is_global=1, gr=route)
            attributes.path_mtu = min(self.device.mtu, enums.IBV_MTU_4096)
            attributes.dest_qp_num = number
            attributes.rq_psn, attributes.max_dest_rd_atomic, attributes.min_rnr_timer = 0, 16, 12
            pair.to_rtr(attributes)
            attributes.timeout, attributes.retry_cnt, attributes.rnr_retry = 14, 7, 7
            attributes.sq_psn, attributes.max_rd_atomic = 0, 16
            pair.to_rts(attributes)

    def post_read(self, which, identity, local, lkey, remote, rkey, length):
        from pyverbs import enums
        from pyverbs.wr import SGE, SendWR
        request = SendWR(wr_id=identity, opcode=enums.IBV_WR_RDMA_READ, num_sge=1, sg=[SGE(local, length, lkey)], send_flags=enums.IBV_SEND_SIGNALED)
        request.set_wr_rdma(rkey, remote)
        self.pairs[which].post_send(request)

    def close(self):
        for pair in self.pairs:
            pair.close()
        self.pairs = []


# ---- memory with a content that can be told

class Memory:
    """Pages that stay where they are."""

    def __init__(self, length):
        self.pages = mmap.mmap(-1, length)
        self.view = memoryview(self.pages)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.pages))
        self.length = length


class Pattern:
    """Content from a seed: 64 KiB pieces, each its number and then random bytes from a place of its own; no two alike."""

    PIECE = 65536

    def __init__(self, seed):
        self.seed, self.base = seed, random.Random(seed).randbytes(self.PIECE + 4093)

    def piece(self, index):
        start = index % 4093
        return struct.pack("<Q", index ^ self.seed) + self.base[start:start + self.PIECE - 8]

    def write(self, view):
        for offset in range(0, len(view), self.PIECE):
            part = view[offset:offset + self.PIECE]
            part[:] = self.piece(offset // self.PIECE)[:len(part)]

    def first_difference(self, view, start):
        """Offset in the view of the first wrong piece; None when all is right. start: where the view lies in the whole."""
        position = 0
        while position < len(view):
            index, skip = divmod(start + position, self.PIECE)
            expected = self.piece(index)[skip:skip + len(view) - position]
            if view[position:position + len(expected)] != expected:
                return position
            position += len(expected)
        return None


# ---- commands

def open_segment(options):
    devices = [VerbsDevice(name, options.gid_index) for name in options.devices.split(",")]
    segment = Segment(options.host, devices, options.qps, not options.no_ready_ack, not options.no_local_gid, getattr(options, "refuse", None))
    segment.listen()
    return segment


def fetch(segment, options):
    target = exchange(options.segment, METADATA, segment.descriptor())
    if target is None or target.get("protocol") != "rdma":
        raise PeerError(f"{options.segment} is no RDMA segment: {target and target.get('protocol')}")
    for buffer in target["buffers"]:
        if len(buffer["rkey"]) != len(target["devices"]):
            raise PeerError("a buffer has not one rkey for each device")
    return target


def pairs_of(segment, target):
    """Every device of both sides in at least one pair."""
    count = max(len(segment.devices), len(target["devices"]))
    return [(segment.devices[i % len(segment.devices)], i % len(target["devices"])) for i in range(count)]


def hold(options):
    if options.file:
        with open(options.file, "rb") as source:
            content = source.read()
        memory = Memory(len(content))
        memory.view[:] = content
    else:
        memory = Memory(options.size)
        Pattern(options.seed).write(memory.view)
    segment = open_segment(options)
    regions = [device.register(memory.address, memory.length) for device in segment.devices]
    segment.buffers.append((memory.address, memory.length, [r.lkey for r in regions], [r.rkey for r in regions]))
    tell({"segment": segment.name, "address": memory.address, "length": memory.length})
    sys.stdin.buffer.read()


def read(options):
    segment = open_segment(options)
    target = fetch(segment, options)
    first, last = options.address, options.address + options.length
    buffer = next((b for b in target["buffers"] if b["addr"] <= first and last <= b["addr"] + b["length"]), None)
    if buffer is None:
        raise PeerError(f"{options.segment} offers no buffer with [{first:#x}, {last:#x})")
    memory = Memory(options.length)
    began = time.monotonic()
    regions = {device: device.register(memory.address, memory.length) for device in segment.devices}
    endpoints = [(device, index, connect(segment, device, target, index)) for device, index in pairs_of(segment, target)]
    connected = time.monotonic()

    lanes = [(device, index, pairs, which) for device, index, pairs in endpoints for which in range(segment.qps)]
    rkeys = [key ^ 0x00ffff00 if options.wrong_rkey else key for key in buffer["rkey"]]
    offsets = iter(range(0, options.length, options.slice))
    in_flight, deadline = {}, connected + options.timeout

    def post(lane):
        offset = next(offsets, None)
        if offset is None:
            return
        device, index, pairs, which = lanes[lane]
        in_flight[offset] = lane
        length = min(options.slice, options.length - offset)
        pairs.post_read(which, offset, memory.address + offset, regions[device].lkey, first + offset, rkeys[index], length)

    for _ in range(VerbsQueuePairs.DEPTH):
        for lane in range(len(lanes)):
            post(lane)
    while in_flight:
        finished = [f for device in segment.devices for f in device.poll()]
        for offset, status in finished:
            if status != 0:
                raise PeerError(f"the read at {first + offset:#x} failed: {STATUSES.get(status, status)}", status=status)
            post(in_flight.pop(offset))
        if not finished:
            if time.monotonic() > deadline:
                raise PeerError(f"{len(in_flight)} reads are not finished after {options.timeout} s")
            time.sleep(0.0002)      # the kernel that moves the bytes wants this core too
    ended = time.monotonic()

    if options.out:
        with open(options.out, "wb") as destination:
            destination.write(memory.view)
    if options.seed is not None:
        wrong = Pattern(options.seed).first_difference(memory.view, first - buffer["addr"])
        if wrong is not None:
            raise PeerError(f"wrong bytes in the 64 KiB from {first + wrong:#x} on")
    tell({"ok": True, "bytes": options.length, "seconds": round(ended - connected, 6), "connect_seconds": round(connected - began, 6),
          "endpoints": [f"{device.name}-{target['devices'][index]['name']}" for device, index, _ in endpoints]})


def connect_often(options):
    segment = open_segment(options)
    target = fetch(segment, options)
    pairs = pairs_of(segment, target)
    began = time.monotonic()
    for i in range(options.times):
        device, index = pairs[i % len(pairs)]
        connect(segment, device, target, index).close()
    tell({"ok": True, "times": options.times, "seconds": round(time.monotonic() - began, 6)})


def tell(value):
    print(json.dumps(value), flush=True)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name, run, text):
        one = commands.add_parser(name, help=text)
        one.set_defaults(run=run)
        one.add_argument("--host", required=True, help="address of our handshake port, and the host of our name")
        one.add_argument("--devices", required=True, help="devices to use, in order, separated by commas")
        one.add_argument("--gid-index", type=int, default=1)
        one.add_argument("--qps", type=int, default=2, help="queue pairs of an endpoint")
        one.add_argument("--no-ready-ack", action="store_true", help="be a release that has no ready_ack")
        one.add_argument("--no-local-gid", action="store_true", help="be a release that has no local_gid")
        return one

    one = command("hold", hold, "offer memory until stdin ends")
    content = one.add_mutually_exclusive_group(required=True)
    content.add_argument("--size", type=int, help="bytes of the pattern")
    content.add_argument("--file", help="a file's content in place of the pattern")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--refuse", metavar="REASON", help="refuse every connection with this reason; an empty one: with null")

    one = command("read", read, "read memory and check it")
    one.add_argument("--segment", required=True)
    one.add_argument("--address", type=int, required=True)
    one.add_argument("--length", type=int, required=True)
    one.add_argument("--seed", type=int, help="of the pattern that it has to be; without it nothing is checked")
    one.add_argument("--out", help="write what was read to this file")
    one.add_argument("--slice", type=int, default=65536, help="bytes of one read")
    one.add_argument("--timeout", type=float, default=60, help="seconds that the reads may take")
    one.add_argument("--wrong-rkey", action="store_true")

    one = command("connect", connect_often, "connect and drop, often")
    one.add_argument("--segment", required=True)
    one.add_argument("--times", type=int, default=1000)
    return parser.parse_args(arguments)


def main():
    options = parse(sys.argv[1:])
    try:
        options.run(options)
    except (OSError, ValueError, KeyError, TypeError, PeerError, *verbs_errors()) as error:
        tell({"ok": False, "error": str(error) or repr(error), **getattr(error, "details", {})})
        return 1
    return 0


def verbs_errors():
    try:
        from pyverbs.pyverbs_error import PyverbsError
        return [PyverbsError]
    except ImportError:
        return []


if __name__ == "__main__":
    sys.exit(main())
