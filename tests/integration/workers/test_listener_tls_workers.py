"""`server.tls` with several processes: a renewed certificate under load, and the health check."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.answers import COMPLETION
from tests.integration.gateway import CHAT, HELLO, JSON, Ask
from tests.integration.listener.test_listener_tls import CA, client, renew
from tests.integration.scripted import Scripted, Send, reply
from tests.integration.workers.processes import Serving, serving

RENEWALS = 4


def configured(folder: Path, upstream: str, **tls: str) -> Path:
    renew(folder)
    named = {"cert_file": str(folder / "tls.crt"), "key_file": str(folder / "tls.key"), **tls}
    server = {"port": 0, "workers": 2, "tls": named, "control_socket": str(folder / "c.sock"), "drain_timeout_s": 1}
    file = folder / "gatepass.json"
    file.write_text(json.dumps({"server": server, "upstreams": {"chat": {"base_url": f"{upstream}/v1"}}}))
    return file


async def port_of(running: Serving) -> int:
    return int((await running.logged(r'"event":"listening","url":"https://127\.0\.0\.1:(\d+)'))[0][1])


async def test_workers_renew_the_certificate_under_load_and_no_request_fails(tmp_path):
    failures, answers = list[Exception](), list[int]()
    async with (
        Scripted(answer=lambda _: [Send(reply(COMPLETION))]) as upstream,
        serving("--config", str(configured(tmp_path, upstream.url))) as running,
    ):
        ask = Ask(await port_of(running), "POST", CHAT, dict(JSON), json.dumps(HELLO).encode(), client())

        async def load() -> None:
            while True:
                try:
                    answers.append((await replace(ask).answer()).status)
                except (OSError, EOFError) as error:
                    failures.append(error)

        os.kill(running.process.pid, signal.SIGHUP)
        await running.logged('"reloaded"', 2)  # both workers serve: a SIGHUP waits until then
        loading = [asyncio.create_task(load()) for _ in range(4)]
        for number in range(1, RENEWALS + 1):
            renew(tmp_path)
            os.kill(running.process.pid, signal.SIGHUP)
            await running.logged(r'"reloaded".*server\.tls', 2 * number)
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
    assert failures == []
    assert set(answers) == {200}


@pytest.mark.parametrize("mutual", [False, True])
async def test_the_health_check_needs_no_setting(tmp_path: Path, mutual: bool):
    CA.cert_pem.write_to_path(tmp_path / "ca.crt")
    more = {"client_ca_file": str(tmp_path / "ca.crt")} if mutual else {}
    file = configured(tmp_path, "http://127.0.0.1:9", **more)
    async with serving("--config", str(file)) as running:
        port = await port_of(running)
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
