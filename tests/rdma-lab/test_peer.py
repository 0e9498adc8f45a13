"""peer.py against what real peers sent: needs no device and no pyverbs. The captures are those of CheckpointEngine.Core.Tests."""
import pathlib
import socket
import unittest

import peer

CAPTURES = pathlib.Path(__file__).parent.parent / "CheckpointEngine.Core.Tests" / "Data" / "mooncake-captures"


def capture(name):
    return (CAPTURES / f"{name}.bin").read_bytes()


def message(name):
    return peer.decode_frame(capture(name))[1]


class FakeQueuePairs:
    def __init__(self, device, numbers):
        self.device, self.numbers, self.connected = device, numbers, None

    def connect(self, numbers, gid, lid):
        self.connected = numbers, gid, lid

    def close(self):
        self.device.open.remove(self)


class FakeDevice:
    def __init__(self, name, gid, numbers):
        self.name, self.gid, self.lid, self.numbers, self.open = name, gid, 0, list(numbers), []

    def queue_pairs(self, count):
        self.open.append(FakeQueuePairs(self, [self.numbers.pop(0) for _ in range(count)]))
        return self.open[-1]


GID = "00:00:00:00:00:00:00:00:00:00:ff:ff:%s"


def segment(name, device, **options):
    made = peer.Segment(name.partition(":")[0], [device], **options)
    made.name = name
    return made


class FramingTests(unittest.TestCase):
    def test_every_rdma_capture_of_a_real_engine_is_written_the_same(self):
        names = ["50-rdma-metadata.rx", "51-rdma-real-metadata.rx", "51-rdma-real-metadata.tx", "52-rdma-real-connection.rx",
                 "52-rdma-real-connection.tx", "53-rdma-real-ready-ack.rx", "53-rdma-real-ready-ack.tx", "56-rdma-py-active-connection.rx",
                 "57-rdma-py-ready-ack.rx", "58-rdma-py-active-connection-no-gid.rx", "59-rdma-metadata-callback.rx", "60-rdma-py-target-metadata.rx",
                 "61-rdma-py-target-connection.rx", "62-rdma-py-target-ready-ack.rx"]
        for name in names:
            with self.subTest(name):
                self.assertEqual(peer.encode_frame(*peer.decode_frame(capture(name))), capture(name))

    def test_descriptor_is_a_real_engines(self):
        made = peer.descriptor(
            "127.0.0.1:15421", [("fakehca0", GID % "c0:a8:32:07", 0), ("fakehca1", GID % "c0:a8:33:07", 0)],
            [(140629772500992, 1048576, [16777217, 33554434], [150994945, 167772162])], timestamp="2026-11-23 11:07:27.649519")
        self.assertEqual(peer.encode_frame(peer.METADATA, made), capture("50-rdma-metadata.rx"))

    def test_lengths_that_no_message_has_are_refused(self):
        for length in (0, peer.MAX_FRAME + 1, 2**64 - 1):
            ours, theirs = socket.socketpair()
            with ours, theirs, self.subTest(length):
                theirs.sendall(length.to_bytes(8, "little"))
                with self.assertRaises(peer.PeerError):
                    peer.receive_frame(ours)

    def test_gid_goes_both_ways(self):
        self.assertEqual(peer.gid_text("0000:0000:0000:0000:0000:ffff:c612:0001"), GID % "c6:12:00:01")
        self.assertEqual(peer.gid_address(GID % "c6:12:00:01"), "0000:0000:0000:0000:0000:ffff:c612:0001")


class ActiveTests(unittest.TestCase):
    def setUp(self):
        self.sent = []

    def connect(self, us, device, target, *replies):
        replies = list(replies)

        def send(address, kind, value):
            self.sent.append((address, peer.encode_frame(kind, value)))
            return replies.pop(0)
        made = peer.connect(us, device, target, 0, send)
        self.assertEqual(replies, [])
        return made

    def test_connects_as_a_real_initiator_does(self):
        device = FakeDevice("fakehca0", GID % "c0:a8:32:07", [6967297, 6967298])
        made = self.connect(segment("127.0.0.1:15510", device), device, message("51-rdma-real-metadata.rx"),
                            message("52-rdma-real-connection.rx"), message("53-rdma-real-ready-ack.rx"))
        self.assertEqual(self.sent, [("127.0.0.1:43983", capture(name)) for name in ("52-rdma-real-connection.tx", "53-rdma-real-ready-ack.tx")])
        self.assertEqual(made.connected, ([6964993, 6964994], GID % "c0:a8:32:07", 0))

    def test_connects_to_a_release_without_gid_and_ready_ack(self):
        device = FakeDevice("pyhca0", GID % "0a:00:00:09", [501, 502])
        target = message("59-rdma-metadata-callback.rx")
        made = self.connect(segment("127.0.0.1:37307", device, ready_ack=False, local_gid=False), device, target,
                            message("58-rdma-py-active-connection-no-gid.rx"))
        self.assertEqual(made.connected, ([7322113, 7322114], GID % "c0:a8:32:07", 0))
        request = peer.decode_frame(self.sent[0][1])[1]
        request.pop("payload")
        self.assertEqual(request, message("58-rdma-py-active-connection-no-gid.tx"))

    def test_refusals_leave_nothing_open(self):
        reply = message("52-rdma-real-connection.rx")
        for bad in (None, peer.refusal("no"), {**reply, "local_nic_path": "x@y"}, {**reply, "qp_num": [1]}):
            device = FakeDevice("fakehca0", GID % "c0:a8:32:07", [1, 2])
            with self.subTest(bad), self.assertRaises(peer.PeerError):
                self.connect(segment("127.0.0.1:15510", device), device, message("51-rdma-real-metadata.rx"), bad)
            self.assertEqual(device.open, [])


class PassiveTests(unittest.TestCase):
    def test_answers_a_real_initiator(self):
        device = FakeDevice("pyhca0", GID % "0a:00:00:02", [6964737, 6964738])
        us = segment("127.0.0.1:33751", device)
        reply = us.answer(*peer.decode_frame(capture("61-rdma-py-target-connection.rx")))
        self.assertEqual(peer.encode_frame(peer.CONNECTION, reply), capture("61-rdma-py-target-connection.tx"))
        self.assertEqual(device.open[0].connected, ([6967299, 6967300], GID % "c0:a8:32:07", 0))
        self.assertEqual(us.answer(*peer.decode_frame(capture("61-rdma-py-target-connection.rx"))), reply)     # again: the same answer
        acknowledged = us.answer(*peer.decode_frame(capture("62-rdma-py-target-ready-ack.rx")))
        self.assertEqual(peer.encode_frame(peer.CONNECTION, acknowledged), capture("62-rdma-py-target-ready-ack.tx"))
        self.assertEqual((us.acknowledged, len(device.open)), (1, 1))

    def test_other_numbers_rebuild_the_endpoint(self):
        device = FakeDevice("pyhca0", GID % "0a:00:00:02", [1, 2, 3, 4])
        us = segment("127.0.0.1:33751", device)
        request = message("61-rdma-py-target-connection.rx")
        us.answer(peer.CONNECTION, request)
        reply = us.answer(peer.CONNECTION, {**request, "qp_num": [7, 8]})
        self.assertEqual((reply["qp_num"], [pairs.numbers for pairs in device.open]), ([3, 4], [[3, 4]]))
        self.assertIn("ready-ack", us.answer(peer.CONNECTION, {**request, "ready_ack": True})["reply_msg"])

    def test_asks_back_for_a_gid_that_is_not_told(self):
        initiator = peer.Segment("127.0.0.1", [FakeDevice("pyhca0", GID % "0a:00:00:09", [])])
        initiator.listen()
        device = FakeDevice("fakehca0", GID % "c0:a8:32:07", [1, 2])
        us = segment("127.0.0.1:15373", device)
        request = message("58-rdma-py-active-connection-no-gid.tx")
        request["local_nic_path"] = initiator.path(initiator.devices[0])
        self.assertEqual(us.answer(peer.CONNECTION, request)["qp_num"], [1, 2])
        self.assertEqual(device.open[0].connected, ([501, 502], GID % "0a:00:00:09", 0))

    def test_refuses_with_a_reason(self):
        us = segment("127.0.0.1:33751", FakeDevice("pyhca0", GID % "0a:00:00:02", []))
        request = message("61-rdma-py-target-connection.rx")
        for wrong in ({**request, "peer_nic_path": "127.0.0.1:33751@other"}, {**request, "qp_num": [1]}):
            reply = us.answer(peer.CONNECTION, wrong)
            self.assertEqual((reply["qp_num"], bool(reply["reply_msg"])), ([], True))

    def test_serves_every_type(self):
        us = peer.Segment("127.0.0.1", [FakeDevice("pyhca0", GID % "0a:00:00:02", [])], refuse="")
        us.listen()
        self.assertEqual(peer.exchange(us.name, peer.METADATA, {})["name"], us.name)
        self.assertEqual(peer.exchange(us.name, peer.NOTIFY, {"name": "a", "notify_msg": "b"})["notify_msg"], "success")
        self.assertEqual(peer.exchange(us.name, peer.PROBE, {}), {"status": "success"})
        self.assertIsNone(peer.exchange(us.name, peer.CONNECTION, {}))


class PatternTests(unittest.TestCase):
    def test_first_difference_finds_one_wrong_byte_anywhere(self):
        content = bytearray(3 * 65536 + 100)
        pattern = peer.Pattern(7)
        pattern.write(memoryview(content))
        self.assertIsNone(pattern.first_difference(memoryview(content), 0))
        self.assertIsNone(pattern.first_difference(memoryview(content)[70000:], 70000))
        self.assertIsNotNone(peer.Pattern(8).first_difference(memoryview(content), 0))
        self.assertIsNotNone(pattern.first_difference(memoryview(content)[65536:], 0))
        for position in (0, 65535, 65536, len(content) - 1):
            content[position] ^= 1
            self.assertEqual(pattern.first_difference(memoryview(content), 0), position // 65536 * 65536)
            content[position] ^= 1


if __name__ == "__main__":
    unittest.main()
