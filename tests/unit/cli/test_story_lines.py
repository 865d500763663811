"""What `gatepass show` and `tail` print, from documents. tests/integration/test_requests_command.py runs them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click
import pytest

from gatepass.cli.story_lines import (
    HEAD,
    WIDTH,
    body_lines,
    change_lines,
    cleaned,
    duration,
    error_lines,
    list_line,
    size,
    story_lines,
    summary_line,
    time_lines,
    way,
    way_lines,
    wrapped,
)

ARRIVED = "2026-11-23T17:00:00.123Z"
NOW_S = datetime.fromisoformat(ARRIVED).timestamp() + 180
TOKEN = {"credential": "corp", "age_s": 83.1, "left_s": 156.9, "wait_s": 0.0}
CUT = {
    "code": "upstream_closed",
    "hop": "upstream:chat",
    "message": "The upstream ended its stream before the answer was complete.",
    "action": (
        "Check the upstream's log and the timeouts of proxies. `gatepass doctor gpt-4o --call` tests a small call."
    ),
    "test": "gatepass doctor gpt-4o --call",
    "page": "docs/reference/errors.md#upstream_closed",
}


def attempt(number: int = 1, **changed: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "number": number,
        "cause": None,
        "upstream": "chat",
        "upstream_model": "gpt-4o-240806",
        "outcome": "complete",
        "code": None,
        "reached": True,
        "reason": None,
        "status": 200,
        "began_s": 0.0,
        "duration_s": 1.0,
        "requests": 1,
        "token": TOKEN,
        "connect_s": None,
        "head_s": None,
        "upstream_s": 0.8,
        "adapted": [],
        "tried": [],
        "renewed": False,
        "repeated_stale": False,
        "edits": [],
        "upstream_request_id": None,
        "arrivals": None,
        "parts": [],
    }
    assert set(changed) <= set(fields)
    return {**fields, **changed}


def story(*attempts: dict[str, Any], **changed: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": "hpqshblgbtqkqthdbbbbbbbl",
        "replica": "host-a",
        "worker": "worker-1",
        "state": "ended",
        "arrived_at": ARRIVED,
        "method": "POST",
        "path": "/v1/chat/completions",
        "operation": "chat",
        "caller": "ragflow",
        "peer": "",
        "user_agent": "OpenAI/Python 3.0.0",
        "model": "gpt-4o",
        "stream": True,
        "status": 200,
        "outcome": "ok",
        "closed_by": "upstream",
        "error": None,
        "attempts": [*attempts],
        "not_tried": [],
        "bytes_in": 210,
        "bytes_out": 9000,
        "events": 118,
        "usage": None,
        "upstream_request_id": None,
        "empty_answer": False,
        "captured": False,
        "timings": {
            "body_s": 0.0,
            "token_wait_s": 0.0,
            "upstream_s": 0.8,
            "added_s": 0.002,
            "first_byte_s": 0.5,
            "duration_s": 1.0,
        },
    }
    return {**fields, **changed}


def plain(lines: Any) -> list[str]:
    return [click.unstyle(line) for line in lines]


RETRIED = story(
    attempt(
        1,
        outcome="error_reply",
        code="upstream_error",
        reason="Unsupported parameter: images",
        status=400,
        duration_s=0.2,
        connect_s=0.02,
        head_s=0.19,
    ),
    attempt(
        2,
        cause="learned_rule",
        outcome="cut",
        code="upstream_closed",
        began_s=0.2,
        duration_s=0.8,
        head_s=0.3,
        adapted=["images=content-parts"],
        upstream_request_id="req_1",
        edits=[
            {
                "rule": "images=content-parts",
                "path": "messages[0].images",
                "before": {"type": "array", "size_bytes": 120_000},
                "after": None,
            },
            {
                "rule": "images=content-parts",
                "path": "messages[0].content",
                "before": {"type": "string", "size_bytes": 20},
                "after": {"type": "array", "size_bytes": 120_100},
            },
        ],
        arrivals={
            "reads": 22,
            "first_s": 0.3,
            "last_s": 0.75,
            "width_s": 0.05,
            "counts": [3, 5, 0, 9, 1, 2, 3, 0, 0, 8],
            "gaps": [{"at_s": 0.4, "length_s": 0.2}],
        },
    ),
    not_tried=[{"upstream": "spare", "model": "m2", "state": "ejected"}],
    outcome="error",
    error=CUT,
)


def test_the_story_of_a_failed_request():
    assert plain(story_lines(RETRIED, NOW_S)) == [
        "200 upstream_closed at upstream:chat after 1.00 s",
        "POST /v1/chat/completions, chat gpt-4o, stream",
        "2026-11-23 17:00:00 UTC, 3 min ago, worker-1 on host-a",
        "id hpqshblgbtqkqthdbbbbbbbl",
        "",
        "Way",
        "  ● client           ragflow, OpenAI/Python 3.0.0",
        "  ● gatepass         1 change, added 2.0 ms",
        "  ● credential:corp  token fetched 83 s before, 157 s left",
        "  ✗ upstream:chat    400 error_reply upstream_error, 200 ms",
        "      model gpt-4o-240806",
        "      connect 20 ms, until head 170 ms, rest 10 ms",
        "      reason: Unsupported parameter: images",
        "  ● credential:corp  token fetched 83 s before, 157 s left",
        "  ✗ upstream:chat    200 cut upstream_closed, 800 ms  ◀ failed here",
        "      model gpt-4o-240806",
        "      sent again with a rule learned from the error",
        "      began at 200 ms, until head 300 ms, rest 500 ms, reused connection",
        "      upstream's id: req_1",
        "  ○ upstream:spare   not tried as m2: ejected",
        "",
        "Error",
        "  The upstream ended its stream before the answer was complete.",
        "  What to do: Check the upstream's log and the timeouts of proxies. `gatepass",
        "    doctor gpt-4o --call` tests a small call.",
        "  Page: docs/reference/errors.md#upstream_closed",
        "",
        "Changes",
        "  images=content-parts (learned from the error of this request)",
        "    - messages[0].images: array, 117 KiB",
        "    messages[0].content: string, 20 bytes → array, 117 KiB",
        "",
        "Times and sizes",
        "  first byte to the client after 500 ms, gatepass added 2.0 ms",
        "  22 reads, 118 events from 300 ms to 750 ms of the attempt",
        "  longest gaps: 200 ms at 400 ms",
        "  210 bytes from the client, 9000 bytes to the client, closed first by: upstream",
    ]


@pytest.mark.parametrize(
    ("given", "failed", "states"),
    [
        (story(attempt()), None, "client:passed gatepass:passed credential:corp:passed upstream:chat:passed"),
        (
            story(
                attempt(code="token_unavailable", reached=False, token=None, status=None),
                error={**CUT, "hop": "credential:corp", "code": "token_unavailable"},
            ),
            "credential:corp",
            "client:passed gatepass:passed credential:corp:failed upstream:chat:unreached",
        ),
        (
            story(
                attempt(code="token_unavailable", reached=False, token={**TOKEN, "credential": "llm"}, status=None),
                error={**CUT, "hop": "credential:corp", "code": "token_unavailable"},
            ),
            "credential:corp",
            "gatepass:passed credential:corp:failed credential:llm:unreached upstream:chat:unreached",
        ),
        (
            story(error={**CUT, "hop": "client", "code": "invalid_api_key"}, outcome="error"),
            "client",
            "client:failed gatepass:passed",
        ),
        (
            story(error={**CUT, "hop": "gatepass", "code": "overloaded"}, outcome="error"),
            "gatepass",
            "client:passed gatepass:failed",
        ),
        (story(attempt(), outcome="client_gone", closed_by="client"), None, "client:gone gatepass:passed"),
        (story(error={**CUT, "hop": "upstream:chat"}), "upstream:chat", "upstream:chat:failed"),
        (
            story(attempt(upstream="a", code="upstream_connect"), attempt(2, cause="next_target", upstream="b")),
            None,
            "credential:corp:passed upstream:a:left credential:corp:passed upstream:b:passed",
        ),
        (story(attempt(outcome=None, status=None), state="running", outcome=""), None, "upstream:chat:running"),
    ],
    ids=["ok", "no token", "no subject", "refused", "full", "client gone", "no attempt", "failover", "running"],
)
def test_the_way_marks_the_hop_that_failed(given: dict[str, Any], failed: str | None, states: str):
    hops = way(given)
    assert [hop.name for hop in hops if hop.state == "failed"] == ([] if failed is None else [failed])
    assert states in " ".join(f"{hop.name}:{hop.state}" for hop in hops)


def test_the_way_shows_each_deployment_of_an_upstream_and_marks_the_last_one_that_failed():
    refused = [
        attempt(1, status=429, code="limited", upstream_model="reserved"),
        attempt(2, status=429, code="limited", upstream_model="batch", cause="next_target"),
    ]
    left = [
        {"upstream": "chat", "model": name, "state": state} for name, state in (("gpt-4o", "available"), ("x", "full"))
    ]
    hops = way(story(*refused, not_tried=left, error={**CUT, "hop": "upstream:chat"}))
    assert [(hop.state, hop.note) for hop in hops if hop.name == "upstream:chat"] == [
        ("left", "429 complete limited, 1.00 s"),
        ("failed", "429 complete limited, 1.00 s"),
        ("unreached", "not tried"),
        ("unreached", "not tried as x: full"),
    ]


def test_a_silent_stream_in_progress_says_for_how_long_and_what_to_do():
    gap = {"reads": 2, "first_s": 0.2, "last_s": 10.0, "ended_s": 55.0, "gaps": []}
    running = attempt(outcome=None, duration_s=None, arrivals=gap)
    silent = story(running, state="running", outcome=None, status=200, closed_by=None, duration_s=100.0)
    lines = plain(story_lines(silent, NOW_S))
    assert "  ◌ upstream:chat    in progress, silent for 45 s" in lines
    assert lines[lines.index("Now") + 1 :][:4] == [
        "  The upstream has sent nothing for 45 s.",
        "  What to do: Test the upstream with `gatepass doctor gpt-4o --call`, or ask its",
        "    owner. gatepass ends the stream after upstreams.chat.timeouts.idle_s of",
        "    silence.",
    ]
    quick = story({**running, "arrivals": {**gap, "ended_s": 12.0}}, state="running", outcome=None, duration_s=12.0)
    assert "  ◌ upstream:chat    in progress" in (lines := plain(story_lines(quick, NOW_S)))
    assert "Now" not in lines


def test_an_error_of_gatepass_itself_says_that_nothing_was_sent():
    error = {
        **CUT,
        "code": "unsupported_operation",
        "hop": "gatepass",
        "message": "The upstream has no /x.",
        "test": "",
    }
    refused = story(
        attempt(outcome="nothing_written", status=None, token=None, code="unsupported_operation"),
        error=error,
        outcome="error",
        status=404,
    )
    hops = {hop.name: (hop.state, hop.note) for hop in way(refused)}
    assert hops["gatepass"][0] == "failed"
    assert hops["upstream:chat"] == ("unreached", "nothing sent")


def test_a_document_that_knows_little_is_drawn():
    bare = story(
        attempt(token=None, status=None, outcome=None, duration_s=None, upstream_s=0.0, requests=0),
        state="running",
        status=None,
        outcome="",
        closed_by=None,
        worker="",
        duration_s=2.0,
        timings=dict.fromkeys(("body_s", "token_wait_s", "upstream_s", "added_s", "first_byte_s", "duration_s")),
    )
    assert plain(story_lines(bare, NOW_S))[:3] == [
        "running for 2.00 s",
        "POST /v1/chat/completions, chat gpt-4o, stream",
        "2026-11-23 17:00:00 UTC, 3 min ago, on host-a",
    ]


def test_no_text_from_outside_controls_the_terminal():
    evil = "\x1b[2J\r\n\u202eevil"

    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: poisoned(one) for name, one in value.items()}
        if isinstance(value, list):
            return [poisoned(one) for one in value]
        return value + evil if isinstance(value, str) else value

    bad = {**poisoned(RETRIED), "arrived_at": ARRIVED, "state": "ended"}
    for line in plain(story_lines(cleaned(bad), NOW_S)):
        assert line.isprintable()
    summary = {**poisoned(SUMMARY), "arrived_at": ARRIVED}
    assert click.unstyle(summary_line(cleaned(summary))).isprintable()


def test_a_long_message_is_wrapped_between_words():
    error = {**CUT, "message": "word " * 100}
    assert max(len(click.unstyle(line)) for line in story_lines(story(error=error), NOW_S)) <= WIDTH


def test_an_error_of_the_token_names_the_command_that_tests_it_once():
    action = "Run `gatepass token corp`."
    error = {**CUT, "hop": "credential:corp", "code": "token_unavailable", "message": "no token", "action": action}
    lines = plain(error_lines(story(error=error)))
    assert sum("gatepass token corp" in line for line in lines) == 1
    gone = plain(error_lines(story(outcome="client_gone")))
    assert gone[0] == "  The client closed the connection before it had the whole response."
    assert plain(error_lines(story())) == []


def test_an_action_that_the_message_has_too_is_printed_once():
    action = "Shorten the prompt."
    error = {**CUT, "message": f"It is too long. {action} The model 'n' may do.", "action": action}
    lines = plain(error_lines(story(error=error)))
    assert lines[:2] == ["  It is too long. The model 'n' may do.", f"  What to do: {action}"]
    assert plain(error_lines(story(error={**error, "action": ""})))[0] == f"  {error['message']}"


def test_the_error_of_an_upstream_has_the_page_of_its_kind():
    own = {**CUT, "code": "102", "message": "bad thing", "page": "docs/reference/errors.md#upstream_error"}
    lines = plain(error_lines(story(attempt(status=200), error=own, status=400)))
    assert "  Page: docs/reference/errors.md#upstream_error" in lines
    assert not any("Page:" in line for line in plain(error_lines(story(error={**own, "page": ""}))))
    assert "  The upstream hid the error in a 200; the client got 400." in lines
    older = {name: value for name, value in CUT.items() if name != "action"}  # of a gatepass before an update
    assert not any("What to do" in line for line in plain(error_lines(story(error=older))))


def test_a_client_that_does_not_read_is_closed_by_gatepass():
    stalled = story(attempt(outcome="client_gone"), outcome="client_gone", closed_by="gatepass")
    assert way(stalled)[0].state == "failed"
    assert plain(error_lines(stalled))[0].startswith(
        "  gatepass closed the connection, because the client did not read"
    )


def test_a_client_that_leaves_a_silent_stream_leads_to_the_upstream():
    gap = {"reads": 2, "first_s": 0.2, "last_s": 10.0, "ended_s": 55.0, "gaps": []}
    gone = story(attempt(outcome="client_gone", arrivals=gap), outcome="client_gone", closed_by="client")
    assert plain(error_lines(gone)) == [
        "  The upstream had sent nothing for 45 s when the client left.",
        "  What to do: Test it with `gatepass doctor gpt-4o --call`.",
    ]


def test_the_reason_of_the_last_attempt_is_not_repeated():
    failed = attempt(code="upstream_dns", reason="No such name.", connect_s=0.04, outcome="connection_failed")
    error = {**CUT, "code": "upstream_dns", "message": "No such name. Tried once."}
    lines = plain(way_lines(story(failed, error=error)))
    assert "      connect 40 ms, upstream 760 ms" in lines
    assert not any("reason:" in line for line in lines)
    assert "      reason: No such name." in plain(way_lines(story(failed)))


def test_repeats_by_policy_say_why():
    causes = ("next_target", "retry", "context_fallback")
    lines = plain(way_lines(story(*(attempt(2, cause=cause) for cause in causes))))
    assert [line for line in lines if "sent again" in line] == [
        "      sent again at the next target",
        "      sent again after a pause, because `retry` of the model allows it",
        "      sent again to the model for long requests (`context_fallback`)",
    ]


def test_the_time_of_a_failed_connection_is_that_of_the_connection():
    failed = attempt(code="upstream_dns", connect_s=0.5, upstream_s=0.5, token=None)
    assert plain(way_lines(story(failed)))[4:] == ["      connect 500 ms"]


def test_parts_of_a_split_call_that_failed_are_listed():
    parts = [attempt(outcome="error_reply", code="upstream_error"), attempt()]  # each part counts its own attempts
    lines = plain(way_lines(story(attempt(parts=parts, tried=["drop=seed"]))))
    assert "      2 requests in one call, 1 failed: upstream_error" in lines
    assert "      changes that did not help: drop=seed" in lines


def test_a_change_without_knowledge_of_its_paths_is_named():
    assert plain(change_lines(story(attempt(adapted=["repair=usage"])))) == ["  repair=usage"]
    assert plain(change_lines(story())) == []


def test_a_boolean_is_shown_as_it_was_and_is():
    values = {"before": {"type": "boolean", "value": "true"}, "after": {"type": "boolean", "value": "false"}}
    lines = change_lines(story(attempt(edits=[{"rule": "set=store", "path": "store", **values}])))
    assert plain(lines) == ["  set=store", "    store: true → false"]


def test_the_wait_of_a_limit_is_told():
    assert "  It asks the client to wait 17 s." in plain(error_lines(story(error={**CUT, "retry_after_s": 17.0})))


def test_the_wait_for_a_new_token_follows_its_rejection():
    rejected = attempt(outcome="token_rejected", token={**TOKEN, "renewal_s": 0.9}, head_s=0.1)
    assert "      until head 100 ms, new token 900 ms, reused connection" in plain(way_lines(story(rejected)))


def test_a_moved_value_is_shown_at_both_places():
    moved = {"rule": "images=1", "path": "images[0]", "moved_to": "messages[0].content[1]"}
    values = {"before": {"type": "string", "size_bytes": 1}, "after": {"type": "object", "size_bytes": 157}}
    told = attempt(adapted=["images=1"])
    lines = change_lines(story({**told, "edits": [{**moved, **values}], "edits_left_out": 7}))
    assert plain(lines) == [
        "  images=1",
        "    images[0]: string, 1 byte → messages[0].content[1]: object, 157 bytes",
        "    and 7 more changes",
    ]


def test_the_waits_for_the_client_and_for_a_token_are_told():
    waited = attempt(token={**TOKEN, "wait_s": 0.5}, began_s=0.2)
    timings = {**story()["timings"], "body_s": 0.2}
    assert "      began at 200 ms, token 500 ms, upstream 800 ms" in plain(way_lines(story(waited)))
    assert plain(time_lines(story(waited, timings=timings)))[0].startswith(
        "  client sent its body in 200 ms, first byte"
    )


def test_a_stream_without_a_gap():
    arrivals = {"reads": 1, "first_s": 0.3, "last_s": 0.3, "width_s": 0.0, "counts": [1], "gaps": []}
    lines = plain(time_lines(story(attempt(arrivals=arrivals), events=0)))
    assert lines[1] == "  1 read from 300 ms to 300 ms of the attempt"
    assert len(lines) == len(plain(time_lines(story(attempt())))) + 1 == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.00042, "0.4 ms"), (0.21, "210 ms"), (1.204, "1.20 s"), (99.4, "99.40 s"), (600.0, "600 s")],
)
def test_a_time_has_a_unit(seconds: float | None, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (10_239, "10239 bytes"), (20_480, "20 KiB"), (3 * 1024**2, "3.0 MiB")],
)
def test_a_size_has_a_unit(size_bytes: int, text: str):
    assert size(size_bytes) == text


def test_wrapped_text_keeps_words():
    address = "https://gatepass.corp.example/" + "x" * 80  # so that it can be copied
    assert wrapped(f"Page: {address}") == ["  Page:", f"  {address}"]
    assert wrapped("") == []


SUMMARY: dict[str, Any] = {
    "id": "hpqshblgbtqkqthdbbbbbbbl",
    "worker": "",
    "state": "ended",
    "arrived_at": ARRIVED,
    "ended": 7.5,
    "path": "/v1/chat/completions",
    "operation": "chat",
    "caller": "ragflow",
    "model": "gpt-4o",
    "upstream": "chat",
    "stream": True,
    "status": 200,
    "outcome": "ok",
    "code": None,
    "hop": None,
    "attempts": 2,
    "adapted": ["images=content-parts"],
    "duration_s": 1.2,
    "first_byte_s": 0.3,
    "bytes_out": 9,
    "events": 4,
    "captured": False,
}
ERROR = {"status": 503, "outcome": "error", "code": "token_unavailable", "hop": "credential:corp", "attempts": 0}


def test_a_list_is_aligned_and_cuts_no_cell():
    long = {"model": "a-very-long-name-of-a-model", "caller": "名" * 4}
    rows = [
        list_line(HEAD),
        summary_line(SUMMARY),
        summary_line({**SUMMARY, **ERROR, **long}),
        summary_line({**SUMMARY, "outcome": "client_gone", "status": None, "upstream": None, "id": "i" * 36}),
        summary_line({**SUMMARY, "state": "running", "ended": None, "status": None, "outcome": "", "duration_s": 0.6}),
    ]
    assert plain(rows) == [
        "UTC      STATUS ID                       CALLER        MODEL              TIME    UPSTREAM OR ERROR",
        f"17:00:01 200    {SUMMARY['id']} ragflow       gpt-4o              1.20 s chat 2 tries images=content-parts",
        f"17:00:01 503    {SUMMARY['id']} 名名名名      {long['model']}  1.20 s token_unavailable credential:corp",
        f"17:00:01 -      {'i' * 36} ragflow       gpt-4o              1.20 s client gone 2 tries images=content-parts",
        f"17:00:00 ...    {SUMMARY['id']} ragflow       gpt-4o              600 ms chat 2 tries images=content-parts",
    ]


def test_a_list_counts_what_a_chat_lacks():
    adapted = ["translate=messages", "untranslated=thinking", "images=content-parts", "untranslated=top_k"]
    assert summary_line({**SUMMARY, "adapted": adapted}).endswith(
        "translate=messages,images=content-parts,untranslated=2"
    )


def test_a_message_to_an_mcp_server_is_named_by_its_method_and_tool():
    message = {"operation": "mcp", "model": "", "mcp_method": "tools/call", "mcp_tool": "fi\x1bnd"}
    assert " ragflow       tools/call fi�nd " in summary_line(cleaned({**SUMMARY, **message}))
    shown = plain(story_lines(cleaned(story(attempt(), **message, path="/mcp/search")), NOW_S))
    assert shown[1] == "POST /mcp/search, mcp tools/call fi�nd, stream"
    without = {**SUMMARY, **message, "mcp_method": "tools/list", "mcp_tool": ""}
    assert " ragflow       tools/list  " in summary_line(without)


def test_a_stream_that_waits_for_events_is_named():
    idle = {"operation": "mcp_stream", "model": "", "mcp_method": "", "mcp_tool": "", "path": "/mcp/search"}
    assert " stream  " in summary_line({**SUMMARY, **idle})
    shown = plain(story_lines(story(attempt(), **idle, method="GET", stream=True), NOW_S))
    assert shown[1] == "GET /mcp/search, stream"


def test_what_an_mcp_server_does_not_offer_is_said_of_a_405():
    asked = {"operation": "mcp", "model": "", "mcp_method": "DELETE", "mcp_tool": "", "path": "/mcp/search"}
    declined = {**asked, "status": 405, "outcome": "ok", "upstream": "mcp/search", "attempts": 1, "adapted": []}
    line = summary_line({**SUMMARY, **declined, "message": "end of session not offered"})
    assert line.split()[1] == "405"
    assert " DELETE  " in line
    assert line.endswith(" mcp/search end of session not offered")


@pytest.mark.parametrize("path", ["/mcp/search", "/llm/mcp/search", "/v1/mcp/search"])
def test_a_request_without_a_message_names_the_mcp_server_of_its_path(path: str):
    request = {"operation": "mcp", "model": "", "mcp_method": "", "mcp_tool": "", "caller": "", "path": path}
    assert " mcp/search  " in click.unstyle(summary_line({**SUMMARY, **request, **ERROR}))


def test_failed_requests_are_coloured_unless_the_environment_says_no(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert summary_line({**SUMMARY, **ERROR}).startswith("\x1b[31m")
    assert summary_line(SUMMARY) == click.unstyle(summary_line(SUMMARY))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in summary_line({**SUMMARY, **ERROR}) + "".join(story_lines(RETRIED, NOW_S))


def test_captured_bodies_are_shown_and_cut():
    texts = {"request": '{"a": 1}', "sent": '{"b": 1}', "reply": "data: 1\n\ndata: 2\n\n"}
    rest = {"next": None, "size_bytes": 20, "cut": True}
    bodies = [{"name": name, "text": text, **rest} for name, text in texts.items()]
    assert plain(body_lines(cleaned(story(bodies=bodies)))) == [
        *("  request of the client:", '    {"a": 1}', "  request to the upstream:", '    {"b": 1}'),
        *("  reply:", "    data: 1", "    ", "    data: 2", "  A body was too long to be captured whole."),
    ]
    long = {"name": "request", "text": "x" * 3_000, "next": "k/0/3000", "size_bytes": 300_000, "cut": False}
    head, text = body_lines(story(bodies=[long]))
    assert head == "  request of the client: the first 2000 characters of 293 KiB, --json has all"
    assert text == "    " + "x" * 2_000


def test_a_replay_names_who_sent_what_again_without_which_rules():
    replayed = story(replay_of="one", replayed_by="alice", replayed_without=["drop=seed", "images"])
    assert "replay of one by alice without drop=seed, images" in plain(story_lines(replayed, NOW_S))
    assert "replay of one by local" in plain(
        story_lines(story(replay_of="one", replayed_by="local", replayed_without=[]), NOW_S)
    )
