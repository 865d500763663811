"""The lines of the commands for the running gatepass; tests/integration/test_control.py runs them."""

from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from gatepass.cli import control
from gatepass.cli.control import reload_lines, rule_lines, status_lines
from gatepass.documents import LearnedRule, ReloadResult, Status
from gatepass.types import span

ROW: dict[str, Any] = {
    "upstream": "chat",
    "model": "o3-mini",
    "operation": "chat",
    "adapted": "stream=synth",
    "callers": ["ragflow"],
    "beside": "",
    "values": [],
    "hidden_values": 0,
    "evidence": "no stream\nhere",
    "age_s": 90,
    "expires_in_s": 3510,
    "uses": 12,
    "setting": "",
}
TOKEN: dict[str, Any] = {
    "type": "oauth2",
    "state": "fresh",
    "failing": False,
    "refreshing": False,
    "needs_restart": False,
    "fetches": 1,
    "failures": 0,
    "upstreams": [],
    "rejected_by": {},
    "renewals": [],
    **dict.fromkeys(("kind", "lifetime_source", "age_s", "expires_in_s", "last_error", "last_error_age_s")),
    **dict.fromkeys(("failing_since", "next_try_in_s")),
}
UPSTREAM: dict[str, Any] = {
    "host": "h",
    "credential": None,
    "health": "ok",
    "last_failed": None,
    "last_error": None,
    "many_errors": False,
    **dict.fromkeys(("in_flight", "open_connections", "requests_15m", "errors_15m", "requests", "errors"), 0),
    "silent": {},
    "over_chat": [],
    "dialect": "openai",
}


def lines_of(
    credentials: dict[str, Any] | None = None, upstreams: dict[str, Any] | None = None, **members: Any
) -> list[str]:
    """Return the lines of a status with these members of credentials and upstreams, and `members`."""
    page = {
        "at": 0.0,
        "ready": True,
        "draining": False,
        "in_flight": 0,
        "replica": "",
        "ids_begin": "",
        "keys": [],
        "reload_problems": [],
        "store": None,
        "capture": {"running": False, "held_bytes": 0, "captured": 0},
        "credentials": {name: {**TOKEN, **one} for name, one in (credentials or {}).items()},
        "upstreams": {name: {**UPSTREAM, **one} for name, one in (upstreams or {}).items()},
    }
    return list(status_lines(msgspec.convert({**page, **members}, Status)))


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        ({}, ["Nothing that a reload applies has changed."]),
        ({"outcome": "reloaded", "changed": ["models.m"]}, ["Reloaded. Changed:", "  models.m"]),
        (
            {"outcome": "reloaded", "changed": ["credentials.c"]},
            [
                *("Reloaded. Changed:", "  credentials.c"),
                "`gatepass status` shows whether the new tokens were fetched.",
            ],
        ),
        (
            {"needs_restart": ["server.port", "log.level"]},
            ["Nothing that a reload applies has changed.", "These settings need a restart: server.port, log.level"],
        ),
        (
            {"outcome": "refused", "problems": ["g.yaml:3: models.m: is wrong"]},
            ["g.yaml:3: models.m: is wrong", "The configuration was not reloaded: the old one continues."],
        ),
        (
            {"outcome": "reloaded", "changed": ["access.keys"], "retried": ["corp"], "warnings": ["a key\x1b is open"]},
            [
                *("Reloaded. Changed:", "  access.keys"),
                "Fetching new tokens: corp. `gatepass status` shows the result.",
                "warning: a key� is open",
            ],
        ),
    ],
)
def test_the_result_of_a_reload_is_described(result: dict[str, Any], lines: list[str]):
    assert list(reload_lines(ReloadResult(**{"outcome": "unchanged", **result}))) == lines


ONE_OF_FOUR = "1 of 4 keys cannot be used (kid a: it has 1024 bits)"


@pytest.mark.parametrize(
    ("held", "line"),
    [
        ({}, []),
        ({"fault": "refused."}, ["issuer https://i: 3 keys, fetched 2 min ago: refused. `gatepass doctor` tests it."]),
        ({"keys": 0, "age_s": None}, ["issuer https://i: no keys: not fetched yet. `gatepass doctor` tests it."]),
        (
            {"keys": 0, "age_s": None, "fault": "no DNS"},
            ["issuer https://i: no keys: no DNS. `gatepass doctor` tests it."],
        ),
        (
            {"unusable": ONE_OF_FOUR},
            [f"issuer https://i: 3 keys, fetched 2 min ago: {ONE_OF_FOUR}. `gatepass doctor` tests it."],
        ),
    ],
)
def test_an_issuer_whose_keys_fail_has_a_line(held: dict[str, Any], line: list[str]):
    good = {"issuer": "https://good", "keys": 1, "age_s": 1.0, "fault": None}
    one = {"issuer": "https://i", "keys": 3, "age_s": 120.0, "fault": None, **held}
    assert [text for text in lines_of(jwt=[good, one]) if "issuer" in text] == line


def test_a_token_that_another_process_fetched_is_from_the_store():
    up = {"state": "up", "for_s": 3.0, "reason": "", "emptied": 0}
    read = {"fetches": 0, "expires_in_s": 100.0}
    ones = {"read": read, "own": {**read, "fetches": 2}, "fixed": {**read, "type": "static", "expires_in_s": None}}
    shown = {
        line.split()[0]: " ".join(line.split()[3:])
        for line in lines_of(ones, store=up)
        if "oauth2" in line or "static" in line
    }
    assert shown == {"read": "100 s from the store 0", "own": "100 s 2 0", "fixed": "- 0 0"}
    assert "from the store" not in "".join(lines_of(ones))


def test_a_failing_store_and_credentials_have_lines_and_one_reason_is_shown_once():
    held = {"state": "none", "failing": True, "fetches": 3, "failures": 3}
    ones = {
        "a": {**held, "last_error": "refused"},
        "b": {**held, "last_error": "refused"},
        "c": {**held, "last_error": "x\x1b"},
    }
    store = {"state": "down", "for_s": 3.0, "reason": "refused\nby it", "emptied": 0}
    lines = lines_of(ones, store=store, ready=False)
    assert lines[:3] == ["READY  IN FLIGHT", "no     0", "store down: refused by it"]
    assert lines[5].split() == ["a", "oauth2", "none,", "failing", "-", "3", "3"]
    assert lines[-2:] == ["a, b: refused", "c: x\ufffd"]
    *_, line = lines_of({"a": {**ones["a"], "needs_restart": True}})
    assert line == "a: refused. A new secret requires a restart, because it is in an environment variable"


def test_each_upstream_has_a_line_with_its_health_and_its_share_of_errors():
    last = {
        "in_a_row": 3,
        "for_s": 180.0,
        "id": "r",
        "code": "upstream_connect",
        "kind": "upstream_connect",
        "age_s": 12.0,
    }
    test = "gatepass doctor gpt-4o\x1b --call"
    error = {
        "many_errors": True,
        "last_error": {"id": "r 7", "code": "model_not_found", "kind": "upstream_error", "age_s": 5.0},
    }

    def sent(requests: int, errors: int = 0, rejected: int = 0) -> dict[str, Any]:
        recent = {"requests_15m": requests, "errors_15m": errors, "rejected_15m": rejected}
        return {"requests": 1000, "errors": 500, **recent}

    ones = {
        "chat": {"health": "failing", **sent(120, 4), "last_failed": {**last, "test": test}},
        "rejects": {"health": "failing", **sent(8, 8)},
        "once": {**sent(200, 1), "last_failed": {**last, "in_a_row": 1, "test": test}},
        "files": sent(7, 0, 4),
        "lost": {**sent(1, 1), **error},
        "stuck": {**sent(9, 4, 1), "silent": {"s": 45.0}, **error},
        "first": {"health": "answering"},
        "new": {"health": "unknown"},
        "rejects_all": {"health": "unknown", **sent(16)},
        "quiet": sent(0),
    }
    lines = [" ".join(line.split()) for line in lines_of(upstreams=ones)]
    assert lines[3:] == [
        "UPSTREAM HEALTH ERRORS IN 15 MIN FIND THE CAUSE",
        "chat failing for 3 min, upstream_connect 12 s ago 3.3% of 120 gatepass doctor gpt-4o\ufffd --call",
        "rejects failing 100.0% of 8 gatepass doctor",
        "once healthy, upstream_connect 12 s ago 0.5% of 200 -",
        "files healthy 57.1% of 7 -",
        "lost many errors, model_not_found 5 s ago 100.0% of 1 gatepass show 'r 7'",
        "stuck many errors, model_not_found 5 s ago, 1 stream silent for 45 s 55.6% of 9 gatepass show s",
        "first answering - -",
        "new no answer yet - -",
        "rejects_all no good answer yet 0.0% of 16 gatepass doctor",
        "quiet healthy - -",
    ]


def test_only_a_target_that_takes_no_requests_has_a_line():
    row = {"upstream": "west", "model": "prod", "for_s": 0.0, "in_flight": 2, "weight": 1.0}
    states = [("available", 0.0, 0), ("ejected", 24.0, 0), ("half_open", 0.0, 1), ("waits", 75.0, 3)]
    rows = [{**row, "state": state, "for_s": for_s, "in_flight": busy} for state, for_s, busy in states]
    lines = lines_of(targets={"m": rows, "other": rows[:1]})
    assert lines[2:] == [
        "target west/prod of m: ejected, 24 s left, 0 in flight",
        "target west/prod of m: half open, 1 in flight",
        "target west/prod of m: waits, 1 min left, 3 in flight",
    ]


def test_an_upstream_whose_credential_fails_leads_to_it():
    held = {"failing": True, "last_error": "no"}
    states = {"lost": ("none", ["a"]), "old": ("expired", ["b"]), "late": ("fresh", ["c"])}
    credentials = {name: {**held, "state": state, "upstreams": names} for name, (state, names) in states.items()}
    ones = {name: {"health": "unknown"} for name in "abc"}
    lines = [" ".join(line.split()) for line in lines_of(credentials, ones)]
    assert lines[-3:] == [
        "a no token, its credential fails: lost - gatepass doctor",
        "b no token, its credential fails: old - gatepass doctor",
        "c no answer yet - -",
    ]


def test_mcp_servers_are_listed_with_their_token_sessions_and_health():
    well = {**UPSTREAM, "usable": True, "sessions": 0}
    many = {
        "many_errors": True,
        "last_error": {"id": "r7", "code": "upstream_error", "kind": "upstream_error", "age_s": 5.0},
    }
    last = {
        "in_a_row": 3,
        "id": "r",
        "code": "upstream_connect",
        "kind": "upstream_connect",
        "age_s": 90.0,
        "for_s": 90.0,
        "test": "",
    }
    dead = {"health": "failing", "last_failed": last}
    servers = {
        "search": {**well, "host": "tools.example", "credential": "corp", "sessions": 3, **dead},
        "old": {**well, "host": "old.example", "credential": "corp"},
        "lost": {**well, "host": "lost.example", "credential": "none", "usable": False},
        "wiki": {**well, "host": "wiki.example", "credential": None, "health": "unknown"},
        "many": {**well, "host": "many.example", "credential": None, **many},
    }
    credentials = {"corp": {"rejected_by": {"mcp/old": 4.0}}, "none": {}}
    lines = lines_of(credentials, mcp={"streams": 2, "servers": servers})
    assert lines[-9:] == [
        "MCP SERVER  HOST           CREDENTIAL  TOKEN     SESSIONS  HEALTH",
        "search      tools.example  corp        yes       3         failing, upstream_connect 1 min ago",
        "old         old.example    corp        rejected  0         healthy",
        "lost        lost.example   none        no        0         healthy",
        "wiki        wiki.example   -           -         0         no answer yet",
        "many        many.example   -           -         0         many errors, upstream_error 5 s ago",
        "MCP server search: `gatepass doctor` names the cause.",
        "MCP server many: `gatepass show r7` names the cause.",
        "2 streams of MCP clients that wait for events",
    ]


def facts(**members: Any) -> list[str]:
    """Return the lines below the row of a rule with these members, without its evidence."""
    _, _, *lines = rule_lines([LearnedRule(**{**ROW, **members})])
    return [line.removeprefix("    ") for line in lines if line != "    no stream here"]


def test_the_text_of_a_rule_moves_no_cursor():
    texts = {"evidence": "a\x1b[2Jb\x00", "model": "m\x1b[0m", "callers": ["c\x1b[3m"]}
    _, line, evidence = rule_lines([LearnedRule(**{**ROW, **texts})])
    assert " ".join(line.split()) == "chat/m�[0m chat stream=synth c�[3m 1 min 58 min 12"
    assert evidence == "    a�[2Jb�"


def test_the_table_is_for_people():
    other = {**ROW, "upstream": "azure", "model": "gpt-5-chat", "adapted": "drop=seed", "evidence": "", "age_s": 7_300}
    other["callers"] = ["claude", "ragflow"]
    assert list(rule_lines([LearnedRule(**ROW), LearnedRule(**other)])) == [
        "MODEL             OPERATION  ADAPTED       CALLERS    AGE    LEFT    USES",
        "chat/o3-mini      chat       stream=synth  ragflow    1 min  58 min  12",
        "    no stream here",
        "azure/gpt-5-chat  chat       drop=seed     2 callers  2 h    58 min  12",
        "    callers: claude, ragflow",
    ]
    assert list(rule_lines([])) == ["Nothing has been learned."]


def test_of_many_callers_the_first_five_are_listed():
    assert facts(callers=[f"c{n}" for n in range(1_000)]) == ["callers: c0, c1, c2, c3, c4 and 995 more"]
    assert facts(callers=["a", "b", "c", "d", "e"]) == ["callers: a, b, c, d, e"]


@pytest.mark.parametrize(
    ("beside", "where"), [("top_p", "with top_p"), ("!a+b", "without the betas a+b"), ("t\x1b[2J", "with t�[2J")]
)
def test_a_rule_of_some_requests_alone_says_which(beside, where):
    assert facts(beside=beside) == [f"only in requests {where}"]


@pytest.mark.parametrize(
    ("values", "hidden", "reach"),
    [
        (["0.3"], 0, "the value 0.3"),
        (["0.3", "0.5"], 0, "the values 0.3, 0.5"),
        (["0.3"], 1, "the values 0.3 and 1 more"),
        ([], 1, "the value that was sent"),
        ([], 3, "the 3 values that were sent"),
    ],
)
def test_a_rule_of_some_values_says_which(values, hidden, reach):
    assert facts(values=values, hidden_values=hidden, setting="x: 1") == [
        f"only for {reach}",
        "in the model's entry: x: 1",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3_599, "59 min"), (7_200, "2 h"), (200_000, "2 d")]
)
def test_a_duration_is_as_precise_as_a_person_needs(seconds, text):
    assert span(seconds) == text


def test_a_reload_succeeds_although_an_older_gatepass_has_another_status(monkeypatch):
    pages = {"/reload": b'{"outcome": "reloaded", "retried": ["corp"]}', "/status": b"{}"}
    monkeypatch.setattr(control, "request", lambda _, target, *__: pages[target])
    done = CliRunner().invoke(control.reload, ["--socket", "s"])
    assert (done.exit_code, done.output.splitlines()[0]) == (0, "Reloaded. Changed:")
