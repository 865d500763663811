"""What a ring of real requests holds: no body, no reply and no context."""

import gc
from collections.abc import Iterator
from hashlib import sha256
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import msgspec

from gatepass.errors import ClientGone
from gatepass.proxy.app_state import AppState
from gatepass.proxy.context import Attempt, RequestContext
from tests.integration.answers import COMPLETION, DONE, delta
from tests.integration.gateway import JSON, gateway
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply, stream
from tests.waiting import until

QUESTION, ANSWER = "the-question-of-the-client", "the-answer-of-the-model"
REFUSED = {"error": {"message": f"Unsupported parameter: 'seed'. {ANSWER} " + "r" * 300, "param": "seed"}}
GOOD = {**COMPLETION, "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}}]}
STATIC = (type, ModuleType, FunctionType, BuiltinFunctionType)


def answer(request: Received) -> Dialogue:
    body = request.json()
    if body.get("seed") == 1 or body["model"] == "failing":
        return [Send(reply(REFUSED, 400, x_request_id="up-refused-1"))]
    if body.get("stream"):
        events = (*[delta(content=ANSWER)] * 3, delta("stop"), DONE)
        return [Send(stream(*events, x_request_id="up-stream-1"))]
    return [Send(reply(GOOD, x_request_id="up-whole-1"))]


MESSAGES = [{"role": "user", "content": QUESTION}]
ASKED: tuple[dict[str, Any], ...] = (
    {"model": "other", "messages": MESSAGES},
    {"model": "other", "messages": MESSAGES, "stream": True},
    {"model": "m", "messages": MESSAGES, "seed": 1},
    {"model": "failing", "messages": MESSAGES},
    {"model": "m", "messages": MESSAGES * 60, "max_tokens": 1},
)
RULES = {"rename": {"max_tokens": "max_completion_tokens"}, "set": {"messages[].name": "x"}}


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
        for body in ASKED:
            await gp.ask(body, headers={**JSON, "authorization": "Bearer client-key-1"}).answer()
        await until(lambda: len(list(gp.state.inspector.newest())) == len(ASKED))
        found = list(reachable(gp.state.inspector))
    assert not [one for one in found if isinstance(one, (RequestContext, Attempt, AppState, BaseException, ClientGone))]
    assert not [one for one in found if isinstance(one, bytes | bytearray | memoryview) and len(one) > 0]
    texts = [one for one in found if isinstance(one, str)]
    secrets = (QUESTION, "the-token-of-the-upstream", "client-key-1")
    assert not [text for text in texts if any(secret in text for secret in secrets)]
