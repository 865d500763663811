"""The application of `create_app`, without a server: what the ASGI scope decides."""

import asyncio
import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

import gatepass
from gatepass import Config, create_app, drain, load_config
from gatepass.auth.api_keys import new_key
from gatepass.config.document import ConfigError
from tests.waiting import until

NOWHERE: dict[str, Any] = {
    "upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}},
    "models": {"m": {"upstream": "chat"}},
}
LOCAL = ("127.0.0.1", 50_000)


def app_of(**blocks: Any) -> FastAPI:
    return create_app(Config.model_validate({**NOWHERE, **blocks}))


def local_client(app: FastAPI) -> TestClient:
    return TestClient(app, base_url="http://localhost", client=LOCAL)


async def answer(
    app: FastAPI,
    path: str = "/v1/models",
    *,
    client: tuple[str, int] | None = LOCAL,
    fields: tuple[tuple[bytes, bytes], ...] = (),
    lifespan: bool = True,
) -> tuple[int, dict[str, Any]]:
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"localhost"), *fields],
        "client": client,
    }
    sent: list[Any] = []
    never = asyncio.Event()
    messages = [{"type": "http.request"}]

    async def receive() -> Any:
        if not messages:
            await never.wait()
        return messages.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    if lifespan:
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)
    else:
        await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(body)


def test_another_name_than_the_public_ones_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gatepass.nothing


def test_a_configuration_file_is_loaded_with_its_references(tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", "http://127.0.0.1:9/v1")
    path = tmp_path / "gatepass.yaml"
    path.write_text("upstreams:\n  chat: {base_url: '${WHERE}'}\nmodels:\n  m: {upstream: chat}\n")
    assert load_config(path) == load_config(str(path)) == Config.model_validate(NOWHERE)
    path.write_text("upstreams:\n  chat: {base_uri: '${WHERE}'}\n")
    with pytest.raises(ConfigError, match=r"gatepass\.yaml:2"):
        load_config(path)


@pytest.mark.parametrize("peer", [("127.0.0.1", 1), ("::1", 1), ("127.3.2.1", 0), ("::ffff:127.0.0.1", 1)])
async def test_without_keys_a_loopback_peer_is_served(peer):
    assert (await answer(app_of(), client=peer))[0] == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/files", "/status", "/metrics", "/learned"])
@pytest.mark.parametrize("peer", [("203.0.113.9", 1), ("10.0.0.1", 1), ("", 0), ("testclient", 50_000), None])
async def test_without_keys_no_other_peer_is_served(peer, path):
    status, body = await answer(app_of(), path, client=peer)
    assert (status, body["error"]["code"]) == (403, "forbidden_peer")


@pytest.mark.parametrize("name", [b"forwarded", b"X-Forwarded-For", b"x-real-ip", b"x-forwarded-host"])
async def test_without_keys_a_forwarded_request_is_not_served(name):
    """uvicorn puts the address in such a header into the scope, by default if a loopback peer sends it."""
    status, body = await answer(app_of(), fields=((name, b"127.0.0.1"),))
    assert (status, body["error"]["code"]) == (403, "forbidden_peer")


async def test_with_keys_any_peer_and_a_proxy_may_ask():
    key, hashed = new_key()
    keyed = app_of(access={"keys": [{"name": "one", "hash": hashed}]})
    fields = ((b"authorization", f"Bearer {key}".encode()), (b"x-forwarded-for", b"10.0.0.1"))
    for peer in (("203.0.113.9", 1), None):
        assert (await answer(keyed, client=peer, fields=fields))[0] == 200
    assert (await answer(keyed, client=None))[1]["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", ["/v1/models", "/healthz", "/status", "/nowhere"])
async def test_a_request_before_the_start_gets_one_clear_error(path):
    status, body = await answer(app_of(), path, lifespan=False)
    assert (status, body["error"]["code"], body["error"]["hop"]) == (500, "not_started", "gatepass")
    assert "lifespan is not running" in body["error"]["message"]


async def test_a_request_from_another_event_loop_gets_the_same_code():
    app = app_of()
    async with app.router.lifespan_context(app):
        status, body = await asyncio.to_thread(asyncio.run, answer(app, lifespan=False))
    assert (status, body["error"]["code"]) == (500, "not_started")
    assert "another event loop" in body["error"]["message"]


async def test_a_running_lifespan_is_not_entered_twice():
    app = app_of()
    async with app.router.lifespan_context(app):
        with pytest.raises(RuntimeError, match="already running"):
            async with app.router.lifespan_context(app):
                pass
        assert (await answer(app, lifespan=False))[0] == 200


def test_the_test_client_serves_within_its_block_any_number_of_times():
    app = app_of()
    for _ in range(2):
        with local_client(app) as client:
            assert client.get("/healthz").json() == {"status": "ok"}
            assert client.get("/v1/models").status_code == 200
    drain(app)  # its loop is closed: without effect
    assert local_client(app).get("/v1/models").json()["error"]["code"] == "not_started"


def test_a_mount_without_the_lifespan_reports_it_and_with_it_serves():
    gateway = app_of()
    parent = FastAPI()
    parent.mount("/llm", gateway)
    with local_client(parent) as client:
        assert client.get("/llm/v1/models").json()["error"]["code"] == "not_started"
    parent = FastAPI(lifespan=lambda _: gateway.router.lifespan_context(gateway))  # type: ignore[arg-type]  # Starlette types it for itself
    parent.mount("/llm", gateway)
    with local_client(parent) as client:
        assert client.get("/llm/v1/models").json()["data"][0]["id"] == "m"
        unknown = client.get("/llm/nowhere").json()["error"]
        assert unknown["code"] == "unknown_path"
        assert "The base URL is http://localhost/llm/v1." in unknown["message"]
        assert client.get("/llm/", headers={"accept": "text/html"}).json()["error"]["code"] == "unknown_path"
        assert client.post("/llm/v1/models").headers["allow"] == "GET, HEAD"


async def test_a_drained_application_is_not_ready_and_refuses(caplog):
    caplog.set_level(logging.INFO, "gatepass")
    app = app_of(server={"drain_delay_s": 1e-6})
    async with app.router.lifespan_context(app):
        drain(app)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await answer(app, "/readyz", lifespan=False) == (503, {"ready": False})
        await until(lambda: caplog.messages[-2:] == ["unready", "draining"])
        status, body = await answer(app, lifespan=False)
        assert (status, body["error"]["code"]) == (503, "draining")
    drain(app)  # after the end: without effect
    assert (await answer(app, "/readyz"))[0] == 200


UNTOUCHED = """
import gc, logging, signal, asyncio, ctypes, sys
calls = []
ctypes.CDLL = lambda *_: calls.append("allocator")

def state():
    root, own = logging.getLogger(), logging.getLogger("gatepass")
    return (
        gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), list(root.handlers), root.level, list(own.handlers),
        own.level, [signal.getsignal(number) for number in signal.valid_signals()], asyncio.events._event_loop_policy,
        logging.logThreads, logging._srcfile, sys.excepthook, calls,
    )

async def run():
    before = state()
    from gatepass import Config, create_app

    app = create_app(Config.model_validate({"upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}}}))
    async with app.router.lifespan_context(app):
        assert type(asyncio.get_running_loop()).__module__.startswith("asyncio")
        assert state() == before, (before, state())
    assert state() == before, (before, state())

asyncio.run(run())
"""


def test_the_process_is_the_hosts():
    """Collection, allocator, signals, log handlers and the event loop: `gatepass serve` alone sets them."""
    done = subprocess.run([sys.executable, "-c", UNTOUCHED], capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_hosts_own_routes_and_middleware_work():
    app = app_of()
    seen: list[str] = []

    class Middleware:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["type"])
            await self.inner(scope, receive, send)

    app.add_middleware(Middleware)

    @app.get("/mine")
    def mine() -> str:
        return "the host's"

    with local_client(app) as client:
        assert client.get("/mine").json() == "the host's"
        assert client.get("/v1/models").status_code == 200
        assert client.get("/mine/").json()["error"]["code"] == "unknown_path"
    assert seen == ["lifespan", "http", "http", "http"]


def test_a_config_of_code_is_checked_as_a_file_is():
    with pytest.raises(ConfigError, match=r"^configuration: models\.m\.upstream"):
        app_of(models={"m": {"upstream": "embed"}})
