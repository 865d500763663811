"""What `openssl s_client`, a TLS client that others wrote, sees of the listener."""

import asyncio
import shutil
import ssl
import subprocess
from functools import partial
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest
import trustme

from gatepass.errors import GatepassError
from gatepass.server.listener_tls import handshake_error
from tests.integration.gateway import Gateway, gateway
from tests.integration.listener.test_listener_tls import CA, OTHER_CA, expired, renew

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="needs the command openssl")


async def s_client(gp: Gateway, *options: str, typed: str = "") -> str:
    """Return what `openssl s_client` prints until the connection ends, or until the end of its input.

    It may end before it reads: uvloop's `communicate` then raises RuntimeError, that of `subprocess` passes over it.
    """
    command = (OPENSSL or "", "s_client", "-connect", f"127.0.0.1:{gp.port}", *options)
    run = partial(subprocess.run, command, input=typed.encode(), stdout=PIPE, stderr=STDOUT, timeout=30, check=False)
    return str((await asyncio.to_thread(run)).stdout, errors="replace")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("-tls1_3", "-alpn", "h2,http/1.1"), "ALPN protocol: http/1.1"),
        (("-tls1_3",), "New, TLSv1.3, Cipher is TLS_"),
        (("-tls1_2",), "New, TLSv1.2, Cipher is ECDHE-"),
        (("-tls1_2",), "Compression: NONE"),
        (("-tls1_2",), "no renegotiation"),
        (("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), "New, (NONE), Cipher is (NONE)"),
        (("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"), "New, (NONE), Cipher is (NONE)"),
        (("-tls1_2", "-cipher", "AES128-GCM-SHA256"), "New, (NONE), Cipher is (NONE)"),
        (("-tls1_2", "-cipher", "NULL:aNULL:@SECLEVEL=0"), "New, (NONE), Cipher is (NONE)"),
    ],
)
async def test_protocols_and_ciphers(tmp_path: Path, options: tuple[str, ...], line: str):
    renew(tmp_path)
    tls = {"cert_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}
    async with gateway(upstream="http://127.0.0.1:9", server={"tls": tls, "drain_timeout_s": 0}) as gp:
        typed = "R\n" if line == "no renegotiation" else ""
        assert line in await s_client(gp, *options, typed=typed)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize(
    ("certificate", "line"),
    [
        (None, "The TLS handshake with the client failed: peer did not return a certificate."),
        (expired(), "The client certificate is not valid: certificate has expired."),
        (
            OTHER_CA.issue_cert("a@corp.example"),
            "The client certificate is not valid: unable to get local issuer certificate.",
        ),
    ],
    ids=["none", "expired", "other CA"],
)
async def test_a_wrong_client_certificate_is_refused_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, certificate: trustme.LeafCert | None, line: str
):
    """uvloop closes the connection without the alert, so only gatepass knows the reason."""
    refused: list[str] = []

    def recorded(error: ssl.SSLError) -> GatepassError:
        found = handshake_error(error)
        refused.append(found.message)
        return found

    monkeypatch.setattr("gatepass.server.connection.handshake_error", recorded)
    renew(tmp_path)
    CA.cert_pem.write_to_path(tmp_path / "ca.crt")
    options = [version, "-ign_eof"]
    if certificate is not None:
        certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
        options += ["-cert", str(tmp_path / "client.pem")]
    tls = {name: str(tmp_path / file) for name, file in FILES.items()}
    async with gateway(upstream="http://127.0.0.1:9", server={"tls": tls, "drain_timeout_s": 0}) as gp:
        assert "HTTP/1.1" not in await s_client(gp, *options, typed="GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    assert refused == [line]


FILES = {"cert_file": "tls.crt", "key_file": "tls.key", "client_ca_file": "ca.crt"}
