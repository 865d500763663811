"""The targets of models as an operator sees them, and drains them in all workers of this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from gatepass.config.wording import did_you_mean
from gatepass.errors import InvalidRequest
from gatepass.proxy.app_state import AppState
from gatepass.server.inspection import Collect, decoded

LOG = logging.getLogger("gatepass.targets")
TARGETS = "/targets"
"""What the workers ask each other for: the drained targets, perhaps after those of an upstream were set."""


def targets_of(state: AppState) -> dict[str, list[dict[str, Any]]]:
    """Return the targets of each model as JSON. `in_flight` is None for a model whose requests are not counted."""
    found: dict[str, list[dict[str, Any]]] = {}
    for route, at, health, (word, for_s) in state.targets():
        row: dict[str, Any] = {"upstream": route.targets[at].upstream, "model": route.names[at]}
        row |= {"state": word, "for_s": round(for_s, 3)}
        row |= {"in_flight": None if route.is_plain else health.in_flight, "weight": route.weights[at]}
        found.setdefault(route.entry or "*", []).append(row)
    return found


async def order_target(collect: Collect, fields: Mapping[str, str], state: AppState) -> dict[str, Any]:
    """Drain or resume the target `name`, UPSTREAM or UPSTREAM/MODEL, in all workers. Return their number.

    Without `sure` it is 0 if models would be left without a target; `alone` names them.
    Raises InvalidRequest for a target that the configuration does not have.
    """
    upstream, _, model = fields.get("name", "").partition("/")
    if upstream not in state.config.upstreams:
        hint = did_you_mean(upstream, list(state.config.upstreams))
        raise InvalidRequest(f"The upstream {upstream[:100]!r} is not configured{hint}")
    targets = [
        (route.entry or f"{route.targets[0].upstream}/*", target.upstream, name)
        for route in state.routes.all
        for target, name in zip(route.targets, route.names, strict=True)
    ]
    known = sorted({name for _, host, name in targets if host == upstream and name})
    if model and model not in known:
        raise InvalidRequest(f"{upstream!r} has no target with the model {model[:100]!r}{did_you_mean(model, known)}")
    before = {name: one.state.drained for name, one in state.upstreams.items()}
    after = before[upstream] | {model} if "drain" in fields else before[upstream] - {model} if model else set()
    if "drain" not in fields and "" in after:
        raise InvalidRequest(f"All of {upstream!r} is drained: run `gatepass target resume {upstream}`.")

    def served(drained: Mapping[str, set[str]]) -> set[str]:
        return {entry for entry, host, name in targets if drained[host].isdisjoint(("", name))}

    alone, parts = sorted(served(before) - served({**before, upstream: after})), dict[str, Any]()
    if "sure" in fields or not alone:
        parts = await decoded(collect, TARGETS, {"upstream": upstream, "models": json.dumps(sorted(after))})
        event = {"fields": {"target": fields["name"], "processes": len(parts)}}
        LOG.info("target_drained" if "drain" in fields else "target_resumed", extra=event)
    return {"processes": len(parts), "alone": alone}


async def own_targets(state: AppState, fields: Mapping[str, str]) -> bytes:
    """Drain the `models` (JSON) of `upstream` in this process, if `fields` name one.

    Returns the drained models of each upstream, "" for all.
    """
    upstream = fields.get("upstream", "")
    if upstream in state.upstreams:  # a reload may have removed it here
        state.upstreams[upstream].state.drain(set(json.loads(fields["models"])))
    return json.dumps({name: sorted(one.state.drained) for name, one in state.upstreams.items()}).encode()


async def join_drained(collect: Collect, state: AppState) -> None:
    """Drain what the other workers drain, in a worker that starts later."""
    for part in (await decoded(collect, TARGETS)).values():
        for name, models in part.items():
            if name in state.upstreams:
                state.upstreams[name].state.drain(state.upstreams[name].state.drained.union(models))
