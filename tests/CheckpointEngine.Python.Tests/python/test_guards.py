"""What guards a server: TLS of its peer service and its data port, secrets that change, limits, the audit log."""

import os
import shutil
import subprocess
import unittest

from support import Case, ce, plain, write_model


@unittest.skipIf(shutil.which("openssl") is None, "openssl is not there: apt-get install openssl")
class TlsTests(Case):
    def setUp(self):
        super().setUp()
        self.model = write_model(self.folder / "model")
        for name in ("ca", "other"):
            self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                         "-keyout", f"{name}.key", "-out", f"{name}.pem")
        for name, usage in (("server", "serverAuth"), ("client", "clientAuth")):
            (self.folder / "extensions").write_text(f"subjectAltName=IP:127.0.0.1\nextendedKeyUsage={usage}\n")
            self.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
                         "-keyout", f"{name}.key", "-out", f"{name}.csr")
            self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                         "-extfile", "extensions", "-out", f"{name}.pem")

    def openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def test_joins_over_tls_with_a_certificate_and_leaves_a_line(self):
        path = self.folder
        with ce.ParameterServer(tls_cert_file=path / "server.pem", tls_key_file=path / "server.key", tls_client_ca_file=path / "ca.pem",
                                audit_log=path / "audit.log", max_connections={"peers": (16, 8), "data": 64}, max_leases=8) as holder:
            holder.register_files("m", path / "model")
            url = holder.url("m")
            self.assertTrue(url.startswith("ce+tls://"))
            with ce.ParameterServer(listen=False, ca_file=path / "ca.pem", cert_file=path / "client.pem", key_file=path / "client.key",
                                    require_tls=True) as joiner:
                self.assertEqual(plain(ce.join(url, joiner, transport="tcp", verify="require").checkpoint), self.model)
            with ce.ParameterServer(listen=False, ca_file=path / "other.pem") as misled:
                with self.assertRaises(ce.RefusedError):
                    ce.join(url, misled, transport="tcp")
        audit = (path / "audit.log").read_text()
        self.assertIn("lease-taken peer=127.0.0.1", audit)
        self.assertIn("(CN=client)", audit)

    def test_weights_are_encrypted_and_secrets_change_while_it_runs(self):
        path = self.folder
        with ce.ParameterServer(token="old", tls_cert_file=path / "server.pem", tls_key_file=path / "server.key", encrypt_data=True) as holder, \
                ce.ParameterServer(listen=False, token="old", ca_file=path / "ca.pem", require_encryption=True) as joiner:
            holder.register_files("m", path / "model")
            url = holder.url("m")
            result = ce.join(url, joiner, transport="tcp", verify="require")
            self.assertEqual(plain(result.checkpoint), self.model)
            self.assertIn("tcp, encrypted", "\n".join(result.planes))
            holder.set_token("new")
            with self.assertRaises(ce.RefusedError):
                ce.join(url, joiner, transport="tcp", into="null")
            joiner.set_token("new\nold")
            ce.join(url, joiner, transport="tcp", into="null")
            os.replace(path / "other.pem", path / "server.pem")
            os.replace(path / "other.key", path / "server.key")
            holder.reload_certificates()
            with self.assertRaises(ce.RefusedError):
                ce.join(url, joiner, transport="tcp", into="null")
            (path / "server.pem").write_text("nothing")
            with self.assertRaises(ce.InvalidDataError):
                holder.reload_certificates()

    def test_who_does_not_encrypt_is_not_read_where_it_is_demanded(self):
        path = self.folder
        with ce.ParameterServer(tls_cert_file=path / "server.pem", tls_key_file=path / "server.key") as holder:
            holder.register_files("m", path / "model")
            with ce.ParameterServer(listen=False, ca_file=path / "ca.pem", require_encryption=True) as joiner:
                with self.assertRaises(ce.RefusedError):
                    ce.join(holder.url("m"), joiner, transport="tcp")

    def test_nobody_without_tls_is_read_where_it_is_demanded(self):
        with self.server() as holder:
            holder.register_files("m", self.folder / "model")
            with ce.ParameterServer(listen=False, require_tls=True) as joiner:
                with self.assertRaises(ce.RefusedError):
                    ce.join(holder.url("m"), joiner, transport="tcp")


class LimitTests(Case):
    def test_what_is_no_limit_is_refused(self):
        for arguments in ({"max_connections": {"http": 1}}, {"max_connections": {"peers": 0}}, {"max_leases": 0}, {"max_requests": -1}):
            with self.assertRaises(ValueError):
                ce.ParameterServer(**arguments)
        with self.assertRaises(TypeError):
            ce.ParameterServer(max_leases="many")
        with self.assertRaises(ce.ArgumentError):
            ce.ParameterServer(max_in_flight_kib=(1 << 20) + 1)
        with self.assertRaises(ce.ArgumentError):
            ce.ParameterServer(tls_key_file="key.pem")
        with self.assertRaises(ce.ArgumentError):
            ce.ParameterServer(encrypt_data=True)

    def test_a_server_without_secrets_gets_none(self):
        with self.server() as server:
            with self.assertRaises(ce.StateError):
                server.set_token("new")
            with self.assertRaises(ce.StateError):
                server.reload_certificates()
            with self.assertRaises(TypeError):
                server.set_token(None)

    def test_more_leases_than_there_may_be_are_refused(self):
        write_model(self.folder / "model")
        with ce.ParameterServer(max_leases=1, audit_log=self.folder / "audit.log") as holder:
            holder.register_files("m", self.folder / "model")
            url = holder.url("m")

            def while_it_has_the_lease(_):
                with self.assertRaises(ce.BusyError):
                    ce.join(url, transport="tcp")

            ce.join(url, on_bucket=while_it_has_the_lease, transport="tcp")
        self.assertIn("refuse where=peers", (self.folder / "audit.log").read_text())


if __name__ == "__main__":
    unittest.main()
