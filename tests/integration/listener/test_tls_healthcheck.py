"""`server.tls` and the health check."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

from tests.integration.listener.test_listener_tls import renew
from tests.integration.processes import serving


def configured(folder: Path, upstream: str) -> Path:
    renew(folder)
    named = {"cert_file": str(folder / "tls.crt"), "key_file": str(folder / "tls.key")}
    server = {"port": 0, "tls": named, "control_socket": str(folder / "c.sock"), "drain_timeout_s": 30}
    file = folder / "gatepass.json"
    file.write_text(json.dumps({"server": server, "upstreams": {"chat": {"base_url": f"{upstream}/v1"}}}))
    return file


async def test_the_health_check_needs_no_setting(tmp_path: Path):
    file = configured(tmp_path, "http://127.0.0.1:9")
    async with serving("--config", str(file)) as running:
        port = int((await running.logged(r'"event":"listening","url":"https://127\.0\.0\.1:(\d+)'))[0][1])
        environment = os.environ | {
            "GATEPASS_HOST": "0.0.0.0",
            "GATEPASS_PORT": str(port),
            "GATEPASS_CONFIG": str(file),
        }
        command = (sys.executable, "-m", "gatepass", "healthcheck")
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT, env=environment)
        output, _ = await process.communicate()
        assert (process.returncode, output) == (0, b"")
        assert running.count("tls_handshake_failed") == 0
