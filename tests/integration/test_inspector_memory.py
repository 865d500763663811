"""What a ring of real requests holds: no body, no reply, no context, and no more bytes than it counts."""

import gc
import sys
from collections.abc import Iterator
from hashlib import sha256
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import msgspec
import pytest

from gatepass.config import model
from gatepass.errors import ClientGone
from gatepass.proxy.app_state import AppState
from gatepass.proxy.context import Attempt, RequestContext
from tests.integration.answers import COMPLETION
from tests.integration.gateway import JSON, Gateway, gateway
from tests.integration.scripted import LAST_CHUNK, Dialogue, Received, Scripted, Send, begin_stream, chunk, event, reply
from tests.waiting import until

QUESTION, ANSWER = "the-question-of-the-client", "the-answer-of-the-model"
CONTENT = event({"id": "x", "choices": [{"index": 0, "delta": {"content": ANSWER}, "finish_reason": None}]})
END = event({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + event("[DONE]")
REFUSED = {"error": {"message": f"Unsupported parameter: 'seed'. {ANSWER} " + "r" * 300, "param": "seed"}}
GOOD = {**COMPLETION, "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}}]}
STATIC = (type, ModuleType, FunctionType, BuiltinFunctionType)


def answer(request: Received) -> Dialogue:
    body = request.json()
    if body.get("seed") == 1 or body["model"] == "failing":
        return [Send(reply(REFUSED, 400, x_request_id="up-refused-1"))]
    if body.get("stream"):
        events = [Send(chunk(CONTENT)) for _ in range(body["n"])]
        return [*begin_stream(x_request_id="up-stream-1"), *events, Send(chunk(END) + LAST_CHUNK)]
    return [Send(reply(GOOD, x_request_id="up-whole-1"))]


def asked(kind: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTION}]
    bodies: dict[str, dict[str, Any]] = {
        "whole": {"model": "other", "messages": messages},
        "stream": {"model": "other", "messages": messages, "stream": True, "n": 3},
        "long stream": {"model": "other", "messages": messages, "stream": True, "n": 400},
        "learned": {"model": "m", "messages": messages, "seed": 1},
        "failed": {"model": "failing", "messages": messages},
        "changed": {"model": "m", "messages": messages * 60, "max_tokens": 1},
    }
    return bodies[kind]


RULES = {"rename": {"max_tokens": "max_completion_tokens"}, "set": {"messages[].name": "x"}}
KINDS = ("whole", "stream", "long stream", "learned", "failed", "changed")


async def fill(gp: Gateway, kind: str, count: int) -> None:
    for number in range(count):
        headers = {
            **JSON,
            "x-request-id": f"{number:036}",
            "authorization": "Bearer client-key-1",
            "user-agent": "u" * 60,
        }
        await gp.ask(asked(kind), headers=headers).answer()


def reachable(root: object) -> Iterator[Any]:
    """Yield each object that `root` refers to, once, without types and functions."""
    seen, waiting = {id(root)}, [root]
    while waiting:
        one = waiting.pop()
        yield one
        # a struct with gc=False has no referents for the collector
        fields = [getattr(one, name) for name in one.__struct_fields__] if isinstance(one, msgspec.Struct) else []
        for each in (*gc.get_referents(one), *fields):
            if id(each) not in seen and not isinstance(each, STATIC):
                seen.add(id(each))
                waiting.append(each)


def configuration(upstream: Scripted) -> dict[str, Any]:
    return {
        "upstreams": {"chat": {"base_url": f"{upstream.url}/v1", "credential": "corp"}},
        "credentials": {"corp": {"type": "static", "token": "the-token-of-the-upstream"}},
        "models": {"m": {"upstream": "chat", "rules": RULES}, "*": {"upstream": "chat"}},
        "access": {"keys": [{"name": "app", "hash": f"sha256:{sha256(b'client-key-1').hexdigest()}"}]},
    }


async def test_nothing_of_a_request_is_reachable_but_its_records():
    async with Scripted(answer=answer) as upstream, gateway(**configuration(upstream)) as gp:
        for kind in KINDS:
            await fill(gp, kind, 2)
        await until(lambda: len(list(gp.state.inspector.newest())) == 2 * len(KINDS))
        found = list(reachable(gp.state.inspector))
    assert not [one for one in found if isinstance(one, (RequestContext, Attempt, AppState, BaseException, ClientGone))]
    assert not [one for one in found if isinstance(one, bytes | bytearray | memoryview) and len(one) > 0]
    texts = [one for one in found if isinstance(one, str)]
    secrets = (QUESTION, "the-token-of-the-upstream", "client-key-1")
    assert not [text for text in texts if any(secret in text for secret in secrets)]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_ring_takes_no_more_than_it_counts(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "INSPECTOR_BYTES", 300_000)
    async with Scripted(answer=answer) as upstream, gateway(**configuration(upstream)) as gp:
        await fill(gp, kind, 150)
        inspector = gp.state.inspector
        await until(lambda: gp.state.in_flight.busy == 0)
        sizes = [sys.getsizeof(one) for one in reachable(inspector)]
        taken = sum(-(-size // 16) * 16 for size in sizes)
        assert taken <= inspector.held_bytes <= 300_000
