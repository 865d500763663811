"""Every host's check of a provider, model or credential, read as it reads it, within the time that it waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pytest

from gatepass.clock import Clock
from tests.integration.gateway import Answer, Ask, Gateway, gateway
from tests.integration.lenient import Bare, Lenient
from tests.integration.ragflow_readers import read
from tests.integration.ragflow_requests import CHAT_MODEL, KEY, RANK_MODEL, Replay
from tests.integration.scripted import Dialogue, Hold, Received, Scripted, Send, Wait, reply
from tests.integration.strict_azure import DEPLOYMENTS, StrictAzure
from tests.integration.test_strict_azure import expected
from tests.integration.verification_requests import CHECK_MODEL, CHECKS, LIBRECHAT_S, LISTED, RAGFLOW, Check
from tests.unit.clock import DrivenClock
from tests.waiting import until

NAMES = [CHECK_MODEL, *(deployment.name for deployment in DEPLOYMENTS)]
PROFILES = ("dify", "librechat", "cherry_studio", "plain")
KEYS = {"ragflow": KEY, **{name: f"gp-0123456789abcdef0123456789-{name}" for name in PROFILES}}
KEYLESS = [replay for replay in RAGFLOW if "authorization" not in replay.headers]
ROWS: tuple[Check | Replay, ...] = (*CHECKS, *(replay for replay in RAGFLOW if replay not in KEYLESS))
"""test_ragflow_requests.py tests the reranker class of RAGFlow that sends no key."""

HOSTS: Mapping[str, tuple[Check | Replay, ...]] = {
    **{host: tuple(row for row in CHECKS if row.host == host) for host in dict.fromkeys(row.host for row in CHECKS)},
    "RAGFlow": tuple(row for row in ROWS if isinstance(row, Replay)),
}

Answering = Callable[[Received], Dialogue]
FAULTS = (AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""Errors of a host's own reader."""


def blocks(model: str) -> dict[str, Any]:
    return {
        "models": {CHECK_MODEL: {"upstream": "chat", "name": model}, "*": {"upstream": "chat"}},
        "operations": {"rerank": {"upstream": "chat", "model": RANK_MODEL}},
        "access": {
            "keys": [
                {"name": name, "hash": f"sha256:{sha256(key.encode()).hexdigest()}", "profile": name}
                for name, key in KEYS.items()
            ]
        },
    }


@asynccontextmanager
async def serving(answer: Answering, model: str, clock: Clock | None = None) -> AsyncIterator[Gateway]:
    async with (
        Scripted(answer=answer) as upstream,
        gateway(upstream=upstream.url, clock=clock, **blocks(model)) as gatepass,
    ):
        yield gatepass


def deadline_s(row: Check | Replay) -> float:
    return row.deadline_s if isinstance(row, Check) else row.within_s


def asking(gatepass: Gateway, row: Check | Replay, model: str, profile: str | None = None) -> Ask:
    row = row.asking(model)
    if isinstance(row, Replay):
        return gatepass.ask(row.body, row.path, method=row.method, headers=row.headers)
    key = {"authorization": f"Bearer {KEYS[profile or row.profile]}"}
    return gatepass.ask(row.body, row.path, method=row.method, headers={**row.headers, **key})


def fault(row: Check | Replay, answer: Answer) -> str | None:
    """The text that the host shows, or reads as an answer, instead of the right one."""
    try:
        found, wanted = _read(row, answer)
    except FAULTS as error:
        return f"{type(error).__name__}: {error}"
    return None if found == wanted else repr(found)


def _read(row: Check | Replay, answer: Answer) -> tuple[Any, Any]:
    if isinstance(row, Replay):
        found = read(row.reads, answer.status, answer.headers, answer.body)
        wanted = expected(row)
        return found, NAMES if wanted == NAMES[1:] else wanted
    found = row.reads(answer)
    if row.gives == LISTED:
        return sorted(found), sorted(NAMES)
    return found, row.gives


def faults(found: Mapping[str, str | None]) -> dict[str, str]:
    return {name: reported for name, reported in found.items() if reported is not None}


async def check(gatepass: Gateway, row: Check | Replay, model: str, profile: str | None = None) -> str | None:
    async with asyncio.timeout(deadline_s(row)):
        return fault(row, await asking(gatepass, row, model, profile).answer())


UPSTREAMS: Mapping[str, tuple[Callable[[], Answering], str]] = {
    "plain": (lambda: Lenient().answer, CHAT_MODEL),
    "bare": (lambda: Bare().answer, CHAT_MODEL),
    "strict": (lambda: StrictAzure().answer, CHAT_MODEL),
    "streams alone": (lambda: StrictAzure().answer, "stream-only"),
    "one default temperature": (lambda: StrictAzure().answer, "gpt-5"),
}


@pytest.mark.parametrize("kind", UPSTREAMS)
async def test_every_check_passes_over_each_upstream(kind):
    make, model = UPSTREAMS[kind]
    async with serving(make(), model) as gatepass:
        found = {row.name: await check(gatepass, row, model) for row in ROWS}
    assert faults(found) == {}


@pytest.mark.parametrize("host", HOSTS)
async def test_each_check_passes_over_a_model_that_streams_nothing_and_refuses_settings(host):
    """The model is unknown: gatepass learns from its rejections while the host waits."""
    found = {}
    for row in HOSTS[host]:
        async with serving(StrictAzure().answer, "o1") as gatepass:
            found[row.name] = await check(gatepass, row, "o1")
    assert faults(found) == {}


WANT_THEIR_PROFILE = {"Dify 1.x, plugin: save a reranker", "Dify 1.x: save a voice"}
"""Over an upstream that refuses what it does not know; the profile leaves out what Dify itself does not need there."""


async def test_nearly_all_checks_pass_without_a_profile_too():
    async with serving(StrictAzure().answer, "o1") as gatepass:
        found = {row.name: await check(gatepass, row, "o1", "plain") for row in CHECKS}
    assert faults(found).keys() == WANT_THEIR_PROFILE


@dataclass(slots=True)
class Thoughtful:
    """A StrictAzure that refuses at once and answers when `done`."""

    behind: StrictAzure = field(default_factory=StrictAzure)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    thinking: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, request: Received) -> Dialogue:
        refused = len(self.behind.refusals)
        dialogue = self.behind.answer(request)
        if len(self.behind.refusals) > refused:
            return dialogue
        self.thinking.set()
        return [Wait(self.done), *dialogue]


def is_list(row: Check | Replay) -> bool:
    return row.path.startswith(("/models", "/v1/models"))


def patience_s(row: Check | Replay) -> float:
    """One second less than the host waits, and a minute at most. Model lists have a separate bound."""
    return 3.0 if is_list(row) else min(deadline_s(row) - 1.0, 60.0)


async def answered_late(row: Check | Replay) -> Answer:
    """The reply to `row` where the upstream's own comes after `patience_s` on the clock of gatepass."""
    clock, azure = DrivenClock(), Thoughtful()
    async with serving(azure.answer, "o1", clock) as gatepass:
        answering = asyncio.create_task(asking(gatepass, row, "o1").answer())
        thinking = asyncio.create_task(azure.thinking.wait())
        await asyncio.wait((answering, thinking), return_when=asyncio.FIRST_COMPLETED)
        await clock.advance(patience_s(row))
        azure.done.set()
        thinking.cancel()
        return await answering


@pytest.mark.parametrize("host", HOSTS)
async def test_check_passes_just_within_the_clients_timeout(host):
    found = {row.name: fault(row, await answered_late(row)) for row in HOSTS[host]}
    assert faults(found) == {}


async def listed_without(row: Check | Replay) -> tuple[float, list[str]]:
    """Return when the list arrives and what it contains, if the upstream never sends its own list."""
    clock = DrivenClock()
    async with serving(lambda _: [Hold()], CHAT_MODEL, clock) as gatepass:
        answering = asyncio.create_task(asking(gatepass, row, CHAT_MODEL).answer())
        await until(lambda: gatepass.state.in_flight.busy == 1)
        begun_s = clock.now()
        while not answering.done() and clock.now() < begun_s + deadline_s(row):
            await clock.advance(0.5)
        waited_s = clock.now() - begun_s
        return waited_s, [entry["id"] for entry in (await answering).json()["data"]]


@pytest.mark.parametrize("host", [host for host, rows in HOSTS.items() if any(map(is_list, rows))])
async def test_model_list_is_returned_in_time_if_an_upstream_hangs(host):
    """The list contains the configured models. LibreChat waits for five seconds, the others for ten or more."""
    for row in filter(is_list, HOSTS[host]):
        waited_s, names = await listed_without(row)
        assert waited_s < LIBRECHAT_S <= deadline_s(row)
        assert names == [CHECK_MODEL]


FLOOR = {
    "message": "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 5 instead.",
    "type": "invalid_request_error",
    "param": "max_output_tokens",
    "code": "integer_below_min_value",
}


async def test_minimum_of_tokens_is_reported_with_the_words_that_dify_retries():
    """Its plugin looks for them in the text of the reply (dify-official-plugins#1694) and repeats with 16."""
    row = next(row for row in CHECKS if row.host == "Dify" and row.is_chat)
    async with serving(lambda _: [Send(reply({"error": FLOOR}, 400))], CHAT_MODEL) as gatepass:
        answer = await asking(gatepass, row, CHAT_MODEL).answer()
    assert answer.status == 400
    assert "Invalid 'max_output_tokens'" in answer.body.decode()
    assert "integer_below_min_value" in answer.body.decode()


async def test_empty_authorization_header_is_accepted_without_configured_keys():
    """Dify's embedding and rerank classes send `Authorization: ` for a field that was left empty."""
    rows = [row for row in CHECKS if row.host == "Dify" and row.path in ("/v1/embeddings", "/v1/rerank")]
    keyless = {name: block for name, block in blocks(CHAT_MODEL).items() if name != "access"}
    async with (
        Scripted(answer=Lenient().answer) as upstream,
        gateway(upstream=upstream.url, **keyless) as gatepass,
    ):
        for row in rows:
            headers = {**row.headers, "authorization": ""}
            assert fault(row, await gatepass.ask(row.body, row.path, headers=headers).answer()) is None
    assert len(rows) == 4
