"""Chats in place of responses and messages at an upstream that lacks their path, and no chat after any other error."""

from typing import Any

import pytest

from gatepass.server.inspection import stories
from tests.integration.absent_paths import HAVING, LACKING, MORE, Case, an_error, bytes_of
from tests.integration.gateway import JSON, relaying
from tests.integration.scripted import Dialogue, Send, reply
from tests.unit.clock import DrivenClock

HEADERS = {**JSON, "anthropic-version": "2023-06-01"}
BODIES: dict[str, dict[str, Any]] = {
    "responses": {"input": "Weather?"},
    "messages": {"max_tokens": 64, "messages": [{"role": "user", "content": "Weather?"}]},
}
CHAT = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "up",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
}
OPERATIONS = pytest.mark.parametrize("operation", ["responses", "messages"])


def asked(operation: str, case: Case, model: str) -> dict[str, Any]:
    return {"model": model, **BODIES[operation], **case.more.get(operation, case.more)}


def answering(cases: dict[str, Case], operation: str, **chats: Any) -> Any:
    def answer(request: Any) -> Dialogue:
        if request.target.endswith("/models"):  # fetched behind an error about a model
            return [Send(reply({"detail": "Not Found"}, 404))]
        model = request.json()["model"]
        if request.target.endswith("/chat/completions"):
            return [Send(chats.get("chat", reply(CHAT)))]
        return [Send(bytes_of(cases[model], operation, model))]

    return answer


@OPERATIONS
async def test_each_form_of_an_absent_path_becomes_a_chat(operation):
    cases = {f"model-{number}": case for number, case in enumerate((*LACKING, *MORE))}
    async with relaying(answer=answering(cases, operation)) as (upstream, gp):
        answered = {
            model: [
                (await gp.ask(asked(operation, case, model), f"/v1/{operation}", headers=HEADERS).answer()).status
                for _ in range(2)
            ]
            for model, case in cases.items()
        }
        learned = {one.scope.model: one.rule.entry for one in gp.state.learned_rules()}
    assert [(cases[model], found) for model, found in answered.items() if found != [200, 200]] == []
    assert learned == dict.fromkeys(cases, "protocols=chat")
    assert len(upstream.received) == 3 * len(cases)


@OPERATIONS
async def test_no_other_error_becomes_a_chat_or_is_changed(operation):
    cases = {f"model-{number}": case for number, case in enumerate(HAVING) if operation in case.operations}
    async with relaying(answer=answering(cases, operation)) as (upstream, gp):
        answered = {
            model: await gp.ask(asked(operation, case, model), f"/v1/{operation}", headers=HEADERS).answer()
            for model, case in cases.items()
        }
        learned = gp.state.learned_rules()
    tried = {one.json()["model"] for one in upstream.received if one.target.endswith("/chat/completions")}
    assert [cases[model] for model in tried] == []
    assert [one.rule.entry for one in learned if one.rule.entry == "protocols=chat"] == []
    wrong = [
        (cases[model], one.status, one.body)
        for model, one in answered.items()
        if one.status < 400
        or (
            b"no such path" in one.body
            and cases[model].body not in ({"detail": "Not Found"}, {"detail": "File Not Found"})
        )
    ]
    for one in wrong:
        print("WRONG", one)
    assert wrong == []


class Upstream:
    """It lacks the path unless `serves`. Chats are answered with `chat`."""

    def __init__(self, *, serves: bool = False, chat: bytes | None = None) -> None:
        self.serves, self.chat = serves, chat or reply(CHAT)

    def __call__(self, request: Any) -> Dialogue:
        if request.target.endswith("/chat/completions"):
            return [Send(self.chat)]
        return [Send(reply(MESSAGE) if self.serves else reply({"detail": "Not Found"}, 404))]


MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


async def statuses(gp: Any, upstream: Any, *more: dict[str, Any]) -> list[Any]:
    """Send one request with each of `more`, and return each status with the last parts of the paths that it took."""
    found = []
    for one in more:
        before = len(upstream.received)
        answered = await gp.ask({"model": "m", **BODIES["messages"], **one}, "/v1/messages", headers=HEADERS).answer()
        paths = [request.target.rpartition("/")[2] for request in upstream.received[before:]]
        found.append((answered.status, *paths))
    return found


BOTH, ALONE, NATIVE = ("messages", "completions"), ("completions",), ("messages",)


async def test_a_refused_path_is_remembered_for_a_minute_though_the_chat_met_a_limit():
    played, clock = Upstream(chat=reply({"error": {"message": "No deployments available for 5 s"}}, 429)), DrivenClock()
    async with relaying(answer=played, clock=clock) as (upstream, gp):
        assert await statuses(gp, upstream, {}, {}) == [(429, *BOTH), (429, *ALONE)]
        assert gp.state.learned_rules() == []
        clock.suspend(61)
        assert await statuses(gp, upstream, {}) == [(429, *BOTH)]
        played.chat = reply(CHAT)
        assert await statuses(gp, upstream, {}, {}) == [(200, *ALONE), (200, *ALONE)]
        assert [one.rule.entry for one in gp.state.learned_rules()] == ["protocols=chat"]


async def test_a_path_that_was_served_within_the_hour_is_stored_after_two_refusals():
    played, clock = Upstream(serves=True), DrivenClock()
    async with relaying(answer=played, clock=clock) as (upstream, gp):
        assert await statuses(gp, upstream, {}) == [(200, *NATIVE)]
        played.serves = False
        assert await statuses(gp, upstream, {}, {}) == [(200, *BOTH), (200, *BOTH)]
        assert gp.state.learned_rules() == []
        clock.suspend(61)
        assert await statuses(gp, upstream, {}, {}) == [(200, *BOTH), (200, *ALONE)]


async def test_a_chat_that_fails_at_an_upstream_that_served_the_path_is_not_tried_for_a_minute():
    played, clock = Upstream(serves=True, chat=reply({"error": {"message": "no"}}, 400)), DrivenClock()
    async with relaying(answer=played, clock=clock) as (upstream, gp):
        await statuses(gp, upstream, {})
        played.serves = False
        assert [one[1:] for one in await statuses(gp, upstream, {}, {})] == [BOTH, NATIVE]
        clock.suspend(61)
        assert [one[1:] for one in await statuses(gp, upstream, {})] == [BOTH]


@pytest.mark.parametrize(
    ("status", "message", "is_failed"),
    [
        (404, "This model is only supported in v1/responses and not in v1/chat/completions.", True),
        (400, "gpt-9 is not a chat model", True),
        (403, "Not for this key", True),
        (401, "Not for this key", True),
        (400, "The prompt is too long", False),
        (422, "bad", False),
        (503, "busy", False),
    ],
)
async def test_after_a_chat_that_fails_the_next_request_begins_as_one_only_if_the_request_is_the_cause(
    status, message, is_failed
):
    played, clock = Upstream(chat=reply({"error": {"message": message}}, status)), DrivenClock()
    async with relaying(answer=played, clock=clock) as (upstream, gp):
        await statuses(gp, upstream, {})
        played.serves = True
        assert [one[1:] for one in await statuses(gp, upstream, {})] == [NATIVE if is_failed else ALONE]


async def test_what_no_chat_serves_is_refused_with_what_the_upstream_has():
    async with relaying(answer=Upstream()) as (_, gp):
        for path, status in (("/v1/responses", 200), ("/v1/responses/compact", 404)):
            answered = await gp.ask({"model": "m", **BODIES["responses"]}, path, headers=HEADERS).answer()
            assert answered.status == status
    assert "has no /responses/compact: it has chat alone" in answered.json()["error"]["message"]


async def test_a_stored_rule_rests_after_the_upstream_lost_its_chats():
    played, clock = Upstream(), DrivenClock()
    async with relaying(answer=played, clock=clock) as (upstream, gp):
        assert await statuses(gp, upstream, {}) == [(200, *BOTH)]
        played.serves, played.chat = True, reply({"detail": "Not Found"}, 404)
        assert [one[1:] for one in await statuses(gp, upstream, {}, {})] == [ALONE, NATIVE]


async def test_a_stored_rule_stays_after_a_chat_that_was_refused():
    played, clock = Upstream(), DrivenClock()
    async with relaying(answer=played, clock=clock) as (upstream, gp):
        assert await statuses(gp, upstream, {}) == [(200, *BOTH)]
        played.chat = reply({"error": {"message": "Your balance is used up"}}, 403)
        assert [one[1:] for one in await statuses(gp, upstream, {}, {})] == [ALONE, ALONE]


async def errors_of(gp: Any, *more: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Send one request with each of `more`, and return what the client, and `gatepass show`, have of its error."""
    found = []
    for one in more:
        body = {"model": "m", **BODIES["messages"], **one}
        answered = await gp.ask(body, "/v1/messages", headers=HEADERS).answer()
        (story,) = await stories(gp.state, answered.headers["x-request-id"], bodies=False)
        assert story.error is not None
        found.append((answered.json()["error"]["message"], story.error.case, story.error.action))
    return found


async def test_what_no_chat_can_express_gets_the_error_of_the_upstream():
    searching = {
        "tool_choice": {"type": "tool", "name": "web_search"},
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
    }
    async with relaying(answer=Upstream()) as (upstream, gp):
        assert await statuses(gp, upstream, searching, {}, searching) == [(400, *NATIVE), (200, *BOTH), (400, *NATIVE)]
        ((message, case, action),) = await errors_of(gp, searching)
    assert message.startswith("Not Found. The upstream has no such path")
    assert (case, "`upstreams.chat.protocols: [chat]`" in action) == ("no_api", True)


async def test_an_upstream_without_both_paths_is_reported_with_its_base_url():
    lacking = reply({"detail": "Not Found"}, 404)
    async with relaying(answer=Upstream(chat=lacking)) as (upstream, gp):
        found = await errors_of(gp, {}, {})
    assert [one.target.rpartition("/")[2] for one in upstream.received] == ["messages", "completions", "messages"]
    for message, case, action in found:
        assert message.startswith("Not Found. The upstream has no such path")
        assert (case, "`upstreams.chat.base_url`" in action) == ("no_chat", True)


async def test_nothing_is_tried_without_learning_or_over_declared_protocols():
    for chat in ({"learn": "off"}, {"protocols": ["messages"]}):
        async with relaying(answer=Upstream(), chat=chat) as (upstream, gp):
            assert await statuses(gp, upstream, {}, {}) == [(400, *NATIVE)] * 2


GET = [
    Case(404, an_error("Invalid URL (GET PATH)")),  # OpenAI
    Case(404, {"message": "Cannot GET PATH", "error": "Not Found", "statusCode": 404}),  # NestJS
    Case(404, {"message": "Route GET:PATH not found", "error": "Not Found", "statusCode": 404}),  # Fastify
]


@pytest.mark.parametrize("lacking", [*LACKING[:3], LACKING[5], *GET])
async def test_an_absent_list_of_models_is_reported_with_models(lacking):
    async with relaying([Send(bytes_of(lacking, "models"))], models={"*": {"upstream": "chat"}}) as (_, gp):
        answered = await gp.ask(None, "/v1/models", method="GET").answer()
        (story,) = await stories(gp.state, answered.headers["x-request-id"], bodies=False)
    assert "it does not list its models" in answered.error["message"]
    assert story.error is not None
    assert (story.error.case, "Add each model to `models`" in story.error.action) == ("no_list", True)
