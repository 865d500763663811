"""What the page shows of several workers as one."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gatepass.config.model import Config
from gatepass.errors import GatepassError, kind_of
from gatepass.observability.observer import AccessRecord
from gatepass.proxy.app_state import create_app_state
from gatepass.proxy.routing import RouteTable
from gatepass.server.ui import views


def credential(**fields: Any) -> dict[str, Any]:
    held = {"name": "corp", "state": "fresh", "failing": False, "expires_in_s": 100.0, "fetches": 1, "failures": 0}
    return {**held, "renewals": [], "rejected_by": {}, "last_error": None, "failing_since": None, **fields}


def upstream(**fields: Any) -> dict[str, Any]:
    held = {"name": "chat", "in_flight": 0, "open_connections": 0, "last_failed": None, "failing_since": None}
    return {"chat": {**held, "health": "ok", "silent": {}, "targets_away": {}, **fields}}


def part(**fields: Any) -> dict[str, Any]:
    capture = {"running": False, "until": None, "left_s": None, "model": None, "caller": None, "limit_bytes": None}
    return {
        "credentials": {},
        "upstreams": {},
        "in_flight": 1,
        "draining": False,
        "ready": True,
        "slices": [],
        "store": None,
        "reload_problems": [],
        "ending_keys": [],
        "capture": {**capture, "held_bytes": 0, "captured": 0},
        **fields,
    }


def test_the_store_is_that_of_the_process_that_lost_it():
    stores = [{"state": state} for state in ("up", "down", "up")]
    assert views.overview([part(store=one) for one in stores], 100.0)["store"] == {"state": "down"}
    assert views.overview([part(), part()], 100.0)["store"] is None


def test_a_credential_has_the_life_of_the_token_that_ends_first():
    ones = [
        credential(expires_in_s=90.0, renewals=[{"at": 2.0, "ok": True, "reason": None}]),
        credential(expires_in_s=30.0, fetches=2, renewals=[{"at": 1.0, "ok": False, "reason": "r"}], last_error="r"),
        credential(expires_in_s=None),
    ]
    (shown,) = views.overview([part(credentials={"corp": one}) for one in ones], 1000.0)["credentials"]
    assert (shown["expires_in_s"], shown["fetches"], shown["last_error"]) == (30.0, 4, "r")
    assert [one["at"] for one in shown["renewals"]] == [1.0, 2.0]


def test_a_worker_without_a_token_is_shown():
    ones = [credential(), credential(state="none", failing=True, expires_in_s=None)]
    (shown,) = views.overview([part(credentials={"corp": one}) for one in ones], 1000.0)["credentials"]
    assert (shown["state"], shown["failing"], shown["expires_in_s"]) == ("none", True, None)


@pytest.mark.parametrize("counts", [None, (4, 1), (4, 4)])
@pytest.mark.parametrize("health", ["unknown", "answering", "ok", "failing"])
def test_the_health_of_an_upstream_is_that_of_status(counts: Any, health: str):
    """Errors of the client or of a limit, as a 404 and a 429, count in the slices and do not make it failing."""
    slices = [{"number": 60, "traffic": {"requests": counts[0], "by_upstream": {"chat": counts}}}] if counts else []
    (one, other) = (
        upstream(in_flight=2, open_connections=3, health=health, silent={one: 31.5}, targets_away={one: "waits"})
        for one in "ab"
    )
    parts = [part(upstreams=one, slices=slices), part(upstreams=other)]
    shown = views.overview(parts, 15.0 * 70)
    (found,) = shown["upstreams"]
    assert (found["health"], found["in_flight"], found["open_connections"]) == (health, 4, 6)
    assert found["silent"] == {"a": 31.5, "b": 31.5}
    assert found["targets_away"] == {"a": "waits", "b": "waits"}
    assert (shown["workers"], shown["in_flight"]) == (2, 2)


@pytest.mark.parametrize(
    ("rows", "counts", "health"),
    [((2, 1), (20, 3), "failing"), ((2, 0), (20, 2), "ok"), ((3, 0), (5, 0), "ok"), ((3, 0), None, "failing")],
)
def test_an_upstream_that_failed_three_times_in_a_row_is_failing_in_all_workers(
    rows: tuple[int, ...], counts: Any, health: str
):
    slices = [{"number": 60, "traffic": {"by_upstream": {"chat": counts}}}] if counts else []
    failed = [{"in_a_row": row, "id": f"of-{row}", "code": "c", "age_s": 9.0 / row} if row else None for row in rows]
    since = [900 - row if row else None for row in rows]
    parts = [
        part(upstreams=upstream(last_failed=one, failing_since=at), slices=slices)
        for one, at in zip(failed, since, strict=True)
    ]
    parts[1]["slices"] = []
    (found,) = views.overview(parts, 15.0 * 60)["upstreams"]
    assert (found["health"], found["last_failed"]["id"]) == (health, f"of-{max(rows)}")
    assert found["failing_since"] == 900 - max(rows)


@pytest.mark.parametrize(("code", "health"), [("upstream_connect", "failing"), ("upstream_error", "ok")])
def test_an_upstream_that_refused_the_last_connection_is_failing(code: str, health: str):
    slices = [{"number": 60, "traffic": {"by_upstream": {"chat": (20, 1)}}}]
    last = {"in_a_row": 1, "id": "a", "code": code, "age_s": 1.0}
    ones = part(upstreams=upstream(last_failed=last, failing_since=899), slices=slices)
    (found,) = views.overview([ones], 15.0 * 60)["upstreams"]
    assert found["health"] == health


@pytest.mark.parametrize(
    ("counts", "in_a_row", "rejecting"), [((0, 0), 0, "failing"), ((4, 4), 2, "failing"), ((9, 3), 3, "failing")]
)
@pytest.mark.parametrize("succeed", [False, True])
def test_an_upstream_that_rejects_its_token_is_failing_unless_other_requests_succeed(
    counts: tuple[int, int], in_a_row: int, rejecting: str, succeed: bool
):
    if succeed:  # a model alone rejects it
        counts, in_a_row, rejecting = (4, 1), 1, "ok"
    slices = [{"number": 60, "traffic": {"requests": 4, "by_upstream": {"chat": counts}}}]
    last = {"in_a_row": in_a_row, "id": "a", "code": "upstream_auth", "age_s": 1.0} if in_a_row else None
    for rejected_by, health in (({"other": 1.0}, "failing" if in_a_row == 3 else "ok"), ({"chat": 1.0}, rejecting)):
        credentials = {"corp": credential(rejected_by=rejected_by)}
        shown = views.overview(
            [part(upstreams=upstream(last_failed=last), credentials=credentials, slices=slices)], 15.0 * 60
        )
        assert [one["health"] for one in shown["upstreams"]] == [health]


def test_the_errors_of_all_workers_are_counted_by_code_and_caller():
    by_caller = {"rag": [9, 6, 50], "none": [1, 1, 0], "well": [4, 0, 9]}
    by_code = {"draining": [2], "upstream_closed": [5], "overloaded": [0]}
    slices = [{"number": 60, "traffic": {"by_code": by_code, "by_caller": by_caller}}]
    shown = views.overview([part(slices=slices), part(slices=slices)], 15.0 * 60)
    assert list(shown["errors_15m"].items()) == [("upstream_closed", 10), ("draining", 4)]
    assert shown["callers_15m"] == {"rag": 12, "none": 2}


def used(model: str, requests: int, **members: Any) -> dict[str, Any]:
    times = {"durations_s": [], "first_at": 9.0, "last_at": 9.0, "ok_at": 0, "failed_at": []}
    names = {"upstream": "chat", "model": model}
    return {**names, "requests": requests, "errors": 0, "tokens": 0, "codes": {}, "callers": {}, **times, **members}


def test_the_use_of_all_workers_is_added_the_most_used_first():
    rare = used("rare", 1, errors=1, codes={"404": 1}, callers={"a": 1}, failed_at=[9.0])
    often = used("often", 2, errors=1, tokens=10, codes={"overloaded": 1}, callers={"a": 1}, ok_at=2.0)
    other = {**often, "durations_s": [0.2], "first_at": 4.0, "failed_at": [8.5], "ok_at": 5.0}
    both = {**often, "requests": 4, "errors": 2, "tokens": 20, "codes": {"overloaded": 2}, "callers": {"a": 2}}
    both |= {"durations_s": [0.2], "first_at": 4.0, "failed_at": [8.5], "ok_at": 5.0}
    assert views.use([[rare, often], [other]]) == [both, rare]


def test_a_request_that_reached_no_upstream_counts_for_its_model():
    def request(at: float, model: str, outcome: str, upstream: str | None = None) -> SimpleNamespace:
        access = AccessRecord("", "POST", "/v1/chat/completions", "chat", model=model, outcome=outcome)
        access.upstream, access.code, access.caller = upstream, "c" if outcome == "error" else None, "rag"
        return SimpleNamespace(access=access, arrived_s=at, duration_s=0.5)

    requests = [request(2.5, "m", "error", "chat"), request(2.0, "m", "ok", "chat"), request(1.5, "m", "error", "chat")]
    requests += [request(2.0, "m", "error"), request(2.0, "typo", "error"), request(2.0, "", "error")]
    requests.append(request(2.0, "", "ok", "mcp/wiki"))
    state = SimpleNamespace(
        inspector=SimpleNamespace(newest=lambda: requests),
        redactor=SimpleNamespace(mask=lambda text: text),
        clock=SimpleNamespace(wall=lambda: 100.0, now=lambda: 3.0),
    )
    once: dict[str, Any] = {"first_at": 99.0, "last_at": 99.0}
    failed = {"errors": 1, "codes": {"c": 1}, "callers": {"rag": 1}, "failed_at": [99.0], "upstream": "", **once}
    good = {"durations_s": [0.5], "ok_at": 99.0}
    after = {"errors": 2, "codes": {"c": 2}, "callers": {"rag": 2}, "failed_at": [99.5]}
    assert views.own_use(cast(Any, state)) == [
        used("m", 3, **good, **after, first_at=98.5, last_at=99.5),
        used("m", 1, **failed),
        used("typo", 1, **failed),
    ]


def test_a_model_has_the_upstreams_of_its_route_before_its_first_request():
    models = {"m": {"upstream": "b"}, "gpt-*": {"targets": [{"upstream": "a"}, {"upstream": "b"}]}}
    upstreams = {name: {"base_url": "http://127.0.0.1/v1"} for name in "ab"}
    table = RouteTable(Config.model_validate({"upstreams": upstreams, "models": models}))
    assert views.routed(table, ["m", "gpt-4o", "other"]) == {"m": ["b"], "gpt-4o": ["a", "b"]}


def test_the_callers_of_all_workers_are_added_the_most_used_first():
    limits = {"max_concurrent": 4}
    keys = [{"name": "app", "hash": f"sha256:{number * 64}", "limits": limits} for number in "01"]
    keys += [{"name": f"key-{number}", "hash": f"sha256:{number:064}"} for number in range(2, 2 + views.MOST_SHOWN)]
    config = Config.model_validate({"upstreams": {"u": {"base_url": "http://127.0.0.1/v1"}}, "access": {"keys": keys}})
    parts: list[dict[str, list[Any]]]
    parts = [{"app": [1, 10, 2, 300, 60.0]}, {}, {"app": [2, 1, 0, 5, 90.0], "key-9": [0, 12, 1, 30, None]}]
    shown = views.callers(parts, config)
    app = {"name": "app", "in_flight": 3, "max_concurrent": 4, "requests": 11, "errors": 2, "tokens": 305}
    most, first, *_ = shown["callers"]
    assert first == app | {"last_used": "1970-01-01T00:01:30.000Z"}
    assert (most["name"], most["requests"], most["last_used"]) == ("key-9", 12, None)
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
    shown = {"of": "caller/app", "limit": "requests.minute", "most": 5, "used": 0, "left": 5, "mode": "enforce"}
    half = {"of": "group/all", "limit": "max_concurrent", "most": 2, "used": 1, "left": 1}
    assert await views.nearest_limits(state) == [shown | half, shown]


def test_each_code_has_its_documentation():
    def kinds(base: type[GatepassError]) -> list[type[GatepassError]]:
        return [base, *(one for each in base.__subclasses__() for one in kinds(each))]

    for kind in kinds(GatepassError):
        if "__doc__" in vars(kind) and kind_of(kind.code) is kind:
            shown = views.documented(kind.code)
            assert shown["text"]
            assert "Action:" not in shown["text"]
    assert views.documented("upstream_timeout_idle")["action"].startswith("Raise `upstreams.NAME.timeouts`")
    assert views.documented("an-upstreams-own")["text"] == views.documented("upstream_error")["text"]
    statuses = {"internal_error": 500, "upstream_auth": None, "upstream_html": None, "upstream_closed": 502}
    assert {code: views.documented(code)["status"] for code in statuses} == statuses
