"""The catalogue over a transport that a test makes up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from gatepass.config.access import AccessKey
from gatepass.config.model import Config
from gatepass.errors import ModelNotFound
from gatepass.http_client.response_body import pour
from gatepass.proxy.app_state import create_app_state
from gatepass.proxy.context import RequestContext
from gatepass.proxy.models import FAILED_S, FRESH_S, Catalog
from gatepass.types import OutboundRequest, Response
from tests.unit.clock import DrivenClock, settle

ANYBODY = AccessKey(name="anybody", hash="sha256:" + "0" * 64)


class Bug(Exception):
    """Nobody knows it."""


class Listed:
    """A reply with a list of these models."""

    status, headers, ended = 200, ((b"content-type", b"application/json"),), False

    def __init__(self, *models: str) -> None:
        self._body = json.dumps({"data": [{"id": model} for model in models]}).encode()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body

    async def stream_to(self, take: Callable[[bytes], bool]) -> bool:
        return await pour(self, take)

    async def aclose(self) -> None:
        pass


class Upstream:
    """A Transport: `says` is what it answers, an error to raise, or None for what does not come while `free` is not
    set."""

    def __init__(self, says: Response | Exception | None) -> None:
        self.says = says
        self.asked = 0
        self.free = asyncio.Event()

    async def send(self, request: OutboundRequest) -> Response:
        self.asked += 1
        if self.says is None:
            await self.free.wait()
        if isinstance(self.says, Exception):
            raise self.says
        assert self.says is not None
        return self.says

    async def aclose(self) -> None:
        pass


def over(upstream: Upstream, clock: DrivenClock, **blocks: Any) -> Catalog:
    config = Config.model_validate({"upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}}, **blocks})
    gate = create_app_state(config, clock)
    return Catalog(replace(gate, upstreams={"chat": replace(gate.upstreams["chat"], transport=upstream)}))  # type: ignore[arg-type]


def asking() -> RequestContext:
    """The request of a caller who may see every model."""
    gate = create_app_state(Config.model_validate({"upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1"}}}))
    context = RequestContext.of_own(gate, gate.profiles["plain"])
    context.caller = ANYBODY
    return context


async def ids(catalog: Catalog) -> list[str]:
    said = json.loads(await catalog.listing(asking()))
    return [model["id"] for model in said["data"]]


async def test_a_fault_that_nobody_expected_is_no_empty_list():
    clock = DrivenClock()
    upstream = Upstream(Bug("oops"))
    catalog = over(upstream, clock)
    for _ in range(3):
        with pytest.raises(Bug, match="oops"):
            await ids(catalog)
        with pytest.raises(Bug, match="oops"):
            await catalog.entry(asking(), "m")
    assert upstream.asked == 1
    await clock.advance(FAILED_S)
    upstream.says = Listed("m")
    assert await ids(catalog) == ["m"]


async def test_an_error_that_is_told_again_and_again_does_not_grow():
    catalog = over(Upstream(Bug("oops")), DrivenClock())
    depths = []
    for _ in range(3):
        with pytest.raises(Bug) as raised:
            await ids(catalog)
        depths.append(len(raised.traceback))
    assert len(set(depths)) == 1


async def test_a_fault_behind_a_list_that_is_shown_is_told_to_the_log(caplog):
    clock, upstream = DrivenClock(), Upstream(Listed("m"))
    catalog = over(upstream, clock)
    assert await ids(catalog) == ["m"]
    await clock.advance(FRESH_S)
    upstream.says = Bug("oops")
    assert await ids(catalog) == ["m"]
    await settle()
    assert await ids(catalog) == ["m"]
    (line,) = caplog.records
    assert (line.getMessage(), line.fields, line.exc_info[0]) == ("model_list_failed", {"upstream": "chat"}, Bug)
    assert upstream.asked == 2


async def test_an_old_list_costs_nobody_a_wait_and_the_next_one_sees_the_new_one():
    clock, upstream = DrivenClock(), Upstream(Listed("old"))
    catalog = over(upstream, clock)
    assert await ids(catalog) == ["old"]
    await clock.advance(FRESH_S)
    upstream.says = None
    async with asyncio.timeout(1):
        assert await ids(catalog) == ["old"]
    upstream.says = Listed("new")
    upstream.free.set()
    await settle()
    assert (await ids(catalog), upstream.asked) == (["new"], 2)


async def test_a_model_that_is_known_is_described_at_once_and_another_one_looked_for():
    clock, upstream = DrivenClock(), Upstream(Listed("old"))
    catalog = over(upstream, clock)
    assert await ids(catalog) == ["old"]
    await clock.advance(FRESH_S)
    upstream.says = None
    known = await catalog.entry(asking(), "old")
    assert json.loads(known)["id"] == "old"
    looking = [asyncio.create_task(catalog.entry(asking(), name)) for name in ("new", "none")]
    await settle()
    assert [task.done() for task in looking] == [False, False]
    upstream.says = Listed("old", "new")
    upstream.free.set()
    found, absent = await asyncio.gather(*looking, return_exceptions=True)
    assert isinstance(found, bytes)
    assert isinstance(absent, ModelNotFound)
    assert upstream.asked == 2
