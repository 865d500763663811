"""What the page at /ui shows, as JSON: from the state of each process, and merged over all of them.

The functions with `own_` return what one process contributes. All others are pure.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from heapq import nsmallest
from itertools import islice
from typing import Any

import msgspec

from gatepass.auth.authenticator import LOCAL
from gatepass.auth.model_access import may_use
from gatepass.config.access import AccessKey, moment_text
from gatepass.config.model import Config
from gatepass.errors import ModelNotFound, UpstreamConnect, UpstreamErrorReply, UpstreamHtml, kind_of
from gatepass.observability.capture import merged_states
from gatepass.observability.metrics import FAILING_IN_A_ROW, has_many_errors
from gatepass.observability.story import moment
from gatepass.observability.traffic import Slice, merged, series
from gatepass.proxy.app_state import AppState
from gatepass.proxy.routing import RouteTable
from gatepass.server.inspection import REPLICA
from gatepass.server.limits import row_of
from gatepass.server.pages import credentials_of, health_of, silent_of, streams_of, targets_of
from gatepass.types import MCP_UPSTREAM

MOST_RENEWALS = 20
MOST_CODES = 20
MOST_USED = 500
MOST_SHOWN = 100
MOST_LIMITS = 20


def own_overview(state: AppState) -> dict[str, Any]:
    now_s, wall_s = state.clock.now(), state.clock.wall()
    in_flight = Counter(request.response.context.metrics_key()[2] for request in state.in_flight.requests)
    credentials, streams = credentials_of(state), streams_of(state)
    for name, one in credentials.items():
        age_s, left_s = one["age_s"], one["expires_in_s"]
        lasts_s = None if left_s is None or age_s is None else round(age_s + left_s, 3)
        renewals = [
            {"at": round(wall_s - now_s + renewal.ended_s, 3), "ok": renewal.reason is None, "reason": renewal.reason}
            for renewal in state.holders[name].renewals()
        ]
        since_s = state.holders[name].failing_since_s
        one |= {"name": name, "lifetime_s": lasts_s, "refresh_in_s": one["next_try_in_s"], "renewals": renewals}
        one["failing_since"] = None if since_s is None else round(wall_s - now_s + since_s)
    upstreams, away = {}, dict[str, dict[str, str]]()
    for row in (row for rows in targets_of(state).values() for row in rows if row["state"] != "available"):
        away.setdefault(row["upstream"], {})[row["model"]] = row["state"].replace("_", " ")
    for name, upstream in state.upstreams.items():
        counts, failed = upstream.transport.counts, state.metrics.last_failed(name, now_s)
        upstreams[name] = {
            "name": name,
            "host": upstream.host,
            "dialect": "mcp" if name.startswith(MCP_UPSTREAM) else upstream.dialect_name,
            "credential": upstream.credential or None,
            "in_flight": in_flight[name],
            "silent": silent_of(streams, name),
            "open_connections": counts.busy + counts.idle,
            "health": health_of(state, name, streams),
            "targets_away": away.get(name, {}),
            "last_failed": failed,
            "failing_since": None if failed is None else round(wall_s - failed["for_s"]),
        }
    return {
        "credentials": credentials,
        "upstreams": upstreams,
        "in_flight": state.in_flight.busy,
        "draining": state.in_flight.draining,
        "ready": state.ready,
        "capture": state.capture.state(),
        "store": None if state.store is None else state.store.health.shown(now_s),
        "reload_problems": list(state.reload_problems),
        "ending_keys": [
            {"name": key.name, "expires_at": moment_text(key.expires)}
            for key in state.config.access.keys
            if key.expires is not None and key.state(wall_s) != "valid"
        ],
        "callers": own_callers(state),
        "slices": [msgspec.to_builtins(one) for one in state.traffic.slices(wall_s)],
    }


def overview(parts: Sequence[Mapping[str, Any]], wall_s: float) -> dict[str, Any]:
    totals = merged((msgspec.convert(one, Slice) for part in parts for one in part["slices"]), wall_s)
    by_upstream = [one.by_upstream for one in totals]
    by_code: Counter[str] = Counter()
    by_caller: Counter[str] = Counter()
    for one in totals:
        by_code.update({code: failed for code, (failed,) in one.by_code.items()})
        by_caller.update({name: failed for name, (_, failed, _) in one.by_caller.items() if failed})
    credentials = [_credential(ones) for ones in _grouped(part["credentials"] for part in parts)]
    rejecting = {name for one in credentials for name in one["rejected_by"]}
    upstreams = _grouped(part["upstreams"] for part in parts)
    return {
        "at": round(wall_s, 3),
        "replica": REPLICA,
        "workers": len(parts),
        "credentials": credentials,
        "upstreams": [_upstream(ones, by_upstream, rejecting) for ones in upstreams],
        "in_flight": sum(part["in_flight"] for part in parts),
        "draining": bool(parts) and all(part["draining"] for part in parts),
        "ready": any(part["ready"] for part in parts),
        "series": series(totals, wall_s),
        "errors_15m": (errors := {code: failed for code, failed in by_code.most_common(MOST_CODES) if failed}),
        "meanings": {
            code: " ".join(documented(code)["text"].split()).partition(". ")[0].rstrip(".") for code in errors
        },
        "callers_15m": dict(by_caller.most_common(MOST_CODES)),
        "capture": merged_states(part["capture"] for part in parts),
        # of the process that sees the worst, because one may lose the store alone
        "store": min((part["store"] for part in parts), key=lambda one: not one or one["state"] == "up", default=None),
        "reload_problems": next(filter(None, (part["reload_problems"] for part in parts)), []),
        "ending_keys": parts[0]["ending_keys"] if parts else [],
    }


def _grouped(found: Iterable[Mapping[str, Any]]) -> list[list[Any]]:
    by_name: dict[str, list[Any]] = {}
    for one in found:
        for name, value in one.items():
            by_name.setdefault(name, []).append(value)
    return list(by_name.values())


def _credential(ones: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one credential of several processes: the life of the token that ends first, and the sums of the counts."""
    without = [one for one in ones if one["state"] == "none"]
    limited = [one for one in ones if one["expires_in_s"] is not None]
    shown = without[0] if without else min(limited, key=lambda one: one["expires_in_s"], default=ones[0])
    errors = [one["last_error"] for one in ones if one["last_error"] is not None]
    renewals = sorted((renewal for one in ones for renewal in one["renewals"]), key=lambda one: one["at"])
    return {
        **shown,
        "failing": any(one["failing"] for one in ones),
        "fetches": sum(one["fetches"] for one in ones),
        "failures": sum(one["failures"] for one in ones),
        "renewals": renewals[-MOST_RENEWALS:],
        "rejected_by": {name: age_s for one in ones for name, age_s in one["rejected_by"].items()},
        "last_error": shown["last_error"] or next(iter(errors), None),
        "failing_since": _first(ones),
    }


def _first(ones: Iterable[Mapping[str, Any]]) -> int | None:
    return min((one["failing_since"] for one in ones if one["failing_since"] is not None), default=None)


def _upstream(
    ones: Sequence[Mapping[str, Any]], slices: Sequence[Mapping[str, tuple[int, int]]], rejecting: Collection[str]
) -> dict[str, Any]:
    """Return one upstream of several processes. It is failing by the rule of `Metrics.health`, or if it rejects the
    last connection, or its token while no other request succeeds: a model alone may reject it.
    """
    name = ones[0]["name"]
    counts = [one.get(name, (0, 0)) for one in slices]
    last = next((one for one in reversed(counts) if one[0]), None)
    failing = [one["last_failed"] for one in ones if one["last_failed"] is not None]
    in_a_row = sum(one["in_a_row"] for one in failing)
    is_down = any(one["code"] == UpstreamConnect.code for one in failing)
    all_seen = {one["health"] for one in ones}
    seen = all_seen - {"answering", "unknown"}
    health = "ok" if seen else min(all_seen)
    # another process may have had an answer since
    is_answered = len(ones) > 1 and last is not None and not last[1]
    requests, errors = sum(one[0] for one in counts), sum(one[1] for one in counts)
    is_rejecting = name in rejecting and not (requests > errors and in_a_row < FAILING_IN_A_ROW)
    if is_rejecting or ((is_down or seen == {"failing"} or in_a_row >= FAILING_IN_A_ROW) and not is_answered):
        health = "failing"
    return {
        **ones[0],
        "in_flight": sum(one["in_flight"] for one in ones),
        "silent": {request: silent_s for one in ones for request, silent_s in one["silent"].items()},
        "open_connections": sum(one["open_connections"] for one in ones),
        "health": health,
        "targets_away": {model: state for one in ones for model, state in one["targets_away"].items()},
        "last_failed": min(failing, key=lambda one: one["age_s"], default=None),
        "failing_since": _first(ones),
        "requests_15m": requests,
        "errors_15m": errors,
        "many_errors": has_many_errors(requests, errors),
    }


def own_callers(state: AppState) -> dict[str, list[Any]]:
    """Return the use of each caller in this process: in flight, since its start, and its last one."""
    by_caller, last_used_s = state.metrics.totals().by_caller, state.metrics.last_used_s
    in_flight = state.in_flight.concurrency.by_caller
    started_s = state.clock.wall() - state.clock.now()
    return {
        name: [
            in_flight.get(name, 0),
            *by_caller.get(name, (0, 0, 0)),
            started_s + used_s if (used_s := last_used_s.get(name)) else None,
        ]
        for name in {**in_flight, **by_caller}
        if name not in ("", "none", "other")
    }


def callers(parts: Sequence[Mapping[str, Sequence[Any]]], config: Config) -> dict[str, Any]:
    """Return the use of the callers with the most requests, in all processes, and the number of all callers.

    `local` is the only one without keys.
    """
    known: dict[str, int | None] = {}
    for key in config.access.keys or [LOCAL]:
        known.setdefault(key.name, None if key.limits is None else key.limits.max_concurrent)
    rows = []
    for name, max_concurrent in known.items():
        used = [part[name] for part in parts if name in part]
        in_flight, requests, errors, tokens = (sum(one[place] for one in used) for place in range(4))
        last = max((one[4] for one in used if one[4] is not None), default=None)
        row = {"name": name, "in_flight": in_flight, "max_concurrent": max_concurrent}
        row |= {"requests": requests, "errors": errors, "tokens": tokens}
        rows.append(row | {"last_used": None if last is None else moment(last)})
    return {"callers": sorted(rows, key=lambda row: -row["requests"])[:MOST_SHOWN], "all_callers": len(rows)}


async def nearest_limits(state: AppState) -> list[dict[str, Any]]:
    """Return the limits of use with the smallest part left, of the first MOST_USED."""
    known = [] if state.admission is None else [*islice(state.admission.all_limits(), MOST_USED)]
    await state.windows.refresh(known)
    rows = [row_of(limit, state.clock.now()) for limit in known]
    return nsmallest(MOST_LIMITS, rows, lambda row: float(row["left"] / row["most"]))


def own_use(state: AppState) -> list[dict[str, Any]]:
    """Return the use of the requests in memory by upstream and model: its requests, errors and tokens, the errors by
    code and by caller, the durations of those without an error, when the first, the last and the last good one
    arrived, and those that failed since.

    The upstream of a request that reached none is "".
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    started_s, mask = state.clock.wall() - state.clock.now(), state.redactor.mask
    for one in state.inspector.newest():
        access, at = one.access, started_s + one.arrived_s
        if not access.model:
            continue
        key = (access.upstream or "", access.model)
        row = found.get(key) or found.setdefault(key, _unused(at))
        row["requests"] += 1
        row["first_at"], row["last_at"] = min(row["first_at"], at), max(row["last_at"], at)
        if access.outcome == "ok":
            row["ok_at"] = row["ok_at"] or at
            if one.duration_s is not None:
                row["durations_s"].append(round(one.duration_s, 4))
        if access.outcome == "error":
            row["errors"] += 1
            row["codes"][access.code or ""] += 1
            row["callers"][access.caller] += 1
            if not row["ok_at"]:
                row["failed_at"].append(at)
        if access.usage is not None:
            row["tokens"] += (access.usage.prompt_tokens or 0) + (access.usage.completion_tokens or 0)
    rows = sorted(found.items(), key=lambda pair: -pair[1]["requests"])[:MOST_USED]
    return [
        row
        | {name: {mask(one): n for one, n in row[name].most_common(MOST_CODES)} for name in ("codes", "callers")}
        | {"upstream": upstream, "model": mask(model)}
        for (upstream, model), row in rows
    ]


def _unused(at: float) -> dict[str, Any]:
    counts: dict[str, Any] = dict.fromkeys(("requests", "errors", "tokens", "ok_at"), 0)
    times: dict[str, Any] = {"durations_s": [], "failed_at": [], "first_at": at, "last_at": at}
    return counts | times | {"codes": Counter(), "callers": Counter()}


OWN: Mapping[str, Callable[[AppState], Any]] = {"overview": own_overview, "use": own_use}
"""What one process contributes, by its name."""


def use(parts: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in (row for part in parts for row in part):
        key = one["upstream"], one["model"]
        row = found.setdefault(key, _unused(one["first_at"]) | {"upstream": key[0], "model": key[1]})
        for name in ("requests", "errors", "tokens", "durations_s", "failed_at"):
            row[name] += one[name]
        for name in ("codes", "callers"):
            row[name].update(one[name])
        row["first_at"] = min(row["first_at"], one["first_at"])
        for name in ("last_at", "ok_at"):
            row[name] = max(row[name], one[name])
    for row in found.values():
        row["codes"] = dict(row["codes"].most_common())
    return sorted(found.values(), key=lambda row: -row["requests"])


def routes(config: Config, caller: AccessKey) -> list[dict[str, Any]]:
    """Return the routes of the models that `caller` may use. An empty list of operations means all of them."""
    found = [
        {
            "model": name,
            "operations": [],
            "targets": [{"upstream": one.upstream, "model": one.name} for one in model.ordered_targets()],
            "capabilities": model.capabilities.model_dump(mode="json", exclude_none=True),
        }
        for name, model in config.models.items()
        if may_use(caller, name)
    ]
    of_operations = [(name, route.upstream) for name, route in config.operations.items() if route.upstream is not None]
    if not config.models and len(config.upstreams) == 1:
        found.append(_rest([], next(iter(config.upstreams))))
    return [*found, *(_rest([name], upstream) for name, upstream in of_operations)]


def routed(table: RouteTable, models: Iterable[str]) -> dict[str, list[str]]:
    """Return the upstreams of each model that has a route for all operations."""
    found = {}
    for model in models:
        with suppress(ModelNotFound):
            found[model] = [target.upstream for target in table.resolve("", model)]
    return found


def _rest(operations: Sequence[str], upstream: str) -> dict[str, Any]:
    return {
        "model": "*",
        "operations": list(operations),
        "targets": [{"upstream": upstream, "model": None}],
        "capabilities": {},
    }


def documented(code: str) -> dict[str, Any]:
    """Return what an error code means and what to do, from the documentation of its class."""
    kind = kind_of(code)
    # the docstring is None under `python -OO`
    text, _, action = inspect.cleandoc(kind.__doc__ or "").partition("Action: ")
    # a reply or a page of an upstream has its own status
    status = None if issubclass(kind, UpstreamErrorReply | UpstreamHtml) else kind.status
    return {
        "code": code,
        "kind": kind.code,
        "status": status,
        "text": text.strip(),
        "action": " ".join(action.split()),
        "actions": vars(kind).get("actions", {}),
    }
