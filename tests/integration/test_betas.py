"""Claude Code's header and members at upstreams that reject a part of them: what they receive, and how often."""

import json
import logging
from typing import Any

import pytest

from tests.integration.gateway import JSON, relaying
from tests.integration.messages_upstream import ASKED, answer, error, events
from tests.integration.scripted import Dialogue, Received, Send
from tests.integration.test_learned_rules import learned_rules

PATH = "/v1/messages?beta=true"
CODE, THINKING = "claude-code-20250219", "interleaved-thinking-2025-05-14"
CONTEXT, SCOPE = "context-management-2025-06-27", "prompt-caching-scope-2026-01-05"
SENT = (CODE, THINKING, CONTEXT, SCOPE)
HEADERS = {**JSON, "anthropic-version": "2023-06-01", "anthropic-beta": ",".join(SENT)}
BODY: dict[str, Any] = {
    **ASKED,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "scope": "global"}}],
    "context_management": {"edits": []},
}
HINT = "Please consult our documentation at docs.anthropic.com or try again without the header."


def betas(request: Received) -> tuple[str, ...]:
    value = request.header("anthropic-beta")
    return () if value is None else tuple(value.split(","))


class Strict:
    """Accepts these values of `anthropic-beta`. It names the ones that it rejects, all at once or one by one."""

    def __init__(self, *accepted: str, names: str) -> None:
        self.accepted = accepted
        self.names = names

    def __call__(self, request: Received) -> Dialogue:
        rejected = [beta for beta in betas(request) if beta not in self.accepted]
        if rejected:
            shown = ", ".join(f"`{beta}`" for beta in (rejected if self.names == "all" else rejected[:1]))
            text = f"Unexpected value(s) {shown} for the `anthropic-beta` header. {HINT}"
            return [Send(error("invalid_request_error", text, 400))]
        return answer()(request)


@pytest.mark.parametrize(("names", "calls"), [("all", 2), ("one", 3)])
async def test_named_values_are_left_out_and_remembered(names, calls, caplog):
    caplog.set_level(logging.INFO, "gatepass.learning")
    strict = Strict(CODE, THINKING, names=names)
    async with relaying(answer=strict) as (upstream, gp):
        answers = [await gp.ask(BODY, PATH, headers=HEADERS).answer() for _ in range(2)]
        assert sorted(learned_rules(gp)) == [f"drop_beta={CONTEXT}", f"drop_beta={SCOPE}"]
    for answered, attempts in zip(answers, (str(calls), None), strict=True):
        assert (answered.status, answered.body) == (200, b"".join(events()))
        assert sorted(answered.headers["x-gatepass-adapted"].split(", ")) == sorted(
            (f"drop_beta={CONTEXT}", f"drop_beta={SCOPE}")
        )
        assert answered.headers.get("x-gatepass-attempts") == attempts
    assert len(upstream.received) == calls + 1
    first, last = upstream.received[0], upstream.received[-1]
    assert (betas(first), first.body) == (SENT, json.dumps(BODY).encode())
    assert betas(last) == (CODE, THINKING)
    block = {**BODY["system"][0], "cache_control": {"type": "ephemeral"}}
    assert last.json() == {**ASKED, "system": [block]}
    assert [record.getMessage() for record in caplog.records].count("rule_learned") == 2
