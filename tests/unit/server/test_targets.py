"""The states of targets, and which of them an operator may drain; tests/integration/test_targets.py has two workers."""

from typing import Any

import pytest

from gatepass.config.model import Config
from gatepass.errors import InvalidRequest
from gatepass.http_client.tls import TLSContexts
from gatepass.policy.balancing import TargetHealth
from gatepass.policy.breaker import BreakerSettings
from gatepass.proxy.app_state import AppState, create_app_state, next_app_state
from gatepass.server.inspection import Collect
from gatepass.server.pages import own_part
from gatepass.server.targets import join_drained, order_target, targets_of
from tests.unit.clock import DrivenClock

MODELS = {
    "m": {"targets": [{"upstream": "east"}, {"upstream": "west", "name": "prod", "weight": 3}], "breaker": {}},
    "other": {"targets": [{"upstream": "east"}, {"upstream": "west"}]},
    "one": {"upstream": "east"},
    "safe": {"upstream": "west", "breaker": {"consecutive_failures": 1}},
}
CALM = {"for_s": 0.0, "in_flight": 0, "weight": 1.0}


def config(east: str = "http://east.example", **blocks: Any) -> Config:
    upstreams = {"east": {"base_url": east}, "west": {"base_url": "http://west.example"}}
    return Config.model_validate({"upstreams": upstreams, "models": MODELS, **blocks})


def state_of(**blocks: Any) -> AppState:
    return create_app_state(config(**blocks), DrivenClock(1.0))


def health(state: AppState, upstream: str, model: str) -> TargetHealth:
    return next(
        one
        for route, at, one, _ in state.targets()
        if (route.targets[at].upstream, route.names[at]) == (upstream, model)
    )


def parts_of(*states: AppState) -> Collect:
    async def collect(target: str) -> dict[str, bytes]:
        return {str(at): await own_part(target, one) for at, one in enumerate(states)}

    return collect


async def order(state: AppState, *processes: AppState, **fields: str) -> dict[str, Any]:
    return await order_target(parts_of(state, *processes), fields, state)


async def test_each_target_of_a_model_with_a_choice_or_a_breaker_has_its_state():
    state = state_of()
    found = targets_of(state)
    assert found == {
        "m": [
            {"upstream": "east", "model": "m", "state": "available", **CALM},
            {"upstream": "west", "model": "prod", "state": "available", **CALM, "weight": 3.0},
        ],
        "other": [{"upstream": one, "model": "other", "state": "available", **CALM} for one in ("east", "west")],
        "safe": [{"upstream": "west", "model": "safe", "state": "available", **CALM}],
    }
    assert isinstance(state.clock, DrivenClock)
    health(state, "east", "m").limited_until_s = 13.0
    ejected = health(state, "west", "safe")
    settings = BreakerSettings(consecutive_failures=1)
    assert ejected.breaker.end(1.0, settings, 1.0, failed=True, is_probe=ejected.breaker.begin(1.0, settings))
    await order(state, name="west/other", drain="1")

    def states() -> dict[str, list[tuple[str, float]]]:
        return {name: [(row["state"], row["for_s"]) for row in rows] for name, rows in targets_of(state).items()}

    assert states() == {
        "m": [("waits", 12.0), ("available", 0.0)],
        "other": [("available", 0.0), ("drained", 0.0)],
        "safe": [("ejected", 30.0)],
    }
    shown = state.metrics.exposition().decode()
    for labels, is_available in (('model="m",upstream="east"', 0), ('model="prod",upstream="west"', 1)):
        assert f"gatepass_target_available{{{labels}}} {is_available}.0" in shown
        assert f"gatepass_target_in_flight{{{labels}}} 0.0" in shown
    assert 'gatepass_target_ejections_total{model="safe",upstream="west"} 1.0' in shown
    assert 'gatepass_target_ejections_total{model="other"' not in shown
    await order(state, name="east/one", drain="1", sure="1")
    shown = state.metrics.exposition().decode()
    assert 'gatepass_target_available{model="one",upstream="east"} 0.0' in shown
    assert 'gatepass_target_in_flight{model="one"' not in shown, "nothing counts its requests"
    await state.clock.advance(30.0)
    assert states()["safe"] == [("half_open", 0.0)]


async def test_the_last_target_of_a_model_is_drained_only_if_the_operator_is_sure():
    state, other = state_of(), state_of()
    assert await order(state, other, name="east", drain="1") == {"processes": 0, "alone": ["one"]}
    assert targets_of(state) == targets_of(state_of())
    assert await order(state, other, name="east/m", drain="1") == {"processes": 2, "alone": []}
    assert await order(state, other, name="west/prod", drain="1") == {"processes": 0, "alone": ["m"]}
    assert await order(state, other, name="east", drain="1", sure="1") == {"processes": 2, "alone": ["one"]}
    for one in (state, other):
        assert {name for name, rows in targets_of(one).items() if rows[0]["state"] == "drained"} == {
            "m",
            "other",
            "one",
        }
    assert targets_of(state)["one"] == [
        {"upstream": "east", "model": "one", "state": "drained", **CALM, "in_flight": None}
    ]
    # what has no target already is not asked about again
    assert await order(state, other, name="east/one", drain="1") == {"processes": 2, "alone": []}
    with pytest.raises(InvalidRequest, match="run `gatepass target resume east`"):
        await order(state, other, name="east/m")
    await order(state, other, name="east")
    assert targets_of(state) == targets_of(other) == targets_of(state_of())


async def test_requests_that_no_model_names_count_too():
    blocks: dict[str, Any] = {
        "models": {},
        "operations": {"chat": {"upstream": "east"}, "rerank": {"upstream": "west"}},
    }
    assert await order(state_of(**blocks), name="east", drain="1") == {"processes": 0, "alone": ["east/*"]}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "The upstream '' is not configured; there is east, west"),
        ("wst/prod", "The upstream 'wst' is not configured; did you mean west?"),
        ("west/prd", "'west' has no target with the model 'prd'; did you mean prod?"),
        ("east/prod", "'east' has no target with the model 'prod'; there is m, one, other"),
    ],
)
async def test_an_unknown_target_is_refused_with_those_that_exist(name: str, reason: str):
    with pytest.raises(InvalidRequest) as refused:
        await order(state_of(), name=name, drain="1")
    assert refused.value.message == reason


async def test_a_drain_outlives_a_reload_that_moves_the_upstream_and_reaches_a_worker_that_starts_later():
    before = state_of()
    await order(before, name="east/m", drain="1")
    after = next_app_state(config("http://east.new.example"), TLSContexts(), before)
    before.hand_over(after)
    assert targets_of(after)["m"][0]["state"] == "drained"
    later = state_of()
    await join_drained(parts_of(after, later), later)
    assert targets_of(later)["m"][0]["state"] == "drained"
    await after.aclose()
