"""What the page at /ui shows, as JSON."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from heapq import nsmallest
from itertools import islice
from typing import Any

from gatepass.auth.authenticator import LOCAL
from gatepass.auth.model_access import may_use
from gatepass.config.access import AccessKey, moment_text
from gatepass.config.model import Config
from gatepass.errors import (
    ModelNotFound,
    UpstreamConnect,
    UpstreamErrorReply,
    UpstreamHtml,
    explanations,
    kind_of,
    status_of,
)
from gatepass.observability.metrics import FAILING_IN_A_ROW, has_many_errors
from gatepass.observability.story import moment
from gatepass.observability.traffic import placed, series
from gatepass.proxy.app_state import AppState
from gatepass.proxy.models import AT_ONCE
from gatepass.proxy.routing import RouteTable
from gatepass.server.inspection import row_of
from gatepass.server.pages import credentials_of, health_of, process_of, silent_of, streams_of, targets_of
from gatepass.types import MCP_UPSTREAM

MOST_RENEWALS = 20
MOST_CODES = 20
MOST_USED = 500
MOST_SHOWN = 100
MOST_LIMITS = 20


def overview(state: AppState) -> dict[str, Any]:
    now_s, wall_s = state.clock.now(), state.clock.wall()
    totals = placed(state.traffic.slices(wall_s), wall_s)
    by_code: Counter[str] = Counter()
    by_caller: Counter[str] = Counter()
    for one in totals:
        by_code.update({code: failed for code, (failed,) in one.by_code.items()})
        by_caller.update({name: failed for name, (_, failed, _) in one.by_caller.items() if failed})
    credentials = _credentials(state, wall_s - now_s)
    return {
        "at": round(wall_s, 3),
        **process_of(state),
        "credentials": credentials,
        "upstreams": _upstreams(state, [one.by_upstream for one in totals]),
        "series": series(totals, wall_s),
        "errors_15m": (errors := {code: failed for code, failed in by_code.most_common(MOST_CODES) if failed}),
        "meanings": {code: meaning(code) for code in errors},
        "callers_15m": dict(by_caller.most_common(MOST_CODES)),
        "capture": state.capture.state(),
        "ending_keys": [
            {"name": key.name, "expires_at": moment_text(key.expires)}
            for key in state.config.access.keys
            if key.expires is not None and key.state(wall_s) != "valid"
        ],
    }


def _credentials(state: AppState, started_s: float) -> list[dict[str, Any]]:
    """Return each credential with the life and the renewals of its token. `started_s` is when the clock began."""
    credentials = credentials_of(state)
    for name, one in credentials.items():
        age_s, left_s = one["age_s"], one["expires_in_s"]
        lasts_s = None if left_s is None or age_s is None else round(age_s + left_s, 3)
        renewals = [
            {"at": round(started_s + renewal.ended_s, 3), "ok": renewal.reason is None, "reason": renewal.reason}
            for renewal in state.holders[name].renewals()
        ]
        since_s = state.holders[name].failing_since_s
        one |= {"name": name, "lifetime_s": lasts_s, "refresh_in_s": one["next_try_in_s"]}
        one |= {"renewals": renewals[-MOST_RENEWALS:]}
        one["failing_since"] = None if since_s is None else round(started_s + since_s)
    return list(credentials.values())


def _upstreams(state: AppState, slices: Sequence[Mapping[str, tuple[int, int]]]) -> list[dict[str, Any]]:
    now_s, wall_s, streams = state.clock.now(), state.clock.wall(), streams_of(state)
    in_flight = Counter(request.response.context.metrics_key()[2] for request in state.in_flight.requests)
    away, found = dict[str, dict[str, str]](), []
    for row in (row for rows in targets_of(state).values() for row in rows if row["state"] != "available"):
        away.setdefault(row["upstream"], {})[row["model"]] = row["state"].replace("_", " ")
    for name, upstream in state.upstreams.items():
        connections, failed = upstream.transport.counts, state.metrics.last_failed(name, now_s)
        counts = [one.get(name, (0, 0)) for one in slices]
        requests, errors = sum(one[0] for one in counts), sum(one[1] for one in counts)
        health = upstream_health(
            health_of(state, name, streams),
            failed,
            is_rejecting=name in state.rejection_ages_s(),
            has_succeeded=requests > errors,
        )
        found.append(
            {
                "name": name,
                "host": upstream.host,
                "dialect": "mcp" if name.startswith(MCP_UPSTREAM) else upstream.dialect_name,
                "credential": upstream.credential or None,
                "in_flight": in_flight[name],
                "silent": silent_of(streams, name),
                "open_connections": connections.busy + connections.idle,
                "health": health,
                "targets_away": away.get(name, {}),
                "last_failed": failed,
                "failing_since": None if failed is None else round(wall_s - failed["for_s"]),
                "requests_15m": requests,
                "errors_15m": errors,
                "many_errors": has_many_errors(requests, errors),
            }
        )
    return found


def upstream_health(health: str, failed: Mapping[str, Any] | None, *, is_rejecting: bool, has_succeeded: bool) -> str:
    """Return the health of an upstream by that of `health_of` and `Metrics.last_failed`.

    It is also failing if it rejects the last connection, or its token while no other request succeeds: a model alone
    may reject it.
    """
    in_a_row = 0 if failed is None else failed["in_a_row"]
    is_down = failed is not None and failed["code"] == UpstreamConnect.code
    is_without = is_rejecting and not (has_succeeded and in_a_row < FAILING_IN_A_ROW)
    return "failing" if is_without or is_down or in_a_row >= FAILING_IN_A_ROW else health


def callers(state: AppState) -> dict[str, Any]:
    """Return the use of the callers with the most requests, and the number of all callers.

    `local` is the only one without keys.
    """
    by_caller, last_used_s = state.metrics.totals().by_caller, state.metrics.last_used_s
    in_flight, started_s = state.in_flight.concurrency.by_caller, state.clock.wall() - state.clock.now()
    known: dict[str, int | None] = {}
    for key in state.config.access.keys or [LOCAL]:
        known.setdefault(key.name, None if key.limits is None else key.limits.max_concurrent)
    rows = list[dict[str, Any]]()
    for name, max_concurrent in known.items():
        requests, errors, tokens = by_caller.get(name, (0, 0, 0))
        row = {"name": name, "in_flight": in_flight.get(name, 0), "max_concurrent": max_concurrent}
        row |= {"requests": requests, "errors": errors, "tokens": tokens}
        used_s = last_used_s.get(name)
        rows.append(row | {"last_used": moment(started_s + used_s) if used_s else None})
    return {"callers": sorted(rows, key=lambda row: -row["requests"])[:MOST_SHOWN], "all_callers": len(rows)}


async def nearest_limits(state: AppState) -> list[dict[str, Any]]:
    """Return the limits of use with the smallest part left, of the first MOST_USED."""
    known = [] if state.admission is None else [*islice(state.admission.all_limits(), MOST_USED)]
    await state.counts.refresh(known)
    rows = [row_of(limit, state.clock.now()) for limit in known]
    return nsmallest(MOST_LIMITS, rows, lambda row: float(row["left"] / row["most"]))


def use(state: AppState) -> list[dict[str, Any]]:
    """Return the use of the requests in memory by upstream and model: its requests, errors and tokens, the errors by
    code and by caller, the durations of those without an error, when the first, the last and the last good one
    arrived, and those that failed at their upstream since.

    The upstream of a request that reached none is "".
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    started_s, mask = state.clock.wall() - state.clock.now(), state.redactor.mask
    for one in state.inspector.newest():
        access, at = one.access, started_s + one.arrived_s
        if not access.model:
            continue
        key = (access.upstream or "", access.model)
        if (row := found.get(key)) is None:
            row = found[key] = dict.fromkeys(("requests", "errors", "tokens", "ok_at"), 0)
            row |= {"durations_s": [], "failed_at": [], "first_at": at, "codes": Counter(), "callers": Counter()}
        row["requests"] += 1
        row["first_at"], row["last_at"] = min(row["first_at"], at), max(row.get("last_at", at), at)
        if access.outcome == "ok":
            row["ok_at"] = row["ok_at"] or at
            if one.duration_s is not None:
                row["durations_s"].append(round(one.duration_s, 4))
        if access.outcome == "error":
            row["errors"] += 1
            row["codes"][access.code or ""] += 1
            row["callers"][access.caller] += 1
            # an error of the client, or a limit of gatepass, says nothing of the model
            if not row["ok_at"] and (access.hop or "").startswith(("upstream:", "credential:")):
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


async def routed(table: RouteTable, models: Iterable[str]) -> dict[str, list[str]]:
    """Return the upstreams of each model that has a route for all operations."""
    found = {}
    for number, model in enumerate(models):
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
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
    """Return what an error code means and what to do in both languages, with the cases that have another action."""
    kind, known = kind_of(code), explanations()
    own = known[code if code in known else kind.code]
    # a reply or a page of an upstream has its own status
    status = None if issubclass(kind, UpstreamErrorReply | UpstreamHtml) else status_of(code)
    return {
        "code": code,
        "kind": code if code in known else kind.code,
        "status": status,
        "text": f"{own.en.sentence}\n\n{own.en.more}".strip(),
        "text_zh": f"{own.zh.sentence}{own.zh.more}",
        "action": own.en.action,
        "action_zh": own.zh.action,
        "cases": [
            {
                "sentence": entry.en.sentence,
                "sentence_zh": entry.zh.sentence,
                "action": entry.en.action,
                "action_zh": entry.zh.action,
            }
            for entry in known.values()
            if entry.of == code
        ],
    }


def meaning(code: str) -> dict[str, str]:
    """Return the first sentence of what an error code means in both languages."""
    shown = documented(code)
    return {
        "text": shown["text"].split("\n")[0].partition(". ")[0].rstrip("."),
        "text_zh": shown["text_zh"].partition("。")[0],
    }
