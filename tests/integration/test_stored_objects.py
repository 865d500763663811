"""Stored objects on sockets: only a key whose `operations` name them reaches one."""

from typing import Any

import pytest

from gatepass.config.access import hash_key
from gatepass.protocols.operations import OPERATIONS
from gatepass.types import Operation
from tests.integration.answers import COMPLETION, VECTORS
from tests.integration.gateway import JSON, relaying
from tests.integration.messages_upstream import MESSAGE
from tests.integration.scripted import Received, Send, reply

KEYS = {name: f"gp-{name}-0123456789abcdef" for name in ("mine", "theirs")}
MARK = "b-1"
FORM = {"content-type": f"multipart/form-data; boundary={MARK}"}
RESPONSE = {"id": "resp_1", "object": "response", "status": "completed", "output": []}


def entry(name: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "hash": hash_key(KEYS[name]), **settings}


STORED = ["files", "batches", "stored_responses"]
KINDS: dict[str, list[dict[str, Any]]] = {
    "no keys": [],
    "one key": [entry("mine")],
    "two keys": [entry("mine"), entry("theirs", operations=STORED)],
    "two keys of one caller": [entry("mine"), {**entry("theirs"), "name": "mine"}],
    "beside a viewer": [entry("mine"), entry("theirs", role="viewer")],
    "one key with operations": [entry("mine", operations=["responses", "chat"])],
    "some models": [entry("mine", models=["m"])],
    "stored objects": [entry("mine", operations=["files", "responses", "stored_responses", "chat"])],
    "MCP alone": [entry("mine", operations=[], mcp=[])],
}
ONLY = ("one key", "two keys of one caller", "beside a viewer", "some models")
"""The only caller: its key opens stored responses without naming them."""
OPEN = ("no keys", "stored objects", *ONLY)


def expected(kind: str, row: Operation) -> int:
    listed = next((one.get("operations") for one in KINDS[kind]), STORED)
    if kind == "no keys":
        return 200
    closed = STORED[:2] if kind in ONLY else STORED
    return 200 if (row.opened_by in listed if listed is not None else row.opened_by not in closed) else 403


def _answer(received: Received) -> tuple[Send, ...]:
    if "embeddings" in received.target:
        return (Send(reply(VECTORS)),)
    if received.target.endswith("/responses"):
        return (Send(reply(RESPONSE)),)
    if "rerank" in received.target:
        return (Send(reply({"results": [{"index": 0, "relevance_score": 0.5}]})),)
    if received.target.endswith("/count_tokens"):
        return (Send(reply({"input_tokens": 1})),)
    if received.target.endswith("/messages"):
        return (Send(reply(MESSAGE)),)
    if received.target.endswith("/models"):
        return (Send(reply({"object": "list", "data": [{"id": "m", "object": "model"}]})),)
    return (Send(reply(COMPLETION)),)


def form(*parts: str) -> bytes:
    head = f"--{MARK}\r\nContent-Disposition: form-data; name="
    named = "".join(f'{head}"{name}"\r\n\r\n{"m" if name == "model" else "x"}\r\n' for name in parts)
    return f"{named}--{MARK}--\r\n".encode()


@pytest.mark.parametrize("kind", KINDS)
async def test_each_operation_of_the_table_is_open_or_closed_to_each_kind_of_key(kind):
    keys = KINDS[kind]
    bearer = {"authorization": f"Bearer {KEYS['mine']}"} if keys else {}
    body = {"model": "m", "messages": [], "input": "a", "query": "a", "documents": ["a"], "prompt": "a"}
    async with relaying(answer=_answer, access={"keys": keys}) as (upstream, gp):
        for row in OPERATIONS:
            path = "/v1" + row.path.replace("{id}", "id-1").replace("{model}", "m")
            sent: Any = None if row.method != "POST" else form("model", "file") if row.takes_form else body
            headers = {**(FORM if row.takes_form else JSON), **bearer}
            before = len(upstream.received)
            answer = await gp.ask(sent, path, method=row.method, headers=headers).answer()
            assert answer.status == expected(kind, row), (row.method, path, answer.body)
            if answer.status == 403:
                assert (answer.error["code"], answer.error["hop"]) == ("operation_not_allowed", "client")
                assert len(upstream.received) == before
            elif row.configured_as != "models":
                assert len(upstream.received) == before + 1


MEMBERS: tuple[dict[str, Any], ...] = (
    {"previous_response_id": "resp_1"},
    {"conversation": {"id": "conv_1"}},
    {"prompt": {"id": "pmpt_1"}},
)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/compact"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "MCP alone"])
async def test_a_member_that_names_a_stored_response_is_sent_only_if_it_is_open(kind, path):
    bearer = {"authorization": f"Bearer {KEYS['mine']}"} if KINDS[kind] else {}
    async with relaying(answer=lambda _: (Send(reply(RESPONSE)),), access={"keys": KINDS[kind]}) as (upstream, gp):
        for members in MEMBERS:
            for pad in (0, 3_000_000):
                body = {"model": "m", "input": "x", "x": "a" * pad, **members}
                answer = await gp.ask(body, path, headers={**JSON, **bearer}).answer()
                assert answer.status == (200 if kind in OPEN else 403), (members, pad)
                if kind not in OPEN:
                    assert answer.error["code"] == "operation_not_allowed"
                    assert "access.keys[].operations" in answer.error["message"]
    assert len(upstream.received) == (2 * len(MEMBERS) if kind in OPEN else 0)
