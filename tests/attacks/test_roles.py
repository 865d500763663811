"""No page leaves to a key without the role, however its path, method and key are written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass import Config, create_app
from gatepass.auth.api_keys import hash_key
from tests.attacks import generated
from tests.attacks.conftest import Attack
from tests.attacks.test_ui import Servers, Trick, answer_of
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
Fields = tuple[tuple[str, str], ...]
MARKS = (b"# HELP", b'"in_flight"', b'"rows"', b'"rules"', b"# Nothing has been learned")
"""Words of the pages that no error contains."""


@asynccontextmanager
async def opened() -> AsyncIterator[Servers]:
    app = create_app(Config.model_validate(BLOCKS))
    async with gateway(**BLOCKS) as gp, app.router.lifespan_context(app):
        yield Servers(gp.port, app, ({}, {}))


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def servers(runner: asyncio.Runner) -> Iterator[Servers]:
    opening = opened()
    yield runner.run(opening.__aenter__())
    runner.run(opening.__aexit__(None, None, None))


def asked(method: str, target: str, headers: Fields = ()) -> Trick:
    return Trick(method, target, (("host", "gw.example"), *headers), MARKS)


def pages_in(runner: asyncio.Runner, servers: Servers, trick: Trick) -> list[bool]:
    """Return whether each server sent a word of a page."""

    async def both() -> list[bytes]:
        return [await answer_of(servers, number, trick) for number in (0, 1)]

    return [any(mark in answer for mark in MARKS) for answer in runner.run(both())]


def _shown(form: str, key: str) -> Fields:
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
    page = draw(st.sampled_from(["status", "metrics", "learned", "usage"]))
    written = "".join(f"%{ord(char):02x}" if draw(st.integers(0, 9)) == 0 else char for char in page)
    written = draw(st.sampled_from([written, written, written.upper()]))
    before = draw(
        st.sampled_from(["/", "/llm/", "//", "/llm//", "/./", "/x/../", "/healthz/../", "/v1/", "/for/dify/"])
    )
    after = draw(st.sampled_from(["", "", "/", "//", "?as=config", "?key=x", ";a", "%00", "%20", "#x", "/.", "%2f"]))
    return before + written + after


questions = st.builds(
    lambda method, target, form, role: asked(method, target, () if role is None else _shown(form, KEYS[role])),
    st.sampled_from(["GET", "GET", "HEAD", "POST", "OPTIONS", "get"]),
    spelled(),
    st.sampled_from(FORMS),
    st.sampled_from([None, "caller", "ended"]),
)


@pytest.mark.attack("access: pages without the role")
@generated
@given(questions)
@example(asked("GET", "/status", ()))
@example(asked("GET", "/llm/learned?as=config", _shown("bearer", KEYS["caller"])))
@example(asked("GET", "/metrics", _shown("two", KEYS["caller"])))
@example(asked("GET", "/status", _shown("bearer", KEYS["ended"])))
def test_no_page_leaves_to_a_key_without_the_role(
    attack: Attack, runner: asyncio.Runner, servers: Servers, question: Trick
) -> None:
    attack.cases += 1
    attack.check(not any(pages_in(runner, servers, question)), question)


@pytest.mark.parametrize("role", READERS)
@pytest.mark.parametrize("target", ["/status", "/llm/metrics", "/usage", "/learned?as=config", "/%73tatus"])
def test_a_reader_gets_the_page_under_both_servers(
    runner: asyncio.Runner, servers: Servers, target: str, role: str
) -> None:
    assert pages_in(runner, servers, asked("GET", target, _shown("bearer", KEYS[role]))) == [True, True]
