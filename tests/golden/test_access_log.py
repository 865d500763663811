"""The access line of one request of each kind, as JSON and as text; times, ids and ports made equal."""

import asyncio
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from gatepass.config.access import hash_key
from gatepass.observability.log import LogFormatter
from gatepass.observability.redaction import Redactor
from tests.golden.golden import same
from tests.integration.answers import COMPLETION, DONE, EVENTS
from tests.integration.conftest import logged_errors  # noqa: F401 - a fixture
from tests.integration.gateway import CHAT, HELLO, JSON, gateway, relaying
from tests.integration.issuer import minted, renewing
from tests.integration.scripted import (
    Dialogue,
    Fin,
    Hold,
    Received,
    Rst,
    Scripted,
    Send,
    Wait,
    begin_stream,
    chunk,
    reply,
    stream,
)
from tests.waiting import until

KEY = "gp-a-key-that-opens-the-door"
LOCKED = {"keys": [{"name": "ragflow", "hash": hash_key(KEY)}]}
STREAMED = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
USAGE = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":3,"total_tokens":4}}\n\n'
GOOD = [Send(reply(COMPLETION, x_request_id="upstream-id-7"))]
EQUAL = (
    (r'("(?:duration_s|ttft_s|token_wait_s)":)[0-9.e-]+', r"\g<1>0.5"),
    (r"(\b(?:duration_s|ttft_s|token_wait_s)=)[0-9.e-]+", r"\g<1>0.5"),
    (r'("id":)"[b-t]{24}"', r'\g<1>"bcdfghjklmnpqrstbbbbbbbc"'),
    (r"(\bid=)[b-t]{24}", r"\g<1>bcdfghjklmnpqrstbbbbbbbc"),
    (r"\b127\.0\.0\.1:\d+", "127.0.0.1:12345"),
)
"""What differs from run to run, and what stands in its place."""


class _Lines(logging.Handler):
    """Keeps the access lines, in both forms."""

    def __init__(self) -> None:
        super().__init__()
        self._forms = [LogFormatter(Redactor(), style) for style in ("json", "text")]
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.created = 1_800_000_000.25
        said = "\n".join(form.format(record) for form in self._forms)
        for pattern, equal in EQUAL:
            said = re.sub(pattern, equal, said)
        self.said.append(said)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    logger, handler = logging.getLogger("gatepass.access"), _Lines()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler.said
    logger.removeHandler(handler)
    logger.setLevel(level)


async def test_access_lines(lines):
    same("access_log.txt", {name: await reported(lines, case) for name, case in CASES.items()})


async def reported(lines: list[str], case: Any) -> str:
    before = len(lines)
    count = await case()
    await until(lambda: len(lines) >= before + count)
    return "\n".join(lines[before:])


def asked(dialogue: Any, body: Any = HELLO, path: str = CHAT, count: int = 1, **more: Any) -> Any:
    """Return a case: `count` requests to an upstream with `dialogue`, or a function of one. `more`: headers, blocks."""
    answer = dialogue if callable(dialogue) else lambda _: dialogue

    async def case() -> int:
        headers, blocks = {**JSON, **more.get("headers", {})}, {name: more[name] for name in more if name != "headers"}
        async with relaying(answer=answer, **blocks) as (_, gp):
            for _ in range(count):
                await gp.ask(body, path, headers=headers).answer()
        return count

    return case


PUBLIC: dict[str, Any] = {"models": {"public": {"upstream": "chat", "name": "deployed"}}, "access": LOCKED}
MINE = {"x-api-key": KEY, "x-request-id": "mine-1", "user-agent": "OpenAI/Python 3.0.0"}


async def unreachable_token() -> int:
    asked = asyncio.Event()
    refusal: Dialogue = [
        Wait(asked),
        Send(reply({"error": "invalid_client", "error_description": "unknown client"}, 401)),
    ]
    async with renewing(Scripted(refusal), Scripted(GOOD)) as gp, gp.ask() as ask:
        await until(lambda: gp.state.in_flight.busy == 1)
        asked.set()
        assert (await ask.answer()).status == 503
    return 1


async def renewed_401() -> int:
    expired: Dialogue = [Send(reply({"error": {"message": "expired"}}, 401))]
    async with renewing(Scripted(minted(), minted("good-token-2")), Scripted(expired, GOOD)) as gp:
        assert (await gp.ask().answer()).status == 200
    return 1


async def repeated_on_a_stale_connection() -> int:
    async with relaying(GOOD, [Rst()], GOOD) as (_, gp):
        assert (await gp.ask().answer()).status == 200
        assert (await gp.ask().answer()).status == 200
    return 2


async def failover() -> int:
    first = {"base_url": "http://127.0.0.1:9"}
    models = {"m": {"targets": [{"upstream": "first", "name": "a"}, {"upstream": "second", "name": "b"}]}}
    async with (
        Scripted(GOOD) as second,
        gateway(upstreams={"first": first, "second": {"base_url": second.url}}, models=models) as gp,
    ):
        assert (await gp.ask().answer()).status == 200
    return 1


async def client_gone() -> int:
    async with relaying([Hold()]) as (upstream, gp):
        async with gp.ask():
            await upstream.requested()
        await until(lambda: not gp.state.in_flight.busy)
    return 1


def strict(request: Received) -> Dialogue:
    if "temperature" not in request.json():
        return GOOD
    said = "Unsupported parameter: 'temperature' is not supported with this model."
    error = {"message": said, "type": "invalid_request_error", "param": "temperature"}
    return [Send(reply({"error": {**error, "code": "unsupported_parameter"}}, 400))]


def vectors(request: Received) -> Dialogue:
    inputs = request.json()["input"]
    inputs = inputs if isinstance(inputs, list) else [inputs]
    data = [{"object": "embedding", "index": at, "embedding": [0.5]} for at in range(len(inputs))]
    usage = {"prompt_tokens": len(inputs), "total_tokens": len(inputs)}
    return [Send(reply({"object": "list", "data": data, "model": "e-1", "usage": usage}))]


EIGHT = {"model": "e", "input": [str(number) for number in range(8)]}
SPLIT: dict[str, Any] = {"models": {"e": {"upstream": "chat", "rules": {"split": 3}}}}
CASES = {
    "a whole chat": asked(GOOD, {**HELLO, "model": "public"}, headers=MINE, **PUBLIC),
    "a stream": asked([Send(stream(EVENTS[0], EVENTS[1], USAGE, DONE))], {**STREAMED, "images": []}),
    "a stream that breaks off": asked([*begin_stream(), Send(chunk(EVENTS[0])), Fin()], STREAMED),
    "a failed authentication": asked(GOOD, headers={"x-api-key": "an-unknown-key-0123"}, access=LOCKED),
    "an unknown path": asked(GOOD, path="/v1/nothing?key=in-the-query"),
    "an upstream's error": asked([Send(reply({"error": {"message": "no such model", "code": "model_gone"}}, 404))]),
    "no token": unreachable_token,
    "a 401 and a renewed token": renewed_401,
    "a stale connection, after a good one": repeated_on_a_stale_connection,
    "a failover": failover,
    "a rule that is learned, and one that was": asked(strict, {**HELLO, "temperature": 0.5}, count=2),
    "a client that left": client_gone,
    "embeddings in three parts": asked(vectors, EIGHT, "/v1/embeddings", **SPLIT),
}
