"""`/v1/models`: the configured names, the lists of upstreams that a wildcard opens, and the forms of other clients."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import pytest

from gatepass.proxy.models import FAILED_S
from tests.integration.answers import COMPLETION
from tests.integration.gateway import CHAT, HELLO, Answer, Gateway, gateway, relaying
from tests.integration.scripted import Dialogue, Hold, Received, Rst, Scripted, Send, Wait, head, reply
from tests.unit.clock import DrivenClock
from tests.waiting import until

LARGE = {"id": "org/large", "object": "model", "created": 1, "owned_by": "corp", "x_context": 128_000}
SMALL = {"id": "small", "object": "model", "created": 2, "owned_by": "corp"}
LIST = [Send(reply({"object": "list", "data": [LARGE, SMALL]}))]
EMBEDDERS = [Send(reply({"object": "list", "data": [{"id": "bge-m3"}, {"id": "small"}]}))]
VERSION = {"anthropic-version": "2023-06-01"}
LISTED = [
    {"id": "claude-large", "created": 1_700_000_000, "display_name": "Large"},
    {"id": "claude-small", "created": 10**30},
    {"id": "org/other", "created": None, "display_name": 7},
]
SHAPED = [
    {"type": "model", "id": "claude-large", "display_name": "Large", "created_at": "2023-11-14T22:13:20Z"},
    {"type": "model", "id": "claude-small", "display_name": "claude-small", "created_at": "1970-01-01T00:00:00Z"},
    {"type": "model", "id": "org/other", "display_name": "org/other", "created_at": "1970-01-01T00:00:00Z"},
]


async def listed(gp: Gateway) -> tuple[int, Any]:
    answer = await gp.ask(None, "/v1/models", method="GET").answer()
    return answer.status, answer.json()


async def refreshed(gp: Gateway) -> None:
    """Returns when no list is under way any more."""
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("models of ")])


def ids(found: tuple[int, Any]) -> list[str]:
    assert (found[0], found[1]["object"]) == (200, "list")
    return [model["id"] for model in found[1]["data"]]


async def test_a_wildcard_lists_the_upstreams_own_models_as_they_are():
    async with relaying(LIST) as (upstream, gp):
        assert await listed(gp) == (200, {"object": "list", "data": [LARGE, SMALL]})
        one = await gp.ask(None, "/v1/models/org/large", method="GET").answer()
        escaped = await gp.ask(None, "/models/org%2Flarge", method="GET").answer()
        absent = await gp.ask(None, "/v1/models/org", method="GET").answer()
    asked = upstream.received[0]
    assert (asked.method, asked.target, asked.body, asked.header("content-type")) == ("GET", "/v1/models", b"", None)
    assert (one.status, one.json()) == (escaped.status, escaped.json()) == (200, LARGE)
    assert (absent.status, absent.error["code"], absent.error["param"]) == (404, "model_not_found", "model")
    assert len(upstream.received) == 1


async def test_configured_names_precede_models_that_match_globs():
    async with Scripted(LIST) as chat, Scripted(EMBEDDERS) as embed:
        upstreams = {"chat": {"base_url": chat.url}, "embed": {"base_url": embed.url}}
        models = {"gpt-best": {"upstream": "chat", "name": "deployed"}, "org/*": {"upstream": "chat"}}
        async with gateway(upstreams=upstreams, models=models) as gp:
            assert ids(await listed(gp)) == ["gpt-best", "org/large"]
        assert embed.connections == 0
        operations = {"embeddings": {"upstream": "embed"}}
        async with gateway(upstreams=upstreams, models=models, operations=operations) as gp:
            assert ids(await listed(gp)) == ["gpt-best", "bge-m3", "small", "org/large"]
        async with gateway(upstreams=upstreams, models={"only": {"upstream": "chat"}}) as gp:
            assert ids(await listed(gp)) == ["only"]
            described = await gp.ask(None, "/v1/models/only", method="GET").answer()
    assert described.json() == {"id": "only", "object": "model", "created": 0, "owned_by": "gatepass"}


FAILURES: dict[str, Dialogue] = {
    "an error": [Send(reply({"error": {"message": "boom"}}, 500))],
    "a page": [Send(reply(b"<html>", content_type="text/html"))],
    "nothing": [Send(reply(b""))],
    "an error in a 200": [Send(reply({"code": 102, "message": "no such thing"}))],
    "no list": [Send(reply({"object": "list"}))],
    "no JSON": [Send(reply(b"[{"))],
    "a reset": [Rst()],
    "too much": [Send(reply(b'{"data":[' + b" " * 5_000_000 + b"]}"))],
    "a redirect": [Send(head(302, location="http://127.0.0.1:9/", content_length="0"))],
}


async def test_the_last_good_list_outlives_whatever_the_upstream_does_then():
    clock = DrivenClock()
    async with relaying(LIST, *FAILURES.values(), chat={"repeat_stale": False}, clock=clock) as (upstream, gp):
        for count in range(1 + len(FAILURES)):
            assert ids(await listed(gp)) == ["org/large", "small"]
            await refreshed(gp)
            assert len(upstream.received) == 1 + count
            await clock.advance(61)


async def test_an_upstream_that_hangs_is_waited_for_four_seconds():
    """LibreChat waits for five."""
    clock = DrivenClock()
    async with relaying([Hold()], LIST, clock=clock) as (upstream, gp):
        asking = asyncio.create_task(gp.ask(None, "/v1/models", method="GET").answer())
        await upstream.requested()
        await clock.advance(3.9)
        assert not asking.done()
        await clock.advance(0.2)
        answer = await asking
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_total")
        await clock.advance(FAILED_S)
        assert ids(await listed(gp)) == ["org/large", "small"]


async def test_a_disconnect_stops_no_other_request_for_the_list():
    release = asyncio.Event()
    async with relaying([Wait(release), *LIST]) as (upstream, gp):
        async with gp.ask(None, "/v1/models", method="GET"):
            await upstream.requested()
            staying = asyncio.create_task(listed(gp))
            await until(lambda: gp.state.in_flight.busy == 2)
        release.set()
        assert ids(await staying) == ["org/large", "small"]
    assert len(upstream.received) == 1


async def asked(gp: Gateway, path: str = "/v1/models", headers: dict[str, str] | None = None) -> Answer:
    return await gp.ask(None, path, method="GET", headers=VERSION if headers is None else headers).answer()


@asynccontextmanager
async def listing(**more: Any) -> AsyncIterator[Gateway]:
    async with relaying(answer=lambda _: [Send(reply({"data": LISTED}))], **more) as (_, gp):
        yield gp


async def test_a_request_with_anthropics_version_receives_its_list():
    async with listing() as gp:
        whole, one = await asked(gp), await asked(gp, "/v1/models/org/other")
        page = await asked(gp, "/v1/models?limit=2&after_id=claude-large")
        plain = await asked(gp, headers={})
    ends = {"first_id": "claude-large", "last_id": "org/other", "has_more": False}
    assert (whole.status, whole.json(), page.json()) == (200, {"data": SHAPED, **ends}, whole.json())
    assert (one.status, one.json()) == (200, SHAPED[2])
    assert plain.json()["object"] == "list"


async def test_errors_have_anthropics_shape():
    keys = [{"name": "a", "hash": f"sha256:{sha256(b'a' * 32).hexdigest()}"}]
    async with listing(access={"keys": keys}) as gp:
        known = {**VERSION, "authorization": f"Bearer {'a' * 32}"}
        absent, unknown_key = await asked(gp, "/v1/models/none", known), await asked(gp)
        method = await gp.ask({}, "/v1/models", method="POST", headers=known).answer()
        plain = await asked(gp, headers={})
    assert [(one.status, one.json()["error"]["type"]) for one in (absent, unknown_key, method)] == [
        (404, "not_found_error"),
        (401, "authentication_error"),
        (405, "invalid_request_error"),
    ]
    assert plain.json()["error"]["code"] == "invalid_api_key"


async def test_codex_receives_its_own_form_without_waiting_for_an_upstream():
    """Codex logs an error at a list without `models`, and waits 5 s for it at its start."""
    async with relaying(answer=lambda _: [Hold()]) as (upstream, gp):
        answer = await asked(gp, "/v1/models?client_version=0.169.0", {})
    assert (answer.status, json.loads(answer.body)) == (200, {"models": []})
    assert upstream.received == []


# --- an unknown model in other words ------------------------------------------------------------------------------

NAMES = {"data": [{"id": name} for name in ("gpt-known", "llama3:latest", "models/gemini-x")]}
ANSWERS = {
    "LiteLLM": (
        {"error": {"message": "You passed in model=nope. There are no healthy deployments for this model"}},
        400,
    ),
    "transformers": ({"detail": "Server is pinned to 'X'; requested 'nope'."}, 400),
    "unmarked": ({"error": {"message": "There is no deployment for nope here"}}, 404),
    "a member of the model": ({"error": {"message": "could not find nope", "param": "model"}}, 404),
    "Chinese": ({"message": "找不到名为「nope」的模型"}, 422),
    "Chinese, together": ({"msg": "模型nope未部署"}, 400),
}


def lacking(answer: tuple[Any, int], listed: Any = NAMES) -> Callable[[Received], Dialogue]:
    def serve(request: Received) -> Dialogue:
        return [Send(reply(listed) if request.method == "GET" else reply(*answer))]

    return serve


async def refused(gp: Gateway, model: str = "nope", **more: Any) -> Answer:
    """The second of two answers: the first has the list fetched behind it."""
    for _ in range(2):
        answer = await gp.ask({**HELLO, "model": model, **more}).answer()
        await refreshed(gp)
    return answer


@pytest.mark.parametrize("words", ANSWERS)
async def test_a_name_that_the_list_lacks_is_told_whatever_words_the_upstream_has_for_it(words):
    document, status = ANSWERS[words]
    clock = DrivenClock()
    async with relaying(answer=lacking((document, status)), clock=clock) as (upstream, gp):
        first = await gp.ask({**HELLO, "model": "nope"}).answer()
        await refreshed(gp)
        await clock.advance(40)
        second = await gp.ask({**HELLO, "model": "nope"}).answer()
        await refreshed(gp)
        await clock.advance(21)
        await gp.ask({**HELLO, "model": "nope"}).answer()
        await refreshed(gp)
    said = second.error["message"]
    assert "list" not in first.error["message"], "the request does not wait for it"
    assert "The upstream's list (3 names, 40 s old) lacks it." in said
    assert said.startswith(first.error["message"].rstrip(".。"))
    assert (first.status, first.error["code"]) == (second.status, second.error["code"]) == (status, "upstream_error")
    assert "models.nope.name" in said
    assert not any(name in said for name in ("gpt-known", "llama", "gemini"))
    assert [one.method for one in upstream.received] == ["POST", "GET", "POST", "POST", "GET"]


OTHERS = {
    "a listed name": ("gpt-known", "no deployment for gpt-known"),
    "a tag": ("llama3", "no deployment for llama3"),
    "a folder": ("gemini-x", "no deployment for gemini-x"),
    "another name": ("nope", "no deployment for that"),
    "a part of a word": ("nope", "no deployment for nope-2 and nopes"),
    "a context": ("nope", "model nope: the context of 8192 is exceeded"),
    "a policy": ("nope", "model nope refused this content by its safety policy"),
    "a credential": ("nope", "this api key may not use the model nope"),
    "an ability": ("nope", "the model nope does not support tools"),
    "a member": ("nope", "model nope: `temperature` must be 1"),
    "a place": ("nope", "model nope: messages[0].content is wrong"),
    "a member in plain words": ("nope", "model nope: messages must not be empty"),
}


@pytest.mark.parametrize("what", OTHERS)
async def test_a_refusal_about_something_else_is_not_about_the_list(what):
    model, message = OTHERS[what]
    async with relaying(answer=lacking(({"error": {"message": message}}, 400))) as (_, gp):
        answer = await refused(gp, model, temperature=0.5)
    assert "lacks it" not in answer.error["message"]


LISTS: dict[str, Any] = {
    "none": {"error": {"message": "no such path"}},
    "an empty one": {"data": []},
    "one with all names": {"data": [{"id": "gpt-known"}, {"id": "openai/*"}]},
}


@pytest.mark.parametrize("what", LISTS)
async def test_a_list_that_proves_nothing_is_not_told(what):
    async with relaying(answer=lacking(ANSWERS["LiteLLM"], LISTS[what])) as (upstream, gp):
        answer = await refused(gp)
        await refused(gp)
    assert "lacks it" not in answer.error["message"]
    assert sum(one.method == "GET" for one in upstream.received) == 1


async def test_a_model_that_the_upstream_accepted_is_known_to_it():
    good = iter((True, False, False))

    def serve(request: Received) -> Dialogue:
        if request.method == "GET":
            return [Send(reply(NAMES))]
        return [Send(reply(COMPLETION) if next(good) else reply(*ANSWERS["LiteLLM"]))]

    async with relaying(answer=serve) as (_, gp):
        assert (await gp.ask({**HELLO, "model": "nope"}).answer()).status == 200
        assert "lacks it" not in (await refused(gp)).error["message"]


async def test_the_name_that_the_configuration_sends_is_the_one_that_is_looked_for():
    models = {"chat": {"upstream": "chat", "name": "nope"}}
    async with relaying(answer=lacking(ANSWERS["transformers"]), models=models) as (_, gp):
        said = (await refused(gp, "chat")).error["message"]
    assert "gatepass sent 'nope' for the client's model name 'chat'. The upstream's list (3 names, 0 s old)" in said
    assert "models.chat.name" in said


async def test_more_than_two_digits_of_names_are_not_written():
    listed = {"data": [{"id": f"model-{number}"} for number in range(429)]}
    async with relaying(answer=lacking(ANSWERS["LiteLLM"], listed)) as (_, gp):
        said = (await refused(gp)).error["message"]
    assert "(more than 99 names, 0 s old)" in said


ELSEWHERE: dict[str, tuple[str, Any, tuple[Any, int]]] = {
    "vectors": (
        "/v1/embeddings",
        {"model": "nope", "input": "a"},
        ({"error": {"message": "no deployment is named nope"}}, 404),
    ),
    "a detail": (
        CHAT,
        {**HELLO, "model": "nope"},
        ({"detail": [{"loc": ["body", "model"], "msg": "'nope' is unknown"}]}, 422),
    ),
    "a ranking": (
        "/v1/rerank",
        {"model": "nope", "query": "q", "documents": ["d"]},
        ({"message": "No engine for `nope` was started"}, 400),
    ),
    "a stream": (CHAT, {**HELLO, "model": "nope", "stream": True}, ({"msg": "未部署 nope 引擎"}, 400)),
    "a message": (
        "/v1/messages",
        {**HELLO, "model": "nope", "max_tokens": 9},
        ({"error": {"message": "requested: 'nope', loaded: 'X'"}}, 400),
    ),
    "a message, in Anthropic's form": (
        "/v1/messages",
        {**HELLO, "model": "nope", "max_tokens": 9},
        ({"type": "error", "error": {"type": "not_found_error", "message": "No engine 'nope' is loaded"}}, 404),
    ),
    "a text": (CHAT, {**HELLO, "model": "nope"}, (b"The deployment nope was never started.", 404)),
}


@pytest.mark.parametrize("where", ELSEWHERE)
async def test_a_name_that_the_list_lacks_is_told_over_every_api(where):
    path, body, answers = ELSEWHERE[where]
    async with relaying(answer=lacking(answers)) as (_, gp):
        for _ in range(2):
            answer = await gp.ask(body, path).answer()
            await refreshed(gp)
    assert "The upstream's list (3 names, 0 s old) lacks it." in answer.error["message"]
    assert (answer.status, answer.error["hop"]) == (answers[1], "upstream:chat")


@pytest.mark.parametrize(("status", "kind"), [(400, "invalid_request_error"), (404, "not_found_error")])
async def test_an_unknown_model_in_anthropics_form_is_told_with_its_setting(status, kind):
    error = {"type": kind, "message": "anthropic_messages: Invalid model name passed in model=nope."}
    async with relaying(answer=lacking(({"type": "error", "error": error}, status))) as (_, gp):
        answer = await gp.ask({**HELLO, "model": "nope", "max_tokens": 9}, "/v1/messages").answer()
    said = answer.error["message"]
    assert (answer.status, answer.error["type"], answer.error["hop"]) == (status, kind, "upstream:chat")
    assert said.startswith(error["message"])
    assert "models.nope.name" in said
