"""No page leaves to a key without the role, however its path, method and key are written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import FastAPI
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass import Config, create_app
from gatepass.auth.api_keys import hash_key
from gatepass.config.access import AccessKey
from tests.attacks import generated
from tests.attacks.conftest import Attack
from tests.integration.gateway import gateway

KEYS = {role: f"gp-{role}-0123456789abcdef" for role in ("caller", "viewer", "admin", "ended")}
"""The key of each role, and one of an admin that has expired."""
BLOCKS: dict[str, Any] = {
    "upstreams": {"u": {"base_url": "http://127.0.0.1:9/v1"}},
    "server": {"base_path": "/llm", "drain_timeout_s": 0},
    "access": {
        "keys": [
            *({"name": role, "role": role, "hash": hash_key(KEYS[role])} for role in ("caller", "viewer", "admin")),
            {"name": "ended", "role": "admin", "expires": "2020-01-31", "hash": hash_key(KEYS["ended"])},
        ]
    },
}
READERS = ("viewer", "admin")
MARKS = (b"# HELP", b'"in_flight"', b'"rules"', b"# Nothing has been learned")
"""Words of the pages that no error contains."""


@dataclass(frozen=True, slots=True)
class Servers:
    """The same configuration under `gatepass serve` (a port) and as an ASGI application."""

    port: int
    app: FastAPI


@asynccontextmanager
async def opened() -> AsyncIterator[Servers]:
    app = create_app(Config.model_validate(BLOCKS))
    async with gateway(**BLOCKS) as gp, app.router.lifespan_context(app):
        yield Servers(gp.port, app)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def servers(runner: asyncio.Runner) -> Iterator[Servers]:
    opening = opened()
    yield runner.run(opening.__aenter__())
    runner.run(opening.__aexit__(None, None, None))


@dataclass(frozen=True, slots=True)
class Question:
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    @property
    def head(self) -> bytes:
        fields = (("host", "gw.example"), ("connection", "close"), *self.headers)
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"{self.method} {self.target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


async def over_a_socket(servers: Servers, question: Question) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", servers.port)
    writer.write(question.head)
    async with asyncio.timeout(30):
        received = await reader.read()
    writer.close()
    return received


async def over_asgi(servers: Servers, question: Question) -> bytes:
    path, _, query = question.target.partition("?")
    received = bytearray()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": question.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in question.headers],
        "client": ("192.0.2.7", 4711),
        "server": ("gw.example", 80),
    }

    async def receive() -> Any:
        if not received:
            return {"type": "http.request", "body": b"", "more_body": False}
        return await asyncio.Future()

    async def send(message: Any) -> None:
        received.extend(message.get("body", b"") or str(message.get("status")).encode())

    await servers.app(scope, receive, send)
    return bytes(received)


def pages_in(runner: asyncio.Runner, servers: Servers, question: Question) -> bool:
    """Return whether either server sent a word of a page."""

    async def both() -> list[bytes]:
        return [await over_a_socket(servers, question), await over_asgi(servers, question)]

    return any(mark in answer for answer in runner.run(both()) for mark in MARKS)


def _shown(form: str, key: str) -> tuple[tuple[str, str], ...]:
    return {
        "bearer": (("authorization", f"Bearer {key}"),),
        "x-api-key": (("x-api-key", key),),
        "api-key": (("api-key", f" {key} "),),
        "twice": (("authorization", f"bearer {key}"), ("x-api-key", key)),
        "two": (("x-api-key", key), ("api-key", KEYS["viewer"])),
        "wrapped": (("authorization", f'Bearer {{"api_key": "{key}", "role": "admin"}}'),),
        "claimed": (("authorization", f"Bearer {key}"), ("x-role", "admin"), ("x-original-url", "/healthz")),
    }[form]


FORMS = ("bearer", "x-api-key", "api-key", "twice", "two", "wrapped", "claimed")


@st.composite
def spelled(draw: st.DrawFn) -> str:
    """A spelling of a page's path: slashes, escapes, case, dots, prefixes, suffixes and queries."""
    page = draw(st.sampled_from(["status", "metrics", "learned"]))
    written = "".join(f"%{ord(char):02x}" if draw(st.integers(0, 9)) == 0 else char for char in page)
    written = draw(st.sampled_from([written, written, written.upper()]))
    before = draw(
        st.sampled_from(["/", "/llm/", "//", "/llm//", "/./", "/x/../", "/healthz/../", "/v1/", "/for/dify/"])
    )
    after = draw(st.sampled_from(["", "", "/", "//", "?as=config", "?key=x", ";a", "%00", "%20", "#x", "/.", "%2f"]))
    return before + written + after


questions = st.builds(
    lambda method, target, form, role: Question(method, target, () if role is None else _shown(form, KEYS[role])),
    st.sampled_from(["GET", "GET", "HEAD", "POST", "OPTIONS", "get"]),
    spelled(),
    st.sampled_from(FORMS),
    st.sampled_from([None, "caller", "ended"]),
)


@pytest.mark.attack("access: pages without the role")
@generated
@given(questions)
@example(Question("GET", "/status", ()))
@example(Question("GET", "/llm/learned?as=config", _shown("bearer", KEYS["caller"])))
@example(Question("GET", "/metrics", _shown("two", KEYS["caller"])))
@example(Question("GET", "/status", _shown("bearer", KEYS["ended"])))
def test_no_page_leaves_to_a_key_without_the_role(
    attack: Attack, runner: asyncio.Runner, servers: Servers, question: Question
) -> None:
    attack.cases += 1
    attack.check(not pages_in(runner, servers, question), question)


@pytest.mark.parametrize("role", READERS)
@pytest.mark.parametrize("target", ["/status", "/llm/metrics", "/learned?as=config", "/%73tatus"])
def test_a_reader_gets_the_page_under_both_servers(
    runner: asyncio.Runner, servers: Servers, target: str, role: str
) -> None:
    for asked in (over_a_socket, over_asgi):
        answer = runner.run(asked(servers, Question("GET", target, _shown("bearer", KEYS[role]))))
        assert any(mark in answer for mark in MARKS)


def test_mutant_without_the_role_check_is_found(
    runner: asyncio.Runner, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = Question("GET", "/status", _shown("bearer", KEYS["caller"]))
    assert not pages_in(runner, servers, question)
    monkeypatch.setattr(AccessKey, "reads_pages", True)
    assert pages_in(runner, servers, question)
