"""The changes of a client's profile, which its key or its path selects."""

import json
import logging
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import Any

import pytest

from gatepass.config.access import FIXED_KEYS
from tests.integration import ragflow_readers as reads
from tests.integration.answers import delta
from tests.integration.gateway import CHAT, HELLO, JSON, relaying
from tests.integration.scripted import Send, event, reply, stream
from tests.waiting import until

KEYS = {name: f"gp-0123456789abcdef-{name}" for name in ("ragflow", "librechat", "dify", "none", "lobechat")}
PAGE = "https://chat.corp.example"
CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
STRICT_NULL = {"type": "function", "strict": None, "function": {"name": "f", "parameters": {}}}


def access(*, profiles: bool = True) -> dict[str, Any]:
    def entry(name: str, key: str) -> dict[str, Any]:
        own = {"profile": name} if profiles and name != "none" else {}
        return {"name": name, "hash": f"sha256:{sha256(key.encode()).hexdigest()}", **own}

    return {"keys": [entry(name, key) for name, key in KEYS.items()]}


def by(name: str, **more: str) -> dict[str, str]:
    return {**JSON, "authorization": f"Bearer {KEYS[name]}", **more}


def whole(message: Any, **more: Any) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return reply({**CHUNK, "object": "chat.completion", "choices": [choice], **more})


@asynccontextmanager
async def serving(answer: bytes, **blocks: Any):
    async with relaying(answer=lambda _: [Send(answer)], access=access(), **blocks) as (upstream, gatepass):
        yield upstream, gatepass


async def test_a_profile_changes_the_requests_of_its_key_and_no_others():
    body = {**HELLO, "tools": [STRICT_NULL]}
    async with serving(whole({"role": "assistant", "content": "a"})) as (upstream, gatepass):
        for name in ("librechat", "none"):
            await gatepass.ask(body, headers=by(name)).answer()
        await gatepass.ask(body, "/for/librechat" + CHAT, headers=by("none")).answer()
        await gatepass.ask(body, "/for/plain" + CHAT, headers=by("librechat")).answer()
    has_strict = ["strict" in request.json()["tools"][0] for request in upstream.received]
    assert has_strict == [False, True, False, True]


@pytest.mark.parametrize("name", ["ragflow", "dify"])
async def test_error_within_a_stream_is_reworded_for_ragflow_only(name):
    words = "Server busy (503), rate limit reached"
    last_chunk = event({"error": {"message": words, "type": "server_error", "code": "busy"}})
    async with serving(stream(delta(content="hi"), last_chunk)) as (_, gp):
        error = (await gp.ask({**HELLO, "stream": True}, headers=by(name)).answer()).error
    assert (error["code"], error["hop"]) == ("busy", "upstream:chat")
    if name == "ragflow":
        assert error["message"] == "The answer ends here: upstream_error."
    else:
        assert (error["message"], error["type"]) == (words, "server_error")


@pytest.mark.parametrize(
    ("after", "ends"),
    [("7", " Retry after 7 s."), ("300", " Retry after 99 s."), (None, ""), ("7.5", " Retry after 8 s.")],
)
async def test_a_known_wait_is_in_the_text_for_ragflow_only(after, ends):
    fields = {} if after is None else {"retry_after": after}
    busy = reply({"error": {"message": "Busy.", "type": "rate_limit_error"}}, 429, **fields)
    async with serving(busy) as (_, gp):
        told = (await gp.ask(HELLO, headers=by("ragflow")).answer()).error["message"]
        plain = (await gp.ask(HELLO, headers=by("none")).answer()).error["message"]
    assert told == plain.removesuffix(ends.replace("after", "in")) + ends
    assert told.count("Retry") == told.count("Retry after") + ("min" in told), "the wait once"
    assert "Retry after" not in plain


def fixed(key: str, **more: Any) -> dict[str, Any]:
    return {"name": key, "hash": f"sha256:{sha256(key.encode()).hexdigest()}", "profile": "ragflow", **more}


@pytest.mark.parametrize("key", FIXED_KEYS)
async def test_a_public_key_opens_one_model(key):
    answer = [Send(whole({"role": "assistant", "content": "a"}))]
    keys = {"keys": [fixed(key, models=["m"])]}
    async with relaying(answer=lambda _: answer, access=keys) as (_, gp):
        head = {**JSON, "authorization": f"Bearer {key}"}
        assert (await gp.ask(headers=head).answer()).status == 200
        refused = await gp.ask({**HELLO, "model": "other"}, headers=head).answer()
        assert (refused.status, refused.error["code"]) == (403, "model_not_allowed")


async def test_models_are_listed_and_understood_by_names_that_tell_their_type():
    blocks = {
        "models": {
            "vectors": {"upstream": "chat", "capabilities": {"dimensions": 3}},
            "talker": {"upstream": "chat", "capabilities": {"vision": True}},
            "plain": {"upstream": "chat"},
        }
    }
    async with serving(whole({"content": "a"}), **blocks) as (upstream, gatepass):
        listed = await gatepass.ask(None, "/v1/models", method="GET", headers=by("ragflow")).answer()
        others = await gatepass.ask(None, "/v1/models", method="GET", headers=by("none")).answer()
        one = await gatepass.ask(None, "/v1/models/talker___vision", method="GET", headers=by("ragflow")).answer()
        await gatepass.ask({**HELLO, "model": "talker___vision"}, headers=by("ragflow")).answer()
        await gatepass.ask({**HELLO, "model": "plain@gatepass"}, headers=by("ragflow")).answer()
        unknown = await gatepass.ask({**HELLO, "model": "talker___vision"}, headers=by("none")).answer()
    assert [entry["id"] for entry in listed.json()["data"]] == ["vectors___embedding", "talker___vision", "plain"]
    assert [entry["id"] for entry in others.json()["data"]] == ["vectors", "talker", "plain"]
    assert one.json()["id"] == "talker___vision"
    assert [request.json()["model"] for request in upstream.received] == ["talker", "plain"]
    assert {entry["owned_by"] for entry in listed.json()["data"]} == {"gatepass"}
    assert unknown.status == 404


LISTED = {"cors_origins": [PAGE]}
ASKS = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type",
}


async def test_allowed_origin_is_accepted_and_can_read_errors():
    path = "/for/lobechat" + CHAT
    async with serving(whole({"content": "a"}), server=LISTED) as (_, gatepass):
        asked = await gatepass.ask(None, path, method="OPTIONS", headers=ASKS).answer()
        good = await gatepass.ask(path=path, headers=by("none", origin=PAGE)).answer()
        by_key = await gatepass.ask(headers=by("lobechat", origin=PAGE)).answer()
        refused = await gatepass.ask(path=path, headers={**JSON, "origin": PAGE}).answer()
    assert (asked.status, asked.headers["access-control-allow-origin"]) == (204, PAGE)
    assert asked.headers["access-control-allow-headers"] == "authorization, content-type"
    for answer, status in ((good, 200), (by_key, 200), (refused, 401)):
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, PAGE)


async def lines_of(caplog, count: int) -> list[dict[str, Any]]:
    """The access lines, as soon as there are so many."""

    def lines() -> list[dict[str, Any]]:
        return [record.fields for record in caplog.records if record.name == "gatepass.access"]

    await until(lambda: len(lines()) == count)
    return lines()


@pytest.mark.parametrize("path", [CHAT, "/for/lobechat//v1/models/a/b"])
async def test_a_rejected_page_and_the_log_receive_the_reason(caplog, path):
    caplog.set_level(logging.INFO, "gatepass.access")
    headers = {**ASKS, "origin": "https://other.example"}
    async with serving(whole({"content": "a"}), server=LISTED) as (_, gatepass):
        answer = await gatepass.ask(None, path, method="OPTIONS", headers=headers).answer()
        unknown = await gatepass.ask(None, "/v1/nothing", method="OPTIONS", headers=headers).answer()
        no_profile = await gatepass.ask(None, "/for/nobody" + CHAT, method="OPTIONS", headers=headers).answer()
        line, of_unknown, _ = await lines_of(caplog, 3)
    assert (answer.status, answer.error["code"]) == (403, "forbidden_origin")
    assert answer.error["message"].startswith(
        "CORS: a page of the origin 'https://other.example' may not call gatepass"
    )
    assert "add that origin to server.cors_origins." in answer.error["message"]
    assert (line["operation"], line["path"], line["reason"]) == ("preflight", path, answer.error["message"])
    assert (unknown.status, of_unknown["operation"]) == (404, "none")
    assert (no_profile.status, no_profile.error["code"]) == (404, "unknown_path")


async def test_the_line_of_what_is_refused_early_names_the_operation(caplog):
    caplog.set_level(logging.INFO, "gatepass.access")
    async with relaying([Send(whole({}))], server={"cors_origins": ["http://localhost:3000"]}) as (_, gatepass):
        foreign = await gatepass.ask(headers={**JSON, "origin": PAGE}).answer()
        wrong = await gatepass.ask(None, "/v1/models", method="DELETE").answer()
        nothing = await gatepass.ask(None, "/", method="GET").answer()
        lines = await lines_of(caplog, 3)
    assert [answer.status for answer in (foreign, wrong, nothing)] == [403, 405, 404]
    assert "without keys" in foreign.error["message"]
    assert f"'{PAGE}'" in foreign.error["message"]
    assert wrong.error["message"] == "DELETE is not possible at /v1/models; use GET."
    assert [line["operation"] for line in lines] == ["chat", "models", "none"]


async def test_no_setting_allows_a_foreign_origin_without_keys():
    path = "/for/lobechat" + CHAT
    listed = {"cors_origins": [PAGE, "http://localhost:3000"]}
    async with relaying(answer=lambda _: [Send(whole({"content": "a"}))], server=listed) as (_, gatepass):
        foreign = await gatepass.ask(None, path, method="OPTIONS", headers=ASKS).answer()
        own = await gatepass.ask(
            None, path, method="OPTIONS", headers={**ASKS, "origin": "http://localhost:3000"}
        ).answer()
    assert (foreign.status, foreign.error["code"]) == (403, "forbidden_origin")
    assert own.status == 204


@pytest.mark.parametrize("kind", ["text/plain; charset=utf-8", "text/plain"])
async def test_a_transcription_in_plain_text_is_json_for_ragflow(kind):
    sent = reply("  Guten Tag, é\n".encode(), content_type=kind)
    fields = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    body = fields % (b"file", b"RIFF") + fields % (b"model", b"w-1") + b"--b--\r\n"
    form = {"content-type": "multipart/form-data; boundary=b"}
    async with serving(sent) as (_, gp):
        ask = partial(gp.ask, body, "/v1/audio/transcriptions")
        read, plain = [await ask(headers=by(name) | form).answer() for name in ("ragflow", "none")]
    assert (read.json(), read.headers["content-type"]) == ({"text": "Guten Tag, é"}, "application/json")
    assert read.headers["x-gatepass-adapted"] == "repair=texts"
    assert plain.body == "  Guten Tag, é\n".encode()


def choices(*found: Any, **more: Any) -> bytes:
    return event({**CHUNK, "choices": [{"index": 0, "finish_reason": None, **one} for one in found], **more})


END = event({**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + event("[DONE]")
TWO_LINES = choices({"delta": {"content": "Hi"}}).replace(b', "choices"', b',\ndata:  "choices"')


@pytest.mark.parametrize(
    ("events", "thoughts"),
    [
        ((choices({"text": "Hi"}, object="text_completion"), END), ""),
        ((choices({"delta": {"reasoning": "hm"}}), choices({"delta": {"content": "Hi"}}), END), "hm"),
        ((choices({"delta": {"content": "Hi"}}, error=""), END), ""),
        ((TWO_LINES, END), ""),
        ((b"event: message\nid: 7\n" + choices({"delta": {"content": "Hi"}}), b": ping\n\n", END), ""),
    ],
)
async def test_a_strict_reader_of_streams_finds_the_text(events, thoughts):
    async with serving(stream(*events)) as (_, gp):
        answer = await gp.ask({**HELLO, "stream": True}, headers=by("ragflow")).answer()
    assert reads.chat_stream(answer.headers, answer.body) == "Hi"
    found = [json.loads(data) for data in answer.events[:-1]]
    assert {one["object"] for one in found} == {"chat.completion.chunk"}
    deltas = [choice["delta"] for one in found for choice in one["choices"]]
    assert "".join(one.get("reasoning_content") or "" for one in deltas) == thoughts
