"""docs/scaling.md: each of the three ways to use more cores works, with the files of deploy/."""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gatepass.config.load import load
from tests.docs.blocks import blocks
from tests.integration.processes import Serving, ask, patient_python, serving
from tests.integration.store.minting import Minting, minting
from tests.integration.store.responder import Responder, responding
from tests.serving import free_port
from tests.waiting import BOUND_S, until, until_async

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/scaling.md").read_text()
COMPOSE = YAML(typ="safe").load(ROOT / "deploy/compose.replicas.yaml")
NGINX_CONF = (ROOT / "deploy/nginx.replicas.conf").read_text()
UNIT, TEMPLATE = ((ROOT / f"deploy/systemd/{name}.service").read_text() for name in ("gatepass", "gatepass@"))
SERVERS = re.findall(r"^ +server (\S+);$", NGINX_CONF, re.MULTILINE)
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SECRET = "0123456789abcdef0123456789abcdef"


def test_the_balancer_names_the_replicas_and_mounts_its_configuration() -> None:
    services = COMPOSE["services"]
    replicas = [name for name in services if name.startswith("gatepass")]
    assert SERVERS == [f"{name}:8080" for name in replicas] == ["gatepass:8080", "gatepass-2:8080"]
    assert services["gatepass"] == services["gatepass-2"]
    assert services["balancer"]["volumes"] == ["./nginx.replicas.conf:/etc/nginx/nginx.conf:ro"]
    assert services["balancer"]["ports"] == ["127.0.0.1:${PORT:-8080}:8080"]
    assert "ports" not in services["gatepass"], "only nginx reaches the replicas"
    assert services["gatepass"]["build"]["args"] == {"EXTRAS": "valkey"}


def test_the_configuration_of_the_page_fits_the_services(tmp_path: Path) -> None:
    (text,) = blocks(PAGE, "yaml")
    (tmp_path / "store_key").write_text(SECRET)
    text = text.replace("/run/secrets", str(tmp_path))
    file = tmp_path / "gatepass.yaml"
    file.write_text(text + 'upstreams: {llm: {base_url: "https://llm.example/v1"}}\n' + ACCESS)
    file.chmod(0o600)
    config = load(str(file), {"STORE_PASSWORD": "a-password-of-the-store"}).config
    assert config.store is not None
    assert config.store.host in COMPOSE["services"]
    assert config.store.allow_plain_tcp


ACCESS = f"access: {{keys: [{{name: rag, hash: 'sha256:{'0' * 64}'}}]}}\n"


def test_the_template_is_the_unit_with_a_port_and_folders_of_its_own() -> None:
    port = TEMPLATE.replace("%i", "8081")
    assert "ExecStart=/opt/gatepass/bin/gatepass serve --config /etc/gatepass/gatepass.yaml --port 8081\n" in port
    assert "GATEPASS_CONTROL_SOCKET=/run/gatepass-8081/control.sock\n" in port
    assert "--socket /run/gatepass-8081/control.sock" in PAGE

    def rules(unit: str) -> list[str]:
        own = ("Description=", "ExecStart=", "LoadCredential=", "Environment=", "RuntimeDirectory=")
        return [line for line in unit[unit.index("[Unit]") :].splitlines() if not line.startswith(own)]

    assert rules(TEMPLATE) == rules(UNIT)


@asynccontextmanager
async def replicas(folder: Path) -> AsyncIterator[tuple[list[Serving], Minting]]:
    """Run two processes as the template does: one configuration with a store, and a port for each."""
    (command,) = re.findall(r"^ExecStart=(.*)$", TEMPLATE, re.MULTILINE)
    _, _, *options = shlex.split(command.replace("/etc/gatepass/gatepass.yaml", str(folder / "gatepass.json")))
    patient = patient_python(folder)
    async with AsyncExitStack() as stack:
        issuer = await stack.enter_async_context(minting(kills_old=True))
        responder = await stack.enter_async_context(responding(Responder()))
        store = {"url": f"valkey://127.0.0.1:{responder.port}", "encryption_key": SECRET}
        server = {"host": "127.0.0.1", "control_socket": "off", "drain_timeout_s": 5}
        configuration = issuer.configuration(store=store, server=server)
        configuration["credentials"]["corp"]["timeout_s"] = BOUND_S  # a lease lasts half of it at most
        (folder / "gatepass.json").write_text(json.dumps(configuration))
        ports = [free_port() for _ in range(2)]
        running = [
            await stack.enter_async_context(
                serving(*(option.replace("%i", str(port)) for option in options), python=patient)
            )
            for port in ports
        ]
        assert [await one.port for one in running] == ports
        for port in ports:
            await until_async(partial(is_served, port))
        yield running, issuer


async def is_served(port: int) -> bool:
    return bool((await ask(port)).status == 200)


async def test_processes_of_the_template_are_one_client_of_the_issuer(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (running, issuer):
        for one in running:
            assert {(await ask(await one.port)).status for _ in range(5)} == {200}
        assert len(issuer.calls) == 1
    assert issuer.refused == []


@pytest.mark.skipif(NGINX is None, reason="requires Debian's package nginx-light")
async def test_nginx_spreads_the_requests_and_a_replica_stops_without_a_failed_one(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (running, issuer), balanced(tmp_path, [await one.port for one in running]) as port:
        assert {(await ask(port)).status for _ in range(20)} == {200}
        assert min(one.count('"event":"request"') for one in running) > 3
        statuses: list[int] = []
        stop = asyncio.Event()

        async def keep_asking() -> None:
            while not stop.is_set():
                statuses.append((await ask(port)).status)

        asking = [asyncio.create_task(keep_asking()) for _ in range(4)]
        await until(lambda: len(statuses) > 40)
        running[0].process.send_signal(signal.SIGTERM)
        assert await running[0].ended() == 0
        before = len(statuses)
        await until(lambda: len(statuses) > before + 40)
        stop.set()
        await asyncio.gather(*asking)
        assert set(statuses) == {200}
        assert len(issuer.calls) == 1


@asynccontextmanager
async def balanced(folder: Path, ports: list[int]) -> AsyncIterator[int]:
    """Run nginx with the file of deploy/, on a free port and with the addresses of the replicas."""
    port, text = free_port(), NGINX_CONF
    for server, own in zip(SERVERS, ports, strict=True):
        text = text.replace(f"server {server};", f"server 127.0.0.1:{own};")
    text = text.replace("listen 8080;", f"listen 127.0.0.1:{port};")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    text = text.replace("http {\n", "http {\n" + "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds))
    (folder / "nginx.conf").write_text(f"pid {folder}/nginx.pid;\nerror_log stderr;\ndaemon off;\n{text}")
    command: list[Any] = [NGINX, "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr"]
    nginx = await asyncio.create_subprocess_exec(*map(str, command))
    try:
        await until_async(lambda: is_open(port))
        yield port
    finally:
        nginx.terminate()
        await nginx.wait()


async def is_open(port: int) -> bool:
    try:
        return bool((await ask(port, "/healthz", None)).status == 200)
    except OSError:
        return False
