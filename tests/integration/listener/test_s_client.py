"""What `openssl s_client`, a TLS client that others wrote, sees of the listener."""

import asyncio
import shutil
import subprocess
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest

from tests.integration.gateway import Gateway, gateway
from tests.integration.listener.test_listener_tls import renew

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="needs the command openssl")


async def s_client(gp: Gateway, *options: str, typed: str = "") -> str:
    """Return what `openssl s_client` prints until the connection ends, or until the end of its input.

    It may end before it reads: uvloop's `communicate` then raises RuntimeError, that of `subprocess` passes over it.
    """
    command = (OPENSSL or "", "s_client", "-connect", f"127.0.0.1:{gp.port}", *options)

    def run() -> bytes:
        ended = subprocess.run(command, input=typed.encode(), stdout=PIPE, stderr=STDOUT, timeout=180, check=False)
        return ended.stdout

    return (await asyncio.to_thread(run)).decode(errors="replace")


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
