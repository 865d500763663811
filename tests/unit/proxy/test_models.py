"""The model catalog over a fake transport."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from gatepass.config.access import AccessKey
from gatepass.config.model import Config
from gatepass.protocols import PROTOCOLS
from gatepass.proxy.app_state import create_app_state
from gatepass.proxy.context import RequestContext
from gatepass.proxy.models import FAILED_S, FRESH_S, ModelCatalog
from gatepass.types import OutboundRequest, Response
from tests.unit.clock import DrivenClock, settle
from tests.unit.proxy.test_attempt_retries import Reply

CALLER = AccessKey(name="anybody", hash="sha256:" + "0" * 64)


class Bug(Exception):
    """An error of no known class."""


def listed(*models: str) -> Reply:
    return Reply({"data": [{"id": model} for model in models]})


class Upstream:
    """A Transport: `reply` is the reply, an error to raise, or None to wait until `free` is set."""

    def __init__(self, reply: Response | Exception | None) -> None:
        self.reply = reply
        self.requests = 0
        self.free = asyncio.Event()

    async def send(self, request: OutboundRequest, times: object = None) -> Response:
        self.requests += 1
        if self.reply is None:
            await self.free.wait()
        if isinstance(self.reply, Exception):
            raise self.reply
        assert self.reply is not None
        return self.reply

    async def aclose(self) -> None:
        pass


def over(upstream: Upstream, clock: DrivenClock) -> ModelCatalog:
    config = Config.model_validate({"upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}}})
    state = create_app_state(config, clock)
    chat = replace(state.upstreams["chat"], transport=upstream)  # type: ignore[arg-type]  # a fake with the same methods
    return ModelCatalog(replace(state, upstreams={"chat": chat}))


def request_to(catalog: ModelCatalog) -> RequestContext:
    """The request of a caller that may use every model."""
    context = RequestContext.without_client(catalog.state, catalog.state.profiles["plain"])
    context.caller, context.protocol = CALLER, PROTOCOLS["models"]
    return context


async def ids(catalog: ModelCatalog) -> list[str]:
    listing = json.loads(await catalog.listing(request_to(catalog)))
    return [model["id"] for model in listing["data"]]


async def test_an_unexpected_fault_is_not_an_empty_list():
    clock = DrivenClock()
    upstream = Upstream(Bug("oops"))
    catalog = over(upstream, clock)
    for _ in range(3):
        with pytest.raises(Bug, match="oops"):
            await ids(catalog)
        with pytest.raises(Bug, match="oops"):
            await catalog.entry(request_to(catalog), "m")
    assert upstream.requests == 1
    await clock.advance(FAILED_S)
    upstream.reply = listed("m")
    assert await ids(catalog) == ["m"]


async def test_an_error_that_is_raised_repeatedly_does_not_grow():
    catalog = over(Upstream(Bug("oops")), DrivenClock())
    depths = []
    for _ in range(3):
        with pytest.raises(Bug) as raised:
            await ids(catalog)
        depths.append(len(raised.traceback))
    assert len(set(depths)) == 1


async def test_a_fault_of_a_refresh_is_logged_while_the_last_list_is_returned(caplog):
    clock, upstream = DrivenClock(), Upstream(listed("m"))
    catalog = over(upstream, clock)
    assert await ids(catalog) == ["m"]
    await clock.advance(FRESH_S)
    upstream.reply = Bug("oops")
    assert await ids(catalog) == ["m"]
    await settle()
    assert await ids(catalog) == ["m"]
    (line,) = caplog.records
    assert (line.getMessage(), line.fields, line.exc_info[0]) == ("model_list_failed", {"upstream": "chat"}, Bug)
    assert upstream.requests == 2


async def test_an_old_list_is_returned_at_once_and_the_next_request_gets_the_new_one():
    clock, upstream = DrivenClock(), Upstream(listed("old"))
    catalog = over(upstream, clock)
    assert await ids(catalog) == ["old"]
    await clock.advance(FRESH_S)
    upstream.reply = None
    async with asyncio.timeout(1):
        assert await ids(catalog) == ["old"]
    upstream.reply = listed("new")
    upstream.free.set()
    await settle()
    assert (await ids(catalog), upstream.requests) == (["new"], 2)
