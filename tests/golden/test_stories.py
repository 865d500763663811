"""What `gatepass show` and `tail` print, from documents. tests/integration/test_requests_command.py runs them."""

import json
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import click
import msgspec
import pytest
from docs.changes_reference import REPLIES, REQUESTS

from gatepass.cli import options
from gatepass.cli.story_lines import HEAD, change_lines, cleaned, duration, list_line, size, story_lines, summary_line
from gatepass.documents import Story, Summary
from gatepass.observability.story import advice_of, names_of
from tests.golden.golden import HERE, same

ARRIVED = "2026-11-23T17:00:00.123Z"
KEPT = {"arrived_at": ARRIVED, "state": "ended"}
NOW_S = datetime.fromisoformat(ARRIVED).timestamp() + 180
BASE: dict[str, Any] = json.loads((HERE / "story.json").read_text())
"""An attempt, a request and its line in a list, with all members."""
TOKEN = BASE["attempt"]["token"]
CUT: dict[str, Any] = {
    "kind": "",
    "case": "",
    "message": "",
    "retry_after_s": None,
    "sentence": "",
    "sentence_zh": "",
    "action_zh": "",
    "code": "upstream_closed",
    "hop": "upstream:chat",
    "cause": "The upstream ended its stream before the answer was complete.",
    "action": ("Check the upstream's log and the timeouts of proxies."),
    "test": "gatepass doctor gpt-4o --call",
    "page": "docs/reference/errors.md#upstream_closed",
}
SUMMARY: dict[str, Any] = {**BASE["summary"], "arrived_at": ARRIVED}
ERROR = {"status": 503, "outcome": "error", "code": "token_unavailable", "hop": "credential:corp", "attempts": 0}


def attempt(**changed: Any) -> dict[str, Any]:
    return {**BASE["attempt"], **changed}


def story(*attempts: dict[str, Any], **changed: Any) -> Story:
    document = {**BASE["story"], "arrived_at": ARRIVED, "attempts": [*attempts], **changed}
    return msgspec.convert(document, Story)


def listed(**changed: Any) -> Summary:
    return msgspec.convert({**SUMMARY, **changed}, Summary)


def error(**changed: Any) -> dict[str, Any]:
    return {name: {**CUT, **changed}[name] for name in CUT}


def arrivals(reads: int, first_s: float, last_s: float, ended_s: float, gap: Any = None) -> dict[str, Any]:
    return {"reads": reads, "first_s": first_s, "last_s": last_s, "ended_s": ended_s, "longest_gap": gap}


SILENT = arrivals(2, 0.2, 10.0, 55.0)
LIMITED = {"status": 429, "code": "limited"}
NO_TOKEN = {"code": "token_unavailable", "reached": False, "status": None}
NO_SUBJECT = {**NO_TOKEN, "token": {**TOKEN, "credential": "llm"}}
AGAIN = "Shorten the prompt."
MCP = {"operation": "mcp", "model": "", "mcp_method": "tools/call", "mcp_tool": "fi\x1bnd", "path": "/mcp/search"}
IDLE = {"operation": "mcp_stream", "model": "", "mcp_method": "", "mcp_tool": "", "path": "/mcp/search"}
RUNNING = {"state": "running", "outcome": "", "closed_by": None}
RETRIED = story(
    attempt(
        outcome="error_reply",
        code="upstream_error",
        reason="Unsupported parameter: images",
        status=400,
        duration_s=0.2,
        connect_s=0.02,
        head_s=0.19,
    ),
    attempt(
        cause="learned_rule",
        outcome="cut",
        code="upstream_closed",
        began_s=0.2,
        duration_s=0.8,
        head_s=0.3,
        adapted=["images=content-parts"],
        upstream_request_id="req_1",
        arrivals=arrivals(22, 0.3, 0.75, 0.8, {"at_s": 0.4, "length_s": 0.2}),
    ),
    outcome="error",
    error=CUT,
)
REFUSED = {"outcome": "error_reply", "code": "upstream_error", "status": 400}
STORIES = {
    "a stream that was cut, after a rule was learned": RETRIED,
    "a change that did not help": story(
        attempt(**REFUSED), attempt(**REFUSED, cause="learned_rule", adapted=["drop=seed"]), error=CUT
    ),
    "no token": story(attempt(**NO_TOKEN, token=None), error=error(**ERROR)),
    "no token to present": story(attempt(**NO_SUBJECT), error=error(**ERROR)),
    "a key that is not known": story(error={**CUT, "hop": "client", "code": "invalid_api_key"}, outcome="error"),
    "a full gatepass": story(error={**CUT, "hop": "gatepass", "code": "overloaded", "retry_after_s": 16.2}),
    "a code that is the status": story(
        attempt(**{**LIMITED, "code": "429"}), error={**CUT, "code": "429"}, status=429, outcome="error"
    ),
    "a client that left": story(attempt(), outcome="client_gone", closed_by="client"),
    "a client that left a silent stream": story(attempt(arrivals=SILENT), outcome="client_gone", closed_by="client"),
    "a client that does not read": story(attempt(), outcome="unread", closed_by="gatepass"),
    "no attempt": story(error=CUT),
    "the next target": story(
        attempt(upstream="a", code="upstream_connect"), attempt(cause="next_target", upstream="b", began_s=0.2)
    ),
    "two deployments": story(
        attempt(**LIMITED, upstream_model="reserved"),
        attempt(**{**LIMITED, "code": "429"}, upstream_model="batch", cause="next_target"),
        error=CUT,
    ),
    "a silent stream in progress": story(
        attempt(outcome=None, duration_s=None, arrivals=SILENT), **RUNNING, duration_s=100.0
    ),
    "a second attempt in progress": story(
        attempt(outcome="error_reply", code="upstream_error", status=500),
        attempt(cause="retry", outcome=None, status=None, duration_s=None),
        **RUNNING,
    ),
    "a quick stream in progress": story(
        attempt(outcome=None, duration_s=None, arrivals=arrivals(2, 0.2, 10.0, 12.0)), **RUNNING, duration_s=12.0
    ),
    "an operation that the upstream lacks": story(
        attempt(outcome="nothing_written", status=None, token=None, code="unsupported_operation"),
        error={**CUT, "code": "unsupported_operation", "hop": "gatepass", "cause": "It has no /x.", "test": ""},
        status=404,
    ),
    "a document that knows little": story(
        attempt(token=None, status=None, outcome=None, duration_s=None, upstream_s=0.0),
        **RUNNING,
        status=None,
        duration_s=2.0,
        timings={**BASE["story"]["timings"], **dict.fromkeys(("added_s", "first_byte_s", "duration_s"))},
    ),
    "an action that the message has too": story(
        error={**CUT, "cause": "It is too long. The model 'n' may do.", "action": AGAIN}
    ),
    "a message without an action and a page": story(error={**CUT, "action": "", "page": "", "cause": "word " * 40}),
    "an error in a 200": story(
        attempt(outcome="error_reply"), error={**CUT, "code": "102", "cause": "bad thing"}, status=400
    ),
    "a reason that the error has too": story(
        attempt(code="upstream_dns", reason="No such name.", connect_s=0.5, upstream_s=0.5),
        error={
            **CUT,
            "code": "upstream_dns",
            "message": "No such name. Tried once.",
            "cause": "No such name. Tried once.",
        },
    ),
    "repeats by policy": story(*(attempt(cause=cause) for cause in ("retry", "next_target"))),
    "parts": story(
        attempt(parts=[attempt(outcome="error_reply", code="upstream_error"), attempt()], tried=["drop=seed"])
    ),
    "changes": story(attempt(adapted=["repair=usage", "images=1"]), usage={"output_tokens": 3}),
    "a rejected token": story(
        attempt(
            outcome="token_rejected", token={**TOKEN, "wait_s": 0.1, "renewal_s": 0.9}, head_s=0.1, queue_wait_s=0.02
        )
    ),
    "a rejected token without a new one": story(attempt(outcome="token_rejected", status=401), error=error(**ERROR)),
    "a rejected key": story(
        attempt(outcome="token_rejected", token={**TOKEN, "age_s": None, "left_s": None}, status=401), error=CUT
    ),
    "waits": story(
        attempt(token={**TOKEN, "wait_s": 0.5}, began_s=0.2), timings={**BASE["story"]["timings"], "body_s": 0.2}
    ),
    "one read": story(attempt(arrivals=arrivals(1, 0.3, 0.3, 0.3)), events=0, empty_answer=True),
    "a tool": story(attempt(), **MCP),
    "a stream that waits": story(attempt(), **IDLE, method="GET", trace_id="t-1"),
    "bodies": story(
        bodies=[
            {"name": "request", "text": "x" * 2_001, "size_bytes": 300_000, "cut": False},
            {"name": "sent", "text": '{"b": 1}', "size_bytes": 20, "cut": True},
            {"name": "reply", "text": "data: 1\n\ndata: 2\n\n", "size_bytes": 20, "cut": False},
        ]
    ),
}
CLAUDE_CODE = [
    *(f"untranslated={name}" for name in ("cache_control", "metadata.user_id", "thinking", "context_management")),
    "repair=usage",
]
LISTED: list[dict[str, Any]] = [
    {},
    {**ERROR, "model": "a-very-long-name-of-a-model", "caller": "名" * 4},
    {"outcome": "client_gone", "status": None, "upstream": None, "id": "i" * 36},
    {"adapted": ["drop=seed", "translate=messages", *CLAUDE_CODE]},
    {"adapted": ["drop=seed", "set=temperature", f"drop_beta={'a-beta-2025-01-01+' * 9}"]},
    {"adapted": ["drop=seed", "set=temperature", "split=4", "repair=usage", "repair=role"]},
    {"empty_answer": True},
    MCP,
    {
        **MCP,
        **ERROR,
        "code": "mcp_not_allowed",
        "hop": "client",
        "mcp_tool": "a_long_name_of_a_tool" * 2,
        "upstream": "mcp/b",
    },
    {**MCP, "mcp_method": "tools/list", "mcp_tool": ""},
    IDLE,
    {**MCP, "mcp_method": "DELETE", "mcp_tool": "", "status": 405, "adapted": [], "message": "end not offered"},
    {**IDLE, **ERROR, "operation": "mcp", "path": "/llm/mcp/search"},
    {"caller": "people", "user": "ana@corp.example"},
    {"caller": "people", "user": "a\x1bna"},
]


def test_stories_and_lists_are_drawn_as_recorded():
    shown = {
        name: "\n".join(map(click.unstyle, story_lines(cleaned(one), NOW_S))).replace("x" * 2_000, "xx…")
        for name, one in STORIES.items()
    }
    rows = [list_line(HEAD), *(summary_line(cleaned(listed(**changed))) for changed in LISTED)]
    same("stories.txt", {**shown, "gatepass tail": "\n".join(map(click.unstyle, rows))})


def test_each_change_of_the_reference_has_a_reason_in_both_languages(monkeypatch):
    entries = [*REQUESTS, *REPLIES, "translate=messages", "translate=no-usage", "untranslated=top_k"]
    changed = story(attempt(adapted=entries))
    monkeypatch.setattr("gatepass.cli.story_lines.WIDTH", 1_000)
    for locale, colon in (("C", ": "), ("zh_CN.UTF-8", "：")):
        monkeypatch.setenv("LC_ALL", locale)
        lines = list(change_lines(changed))
        assert [line.strip().partition(colon)[0] for line in lines] == entries
        reasons = [line.partition(colon)[2] for line in lines]
        assert all(reasons)
        assert all(any("\u4e00" <= char <= "\u9fff" for char in one) is (locale != "C") for one in reasons)


def test_an_error_is_explained_in_chinese_where_the_locale_is_chinese(monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    explained = advice_of("upstream_dns", "upstream:chat", "", "", names_of("upstream:chat", "", ""))
    lines = [*story_lines(cleaned(story(error={**CUT, **explained}, outcome="error")), NOW_S)]
    at = lines.index("  `upstreams.chat.base_url` 的主机名无法解析。")
    assert [line for line in lines[at:] if line.startswith("  处理：改正 `upstreams.chat.base_url`，然后")]
    assert not [line for line in lines if "What to do" in line]
    refused = advice_of("token_unavailable", "credential:llm", "refused", "a.id, a.secret", {})
    assert refused["action_zh"].startswith("检查 `a.id` 或 `a.secret`。")


def test_a_story_is_in_chinese_where_the_locale_is_chinese(monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    asked, table = dict[str, str](), options._chinese()
    monkeypatch.setattr(options, "_chinese", lambda: SimpleNamespace(get=asked.setdefault))
    for one in STORIES.values():
        list(story_lines(cleaned(one), NOW_S))
    assert {text for text in set(asked) - set(table) if not text.isdigit() and "=" not in text} == {"gatepass"}
    monkeypatch.setattr(options, "_chinese", lambda: table)
    lines = [*map(click.unstyle, story_lines(cleaned(RETRIED), NOW_S))]
    assert {
        *("路径", "更改", "时间和大小", "      按从错误中学到的规则重新发送"),
        "状态码 200，错误码 upstream_closed，位于 upstream:chat，用时 1.00 s",
        "  ✗ upstream:chat    状态码 400，返回错误，错误码 upstream_error，200 ms",
        "  ✗ upstream:chat    状态码 200，中断，错误码 upstream_closed，800 ms  ◀ 在这里失败",
    } <= {*lines}


@pytest.mark.parametrize(
    ("outcome", "is_hidden"),
    [
        ("error_reply", True),
        *((one, False) for one in ("cut", "connection_failed", "timed_out", "invalid", "token_rejected")),
    ],
)
def test_only_an_error_reply_is_said_to_be_hidden_in_a_200(outcome, is_hidden):
    told = "\n".join(story_lines(story(attempt(outcome=outcome), error=CUT, status=502), NOW_S))
    assert ("The upstream hid the error in a 200; the client got 502." in told) is is_hidden


def test_no_text_from_outside_controls_the_terminal():
    evil = "\x1b[2J\r\n\u202eevil"

    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: poisoned(one) for name, one in value.items()}
        if isinstance(value, list):
            return [poisoned(one) for one in value]
        return value + evil if isinstance(value, str) else value

    bad = msgspec.convert({**poisoned(msgspec.to_builtins(RETRIED)), **KEPT}, Story)
    row = msgspec.convert({**poisoned(SUMMARY), **KEPT}, Summary)
    lines = [*story_lines(cleaned(bad), NOW_S), summary_line(cleaned(row))]
    assert [line for line in map(click.unstyle, lines) if not line.isprintable()] == []


def test_an_unknown_time_and_a_large_size_have_their_form():
    assert (duration(None), size(3 * 1024**2)) == ("-", "3.0 MiB")


def test_failed_requests_are_coloured_unless_the_environment_says_no(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert summary_line(listed(**ERROR)).startswith("\x1b[31m")
    assert summary_line(listed()) == click.unstyle(summary_line(listed()))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in summary_line(listed(**ERROR)) + "".join(story_lines(RETRIED, NOW_S))
