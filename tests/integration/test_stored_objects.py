"""Stored objects on sockets: no caller of several reaches an object of another one without `operations`."""

from typing import Any

import pytest

from gatepass.auth.api_keys import hash_key
from gatepass.operations.table import OPERATIONS
from gatepass.types import Operation
from tests.integration.answers import COMPLETION, VECTORS
from tests.integration.gateway import JSON, gateway
from tests.integration.messages_upstream import MESSAGE
from tests.integration.scripted import Received, Scripted, Send, reply

KEYS = {name: f"gp-{name}-0123456789abcdef" for name in ("mine", "theirs")}
MARK = "b-1"
FORM = {"content-type": f"multipart/form-data; boundary={MARK}"}
RESPONSE = {"id": "resp_1", "object": "response", "status": "completed", "output": []}


def entry(name: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "hash": hash_key(KEYS[name]), **settings}


KINDS: dict[str, list[dict[str, Any]]] = {
    "no keys": [],
    "one key": [entry("mine")],
    "two keys of one caller": [entry("mine"), {**entry("mine"), "hash": hash_key("gp-next-0123456789abcdef")}],
    "one key and a viewer": [entry("mine"), entry("theirs", role="viewer")],
    "two keys": [entry("mine"), entry("theirs")],
    "a key for some models": [entry("mine", models=["m"])],
    "some models and stored objects": [entry("mine", models=["m"], operations=["files", "responses", "chat"])],
}
CLOSED = ("two keys", "a key for some models")


def expected(kind: str, row: Operation) -> int:
    if kind == "some models and stored objects":
        return 200 if row.name in ("files", "responses", "chat") else 403
    return 403 if kind in CLOSED and row.is_about_stored else 200


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
    async with Scripted(answer=_answer) as upstream, gateway(upstream=upstream.url, access={"keys": keys}) as gp:
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


MEMBERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/responses", {"input": "x", "previous_response_id": "resp_1"}),
    ("/v1/responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    ("/v1/chat/completions", {"messages": [{"content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}),
)


@pytest.mark.parametrize("kind", ["one key", *CLOSED, "some models and stored objects"])
async def test_a_member_that_names_a_stored_object_is_sent_only_if_it_is_open(kind):
    headers, access = {**JSON, "authorization": f"Bearer {KEYS['mine']}"}, {"keys": KINDS[kind]}
    async with Scripted(answer=_answer) as upstream, gateway(upstream=upstream.url, access=access) as gp:
        for path, members in MEMBERS:
            for pad in (0, 3_000_000):
                answer = await gp.ask({"model": "m", "x": "a" * pad, **members}, path, headers=headers).answer()
                assert answer.status == (403 if kind in CLOSED else 200), (members, pad)
                if kind in CLOSED:
                    assert answer.error["code"] == "operation_not_allowed"
                    assert "in access.keys[].operations" in answer.error["message"]
    assert len(upstream.received) == (0 if kind in CLOSED else 2 * len(MEMBERS))


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/compact"])
async def test_the_metadata_that_codex_sends_names_no_stored_object(path):
    metadata = {"session_id": "s", "thread_id": "t", "turn_id": "u"}
    headers = {**JSON, "authorization": f"Bearer {KEYS['mine']}"}
    sent = {"model": "m", "input": "x", "client_metadata": metadata}
    async with (
        Scripted(answer=lambda _: (Send(reply(RESPONSE)),)) as upstream,
        gateway(upstream=upstream.url, access={"keys": KINDS["two keys"]}) as gp,
    ):
        answer = await gp.ask(sent, path, headers=headers).answer()
        refused = await gp.ask({**sent, "thread_id": "t"}, path, headers=headers).answer()
    assert (answer.status, refused.status) == (200, 403)
    assert [request.json()["client_metadata"] for request in upstream.received] == [metadata]


@pytest.mark.parametrize("kind", ["one key", "two keys"])
async def test_a_part_of_a_form_names_no_stored_object_unless_it_is_open(kind):
    headers = {**FORM, "authorization": f"Bearer {KEYS['mine']}"}
    async with (
        Scripted(answer=_answer) as upstream,
        gateway(upstream=upstream.url, access={"keys": KINDS[kind]}) as gp,
    ):
        answer = await gp.ask(form("model", "image[file_id]"), "/v1/images/edits", headers=headers).answer()
    assert answer.status == (403 if kind in CLOSED else 200)
    if kind in CLOSED:
        assert (answer.error["code"], upstream.received) == ("operation_not_allowed", [])
