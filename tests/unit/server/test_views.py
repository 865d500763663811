"""What the page shows."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gatepass.config.model import Config
from gatepass.errors import explanations
from gatepass.observability.metrics import Totals
from gatepass.observability.observer import AccessRecord, RequestRecord
from gatepass.observability.traffic import WIDTH_S, Slice
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.proxy.routing import RouteTable
from gatepass.server import views

URL = "http://127.0.0.1/v1"


def state_of(**blocks: Any) -> AppState:
    return create_app_state(Config.model_validate({"upstreams": {"chat": {"base_url": URL}}, **blocks}))


@pytest.mark.parametrize("health", ["unknown", "answering", "ok", "failing"])
def test_the_health_of_an_upstream_is_that_of_status(health: str):
    """Errors of the client or of a limit, as a 404 and a 429, do not make it failing."""
    for has_succeeded in (False, True):
        found = views.upstream_health(health, None, is_rejecting=False, has_succeeded=has_succeeded)
        assert found == health


@pytest.mark.parametrize(
    ("code", "in_a_row", "health"),
    [("upstream_connect", 1, "failing"), ("upstream_error", 2, "ok"), ("upstream_error", 3, "failing")],
)
def test_an_upstream_that_refused_the_last_connection_or_three_requests_in_a_row_is_failing(
    code: str, in_a_row: int, health: str
):
    failed = {"in_a_row": in_a_row, "code": code}
    assert views.upstream_health("ok", failed, is_rejecting=False, has_succeeded=True) == health


@pytest.mark.parametrize(
    ("has_succeeded", "in_a_row", "health"), [(False, 0, "failing"), (False, 2, "failing"), (True, 1, "ok")]
)
def test_an_upstream_that_rejects_its_token_is_failing_unless_other_requests_succeed(
    has_succeeded: bool, in_a_row: int, health: str
):
    failed = {"in_a_row": in_a_row, "code": "upstream_auth"} if in_a_row else None
    assert views.upstream_health("ok", failed, is_rejecting=True, has_succeeded=has_succeeded) == health
    assert views.upstream_health("ok", failed, is_rejecting=False, has_succeeded=has_succeeded) == "ok"


def test_the_errors_of_all_slices_are_counted_by_code_and_caller():
    by_caller = {"rag": (9, 6, 50), "none": (1, 1, 0), "well": (4, 0, 9)}
    by_code = {"draining": (2,), "upstream_closed": (5,), "overloaded": (0,)}
    state = state_of()
    number, totals = int(state.clock.wall() // WIDTH_S), Totals(by_code=by_code, by_caller=by_caller)
    slices = [Slice(number - 1, totals), Slice(number, totals)]
    shown = views.overview(replace(state, traffic=cast(Any, SimpleNamespace(slices=lambda _: slices))))
    assert list(shown["errors_15m"].items()) == [("upstream_closed", 10), ("draining", 4)]
    assert shown["callers_15m"] == {"rag": 12, "none": 2}


def used(model: str, requests: int, **members: Any) -> dict[str, Any]:
    times = {"durations_s": [], "first_at": 9.0, "last_at": 9.0, "ok_at": 0, "failed_at": []}
    names = {"upstream": "chat", "model": model}
    return {**names, "requests": requests, "errors": 0, "tokens": 0, "codes": {}, "callers": {}, **times, **members}


def test_a_request_that_reached_no_upstream_counts_for_its_model():
    def request(
        at: float, model: str, outcome: str, upstream: str | None = None, hop: str = "upstream:chat"
    ) -> SimpleNamespace:
        access = AccessRecord("", "POST", "/v1/chat/completions", "chat", model=model, outcome=outcome)
        access.upstream, access.code, access.caller = upstream, "c" if outcome == "error" else None, "rag"
        access.hop = hop
        return SimpleNamespace(access=access, arrived_s=at, duration_s=0.5)

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
    failed = {"errors": 1, "codes": {"c": 1}, "callers": {"rag": 1}, "failed_at": [99.0], "upstream": "", **once}
    good = {"durations_s": [0.5], "ok_at": 99.0}
    after = {"errors": 2, "codes": {"c": 2}, "callers": {"rag": 2}, "failed_at": [99.5]}
    assert views.use(cast(Any, state)) == [
        used("m", 3, **good, **after, first_at=98.5, last_at=99.5),
        used("m", 1, **failed),
        used("typo", 1, **failed),
        used("limited", 1, **{**failed, "failed_at": []}),
        used("no token", 1, **failed),
        used("bad", 1, **{**failed, "failed_at": [], "upstream": "a"}),
    ]


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
    app, other, *_ = shown["callers"]
    assert app.pop("last_used") is not None
    assert app == {"name": "app", "in_flight": 0, "max_concurrent": 4, "requests": 2, "errors": 1, "tokens": 0}
    assert (other["name"], other["requests"], other["max_concurrent"]) == ("key-9", 1, None)
    assert (shown["all_callers"], len(shown["callers"])) == (101, 100)


async def test_the_limits_with_the_smallest_part_left_are_first():
    limits, others = {"requests": {"minute": 5}}, {"max_concurrent": 2}
    keys = [{"name": "app", "hash": f"sha256:{'0' * 64}", "group": "all", "limits": limits}]
    access = {"keys": keys, "groups": {"all": {"limits": others}}}
    state = create_app_state(
        Config.model_validate({"upstreams": {"u": {"base_url": "http://127.0.0.1/v1"}}, "access": access})
    )
    assert state.admission is not None
    state.admission.limits_of(("group", "all"))[0].others = 1
    shown = {"of": "caller/app", "limit": "requests.minute", "most": 5, "used": 0, "left": 5}
    half = {"of": "group/all", "limit": "max_concurrent", "most": 2, "used": 1, "left": 1}
    assert await views.nearest_limits(state) == [shown | half, shown]


def test_each_code_has_its_documentation():
    for code, entry in explanations().items():
        if not entry.of:
            shown = views.documented(code)
            assert (shown["code"], shown["text"][: len(entry.en.sentence)]) == (code, entry.en.sentence)
    assert len(views.documented("upstream_connect")["cases"]) == 2
    meaning = {"text": "The request body is compressed", "text_zh": "请求体被压缩了"}
    assert views.meaning("unsupported_encoding") == meaning
    assert views.documented("upstream_timeout_idle")["action"].startswith("Check the upstream first.")
    assert views.documented("an-upstreams-own")["text"] == views.documented("upstream_error")["text"]
    statuses = {"internal_error": 500, "upstream_auth": None, "upstream_html": None, "upstream_closed": 502}
    assert {code: views.documented(code)["status"] for code in statuses} == statuses
