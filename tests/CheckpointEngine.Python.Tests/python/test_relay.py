"""Joins that read from each other, and how a server stays for those that are in the middle of what it has brought."""

import unittest

from support import PATIENCE, Case, ce, plain, read_safetensors, write_model


class RelayCase(Case):
    def setUp(self):
        super().setUp()
        self.model = write_model(self.folder / "model")
        self.holder = self.server()
        self.holder.register_files("m", self.folder / "model")
        self.url = self.holder.url("m")

    def assert_relayed(self, result):
        self.assertTrue(result.verified)
        self.assertFalse([warning for warning in result.warnings if "relay" in warning])
        self.assertGreaterEqual(result.relayed_bytes, 0)
        self.assertEqual(result.retried_bytes, 0)


class TogetherTests(RelayCase):
    def test_joins_that_are_started_together_have_the_same_bytes(self):
        servers = [self.server(listen=False) for _ in range(3)]
        running = [self.enter(ce.start_join(self.url, server, checkpoint_name="m", transport="tcp", relay=True)) for server in servers]
        for server, join in zip(servers, running):
            result = join.wait(PATIENCE)
            self.assert_relayed(result)
            self.assertEqual(plain(result.checkpoint), self.model)
        for server in servers:
            self.assertIs(server.finish_relays(PATIENCE), True)
            self.assertIs(server.finish_relays(0), True)            # nothing is offered any more

    def test_into_a_directory_beside_one_that_has_ended(self):
        server = self.server(listen=False)
        first = ce.join(self.url, server, transport="tcp", relay=True)
        self.assert_relayed(first)
        self.assertEqual(first.relayed_bytes, 0)                    # there was nobody
        self.assert_relayed(ce.join(self.url, directory=self.folder / "copy", transport="tcp", relay=True))
        self.assertEqual(read_safetensors(self.folder / "copy"), self.model)
        self.assertIs(server.finish_relays(None), True)


class AloneTests(RelayCase):
    def test_without_digests_the_reason_is_told(self):
        result = ce.join(self.url, transport="tcp", relay=True, verify=False)
        self.assertTrue([warning for warning in result.warnings if warning.startswith("without relay: it needs digests")], result.warnings)
        self.assertEqual(result.relayed_bytes, 0)
        self.assertEqual(plain(result.checkpoint), self.model)

    def test_what_stays_nowhere_is_read_alone(self):
        result = ce.join(self.url, into="null", transport="tcp", relay=True)
        self.assertTrue([warning for warning in result.warnings if "without relay: " in warning], result.warnings)

    def test_unless_it_is_asked_for_nothing_is_said_of_it(self):
        self.assert_relayed(ce.join(self.url, transport="tcp", verify=True))
        self.assertEqual(ce.join(self.url, transport="tcp", verify=False).warnings, ())


class FinishTests(RelayCase):
    def test_bad_arguments(self):
        for timeout, kind in ((-1, ValueError), ("1", TypeError), (True, TypeError)):
            with self.assertRaises(kind):
                self.holder.finish_relays(timeout)


if __name__ == "__main__":
    unittest.main()
