"""Everything that the demo runs on one machine: an issuer, two model servers, and gatepass in front of them."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from gatepass.demo.issuer import DemoClient, DemoIssuer, IssuedToken
from gatepass.demo.model_server import ModelServer

CHAT_MODEL = "demo-chat"
EMBEDDINGS_MODEL = "demo-embed"
LOG, LOG_LINES = "gatepass.log", 20
LISTENING = re.compile(r"gatepass listening on (http://\S+)$", re.MULTILINE)
READY_S, STOP_S, LOOK_S = 20.0, 15.0, 0.02


class GatewayFailed(Exception):
    """gatepass did not start, or did not stop as it should."""


@dataclass(frozen=True, slots=True)
class DemoServers:
    """The running servers. `folder` holds gatepass's configuration, its log, and one file for each secret."""

    issuer: DemoIssuer
    chat: ModelServer
    embeddings: ModelServer
    issuer_url: str
    chat_url: str
    embeddings_url: str
    gateway_url: str
    folder: Path
    key: str = field(repr=False)


@asynccontextmanager
async def demo_servers(
    folder: Path, secret_of: dict[str, str], on_mint: Callable[[IssuedToken], object], lifetime_s: float
) -> AsyncIterator[DemoServers]:
    """Run everything, and stop all of it at the end. Raises GatewayFailed."""
    clients = [
        DemoClient(name, secret_of[name], name.removeprefix("demo-")) for name in ("demo-chat", "demo-embeddings")
    ]
    issuer = DemoIssuer(clients, lifetime_s, on_mint)
    chat = ModelServer(issuer.key, "chat", CHAT_MODEL)
    embeddings = ModelServer(issuer.key, "embeddings", EMBEDDINGS_MODEL)
    async with serving(issuer.app) as tokens, serving(chat.app) as chats, serving(embeddings.app) as vectors:
        text = CONFIG.format(issuer=tokens, chat=chats, embeddings=vectors, folder=folder)
        (folder / "gatepass.yaml").write_text(text)
        async with gateway(folder / "gatepass.yaml", folder / LOG) as url:
            yield DemoServers(issuer, chat, embeddings, tokens, chats, vectors, url, folder, secret_of["key"])


@asynccontextmanager
async def gateway(config: Path, log: Path) -> AsyncIterator[str]:
    """Run `gatepass serve` in a process that writes into `log`, and yield its root URL.

    Raises GatewayFailed unless it is ready within READY_S seconds and exits with 0 within STOP_S seconds of SIGTERM.
    """
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "gatepass", "serve", "--config", str(config), "--port", "0"),
            stdin=DEVNULL,
            stdout=out,
            stderr=STDOUT,
            env={name: value for name, value in os.environ.items() if not name.startswith("GATEPASS_")},
            process_group=0,  # Ctrl-C reaches the demo alone, which then stops gatepass in good order
        )
    try:
        yield await _url(process, log)
    finally:
        code = await _stopped(process)
    if code != 0:
        raise GatewayFailed(f"gatepass ended with exit code {code}")


async def _url(process: Process, log: Path) -> str:
    try:
        async with asyncio.timeout(READY_S):
            while (found := LISTENING.search("\n".join(last_lines(log)))) is None:
                if process.returncode is not None:
                    raise GatewayFailed(f"gatepass ended with exit code {process.returncode} before it was ready")
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise GatewayFailed(f"gatepass was not ready within {READY_S:.0f} s") from None
    return found[1].rstrip("/")


async def _stopped(process: Process) -> int:
    """The exit code, after SIGTERM, or after SIGKILL if that is ignored."""
    if process.returncode is None:
        process.terminate()
    try:
        return await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        process.kill()
        return await process.wait()


def last_lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-LOG_LINES:]


@contextmanager
def secrets_in_files() -> Iterator[tuple[Path, dict[str, str]]]:
    """Make a folder with one file for each secret, readable by this user alone, and remove it at the end."""
    names = ("key", "demo-chat", "demo-embeddings")
    with tempfile.TemporaryDirectory(prefix="gatepass-demo-") as name:
        folder, secret_of = Path(name), {name: f"gp-{secrets.token_urlsafe(32)}" for name in names}
        for name, text in secret_of.items():
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(text)
        yield folder, secret_of


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the demo has its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Serve `app` on a free loopback port and yield its root URL."""
    server = _Server(uvicorn.Config(app, lifespan="off", log_config=None, ws="none", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        task = asyncio.create_task(server.serve(sockets=[listening]), name="demo server")
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


CONFIG = """\
server: {{host: 127.0.0.1, drain_timeout_s: 2}}
credentials:
  corp:
    type: oauth2
    token_url: {issuer}/oauth/token
    client_id: demo-chat
    client_secret: "${{file:{folder}/demo-chat}}"
  portal:
    type: http_json
    url: {issuer}/login
    json: {{app_id: demo-embeddings, secret: "${{file:{folder}/demo-embeddings}}"}}
    reply: {{token: data.token, expires_at: data.expireAt, unit: ms}}
upstreams:
  chat: {{base_url: "{chat}/v1", credential: corp}}
  embed: {{base_url: "{embeddings}/v1", credential: portal}}
models:
  demo-chat: {{upstream: chat}}
  demo-embed: {{upstream: embed}}
access:
  keys:
    - {{name: demo, key: "${{file:{folder}/key}}"}}
"""
