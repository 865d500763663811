"""The states of targets, as /status and the metrics show them."""

import msgspec

from gatepass.config.model import Config
from gatepass.policy.balancing import TargetHealth
from gatepass.policy.breaker import BreakerSettings
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.server.pages import status_of
from tests.unit.clock import DrivenClock

MODELS = {
    "m": {"targets": [{"upstream": "east"}, {"upstream": "west", "name": "prod", "weight": 3}], "breaker": {}},
    "other": {"targets": [{"upstream": "east"}, {"upstream": "west"}]},
    "one": {"upstream": "east"},
    "safe": {"upstream": "west", "breaker": {"failures": 1}},
}
CALM = {"for_s": 0.0, "in_flight": 0, "weight": 1.0}


def health(state: AppState, upstream: str, model: str) -> TargetHealth:
    return next(
        one
        for route, at, one, _ in state.targets()
        if (route.targets[at].upstream, route.names[at]) == (upstream, model)
    )


async def test_each_target_of_a_model_with_a_choice_or_a_breaker_has_its_state():
    upstreams = {name: {"base_url": f"http://{name}.example"} for name in ("east", "west")}
    state = create_app_state(Config.model_validate({"upstreams": upstreams, "models": MODELS}), DrivenClock(1.0))
    found = msgspec.to_builtins(status_of(state).targets)
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
    settings = BreakerSettings(failures=1)
    assert ejected.breaker.end(1.0, settings, 1.0, failed=True, is_probe=ejected.breaker.begin(1.0, settings))
    ejected.ejected_times = 1

    def states() -> dict[str, list[tuple[str, float]]]:
        return {
            name: [(row.state, row.for_s) for row in rows] for name, rows in (status_of(state).targets or {}).items()
        }

    assert states() == {
        "m": [("waits", 12.0), ("available", 0.0)],
        "other": [("available", 0.0), ("available", 0.0)],
        "safe": [("ejected", 30.0)],
    }
    shown = state.metrics.exposition().decode()
    for labels, is_available in (('model="m",upstream="east"', 0), ('model="prod",upstream="west"', 1)):
        assert f"gatepass_target_available{{{labels}}} {is_available}.0" in shown
        assert f"gatepass_target_in_flight{{{labels}}} 0.0" in shown
    assert 'gatepass_target_ejections_total{model="safe",upstream="west"} 1.0' in shown
    assert 'gatepass_target_ejections_total{model="other"' not in shown
    assert 'model="one"' not in shown, "nothing counts its requests"
    await state.clock.advance(30.0)
    assert states()["safe"] == [("half_open", 0.0)]
