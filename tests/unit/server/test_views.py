"""What the page shows."""

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gatepass.config.advice import explained
from gatepass.config.model import Config
from gatepass.documents import Caller, ErrorCount, Failures, Limit
from gatepass.errors import explanations
from gatepass.observability.metrics import Totals
from gatepass.observability.observer import AccessRecord, RequestRecord
from gatepass.observability.traffic import WIDTH_S, Slice
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.proxy.routing import RouteTable
from gatepass.server import views
from gatepass.server.inspection import limits_of
from gatepass.server.pages import status_of

URL = "http://127.0.0.1/v1"


def state_of(**blocks: Any) -> AppState:
    return create_app_state(Config.model_validate({"upstreams": {"chat": {"base_url": URL}}, **blocks}))


@pytest.mark.parametrize(
    ("health", "kind", "rejects", "recent", "shown"),
    [
        *((health, None, False, (4, 4), health) for health in ("unknown", "ok", "failing")),
        ("ok", "upstream_connect", False, (4, 1), "failing"),
        ("ok", "upstream_error", False, (4, 1), "ok"),
        ("unknown", None, True, (0, 0), "failing"),
        ("ok", "upstream_auth", True, (2, 2), "failing"),
        ("ok", "upstream_auth", True, (2, 1), "ok"),
        ("failing", "upstream_auth", True, (9, 3), "failing"),
    ],
)
def test_an_upstream_fails_if_its_last_connection_did_or_it_rejects_its_token_while_nothing_succeeds(
    monkeypatch: pytest.MonkeyPatch, health: str, kind: str | None, rejects: bool, recent: Any, shown: str
):
    """Errors of the client or of a limit, as a 404 and a 429, do not make it failing: `Metrics.health`."""
    state = state_of()
    failed = None if kind is None else Failures("r", "a-code", kind, 1.0, 1, 1.0, "")
    monkeypatch.setattr(state.metrics, "health", lambda _: health)
    monkeypatch.setattr(state.metrics, "last_failed", lambda *_: failed)
    monkeypatch.setattr(state.traffic, "total", lambda _: Totals(by_upstream={"chat": (*recent, 0)}))
    monkeypatch.setattr(AppState, "rejection_ages_s", lambda _: {"chat": 3.0} if rejects else {})
    assert status_of(state).upstreams["chat"].health == shown


def test_the_errors_of_all_slices_are_counted_by_code_and_kind_and_caller(monkeypatch: pytest.MonkeyPatch):
    by_caller = {"rag": (9, 6, 50), "none": (1, 1, 0), "well": (4, 0, 9)}
    own, foreign = ("overloaded", "overloaded"), ("overloaded", "upstream_error")
    by_code = {own: (2,), foreign: (5,), ("draining", "draining"): (0,)}
    state = state_of()
    number, totals = int(state.clock.wall() // WIDTH_S), Totals(by_code=by_code, by_caller=by_caller)
    slices = [Slice(number - 1, totals), Slice(number, totals)]
    monkeypatch.setattr(state.traffic, "slices", lambda _: slices)
    shown = views.traffic(state)
    assert shown.errors == [ErrorCount(*foreign, 10), ErrorCount(*own, 4)]
    assert shown.callers == {"rag": 12, "none": 2}


def used(model: str, requests: int, **members: Any) -> dict[str, Any]:
    times = {"durations_s": [], "first_at": 9.0, "last_at": 9.0, "ok_at": 0, "failed_at": []}
    names = {"upstream": "chat", "model": model}
    return {
        **names,
        "requests": requests,
        "errors": 0,
        "tokens": 0,
        "codes": [],
        "callers": {},
        "unknown": False,
        **times,
        **members,
    }


def test_a_request_that_reached_no_upstream_counts_for_its_model():
    def request(
        at: float, model: str, outcome: str, upstream: str | None = None, hop: str = "upstream:chat"
    ) -> SimpleNamespace:
        access = AccessRecord("", "POST", "/v1/chat/completions", "chat", model=model, outcome=outcome)
        access.upstream, access.code, access.caller = upstream, "c" if outcome == "error" else None, "rag"
        access.hop = hop
        return SimpleNamespace(access=access, kind="k", case="", arrived_s=at, duration_s=0.5)

    requests = [request(2.5, "m", "error", "chat"), request(2.0, "m", "ok", "chat"), request(1.5, "m", "error", "chat")]
    requests += [request(2.0, "m", "error"), request(2.0, "typo", "error"), request(2.0, "", "error")]
    requests += [request(2.0, "", "ok", "mcp/wiki"), request(2.0, "limited", "error", None, "gatepass")]
    requests += [
        request(2.0, "no token", "error", None, "credential:corp"),
        request(2.0, "bad", "error", "a", "client"),
    ]
    state = SimpleNamespace(
        inspector=SimpleNamespace(newest=lambda: requests),
        redactor=SimpleNamespace(mask=lambda text: text),
        clock=SimpleNamespace(wall=lambda: 100.0, now=lambda: 3.0),
    )
    once: dict[str, Any] = {"first_at": 99.0, "last_at": 99.0}
    failed = {
        "errors": 1,
        "codes": [ErrorCount("c", "k", 1)],
        "callers": {"rag": 1},
        "failed_at": [99.0],
        "upstream": "",
        **once,
    }
    good = {"durations_s": [0.5], "ok_at": 99.0}
    after = {"errors": 2, "codes": [ErrorCount("c", "k", 2)], "callers": {"rag": 2}, "failed_at": [99.5]}
    assert views.use(cast(Any, state)) == [
        used("m", 3, **good, **after, first_at=98.5, last_at=99.5),
        used("m", 1, **failed),
        used("typo", 1, **failed),
        used("limited", 1, **{**failed, "failed_at": []}),
        used("no token", 1, **failed),
        used("bad", 1, **{**failed, "failed_at": [], "upstream": "a"}),
    ]


def used_by(*requests: SimpleNamespace) -> list[dict[str, Any]]:
    state = SimpleNamespace(
        inspector=SimpleNamespace(newest=lambda: requests),
        redactor=SimpleNamespace(mask=lambda text: text),
        clock=SimpleNamespace(wall=lambda: 100.0, now=lambda: 3.0),
    )
    return views.use(cast(Any, state))


def failed_with(status: int, kind: str = "upstream_error", hop: str = "upstream:chat", case: str = "") -> Any:
    access = AccessRecord("", "POST", "/v1/chat/completions", "chat", caller="rag", model="m", outcome="error")
    access.status, access.code, access.hop, access.upstream = status, kind, hop, "chat"
    return SimpleNamespace(access=access, kind=kind, case=case, arrived_s=2.0, duration_s=0.5)


@pytest.mark.parametrize(
    ("error", "fails"),
    [
        (failed_with(429), False),  # the team's own limit at the upstream
        (failed_with(429, "limit_reached", "gatepass"), False),
        (failed_with(400), False),
        (failed_with(402), False),
        (failed_with(500), True),
        (failed_with(404), True),
        (failed_with(401, "upstream_auth"), True),
        (failed_with(200, "upstream_closed"), True),
        (failed_with(503, "token_unavailable", "credential:corp"), True),
    ],
)
def test_a_limit_or_a_wrong_request_of_a_caller_is_no_failure_of_the_model(error, fails):
    (row,) = used_by(error)
    assert (row["failed_at"], row["errors"]) == ([99.0] if fails else [], 1)


def test_a_name_of_which_each_request_is_a_404_may_be_unknown_and_a_caller_without_a_row_has_a_name():
    no_row = failed_with(403, "no_caller_row", "client")
    no_row.access.caller = ""
    assert [row["unknown"] for row in used_by(failed_with(404), failed_with(404, "model_not_found", "client"))] == [
        True
    ]
    assert [row["unknown"] for row in used_by(failed_with(404), failed_with(429))] == [False]
    assert [row["callers"] for row in used_by(no_row)] == [{"no_caller_row": 1}]


async def test_a_model_has_the_upstreams_of_its_route_before_its_first_request():
    models = {"m": {"upstream": "b"}, "gpt-*": {"targets": [{"upstream": "a"}, {"upstream": "b"}]}}
    upstreams = {name: {"base_url": "http://127.0.0.1/v1"} for name in "ab"}
    table = RouteTable(Config.model_validate({"upstreams": upstreams, "models": models}))
    assert await views.routed(table, ["m", "gpt-4o", "other"]) == {"m": ["b"], "gpt-4o": ["a", "b"]}


def test_the_callers_are_shown_with_their_use_the_most_used_first():
    keys = [{"name": "app", "hash": f"sha256:{number * 64}", "limits": {"max_concurrent": 4}} for number in "01"]
    keys += [{"name": f"key-{number}", "hash": f"sha256:{number:064}"} for number in range(2, 2 + views.MOST_SHOWN)]
    state = state_of(access={"keys": keys})
    for caller, outcome in (("key-9", "ok"), ("app", "ok"), ("app", "error")):
        access = AccessRecord("", "POST", "/v1/chat/completions", "chat", outcome=outcome, status=200)
        access.caller = caller
        state.metrics.request_ended(RequestRecord(access, None, 60.0, 0.0, 1.0, None, None), None)
    shown = views.callers(state)
    app, other, *_ = shown.callers
    assert app == Caller("app", 0, 4, 2, 1, 0, app.last_used)
    assert (other.name, other.requests, other.max_concurrent) == ("key-9", 1, None)
    assert (app.last_used is not None, shown.all_callers, len(shown.callers)) == (True, 101, 100)


async def test_the_limits_with_the_smallest_part_left_are_first():
    limits, others = {"requests": {"minute": 5}}, {"max_concurrent": 2}
    keys = [{"name": "app", "hash": f"sha256:{'0' * 64}", "group": "all", "limits": limits}]
    state = state_of(access={"keys": keys, "groups": {"all": {"limits": others}}})
    assert state.admission is not None
    state.admission.limits_of(("group", "all"))[0].others = 1
    whole, half = Limit("caller/app", "requests.minute", 5, 0, 5), Limit("group/all", "max_concurrent", 2, 1, 1)
    assert (await limits_of(state)).limits == [whole, half]
    assert (await limits_of(state, 2)).limits == [half, whole]
    assert (await limits_of(state, 1)).limits == [half]


def test_each_code_has_its_documentation():
    for code, entry in explanations().items():
        if not entry.of:
            shown = views.documented(code)
            sentence = explained(code, {})["sentence"]
            assert (shown["code"], shown["text"][: len(sentence)]) == (code, sentence)
            texts = [text for one in (shown, *shown["cases"]) for text in one.values() if isinstance(text, str)]
            assert [text for text in texts if re.search(r"\{\w+\}", text)] == []
    assert "`upstreams.NAME.base_url`" in views.documented("upstream_connect")["action_zh"]
    assert views.documented("upstream_timeout_idle")["action"].startswith("Check the upstream first.")
    assert views.documented("an-upstreams-own")["text"] == views.documented("upstream_error")["text"]
    statuses = {"internal_error": 500, "upstream_auth": None, "upstream_html": None, "upstream_closed": 502}
    assert {code: views.documented(code)["status"] for code in statuses} == statuses
