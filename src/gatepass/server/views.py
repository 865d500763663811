"""What the page at /ui shows, as JSON."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from gatepass import documents
from gatepass.auth.authenticator import LOCAL
from gatepass.auth.caller import Caller
from gatepass.auth.model_access import may_use
from gatepass.config.advice import explained
from gatepass.config.model import Config
from gatepass.documents import Callers, ErrorCount, Traffic
from gatepass.errors import ModelNotFound, UpstreamErrorReply, UpstreamHtml, explanations, kind_of, status_of
from gatepass.observability.metrics import NO_CALLER_ROW
from gatepass.observability.story import is_failure, moment
from gatepass.observability.traffic import placed, series
from gatepass.proxy.app_state import AppState
from gatepass.proxy.models import AT_ONCE
from gatepass.proxy.routing import RouteTable

MOST_CODES = 20
MOST_USED = 500
MOST_SHOWN = 100


def traffic(state: AppState) -> Traffic:
    wall_s = state.clock.wall()
    total = state.traffic.total(wall_s)
    by_caller = Counter({name: failed for name, (_, failed, _) in total.by_caller.items() if failed})
    by_code = Counter({shown: failed for shown, (failed,) in total.by_code.items() if failed})
    shown = series(placed(state.traffic.slices(wall_s), wall_s), wall_s)
    return Traffic(shown, _counted(by_code), dict(by_caller.most_common(MOST_CODES)))


def callers(state: AppState) -> Callers:
    """Return the use of the callers with the most requests, those of a row together; without keys `local` alone."""
    by_caller, last_used_s = state.metrics.totals().by_caller, state.metrics.last_used_s
    in_flight = Counter(one.response.context.access.caller for one in state.in_flight.requests)
    started_s = state.clock.wall() - state.clock.now()
    rows = list[documents.Caller]()
    for name, caller in {caller.name: caller for caller in state.authenticator.configured or [LOCAL]}.items():
        max_concurrent = None if caller.limits is None or caller.is_of_row else caller.limits.max_concurrent
        requests, errors, tokens = by_caller.get(name, (0, 0, 0))
        used_s, now = last_used_s.get(name), in_flight[name]
        last_used = moment(started_s + used_s) if used_s else None
        rows.append(documents.Caller(name, now, max_concurrent, requests, errors, tokens, last_used))
    return Callers(sorted(rows, key=lambda row: -row.requests)[:MOST_SHOWN], len(rows))


def use(state: AppState) -> list[dict[str, Any]]:
    """Return the use of the requests in memory by upstream and model: its requests, errors and tokens, the errors by
    code and kind and by caller, the durations of those without an error, when the first, the last and the last good one
    arrived, and those that failed at their upstream since. `unknown`: each ended with a 404.

    The upstream of a request that reached none is "".
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    started_s, mask = state.clock.wall() - state.clock.now(), state.redactor.mask
    for one in state.inspector.newest():
        access, at = one.access, started_s + one.arrived_s
        is_unknown = access.status == HTTPStatus.NOT_FOUND
        if not access.model:
            continue
        key = (access.upstream or "", access.model)
        if (row := found.get(key)) is None:
            row = found[key] = dict.fromkeys(("requests", "errors", "tokens", "ok_at"), 0)
            row |= {"durations_s": [], "failed_at": [], "first_at": at, "codes": Counter(), "callers": Counter()}
            row["unknown"] = True
        row["requests"] += 1
        row["unknown"] &= is_unknown
        row["first_at"], row["last_at"] = min(row["first_at"], at), max(row.get("last_at", at), at)
        if access.outcome == "ok":
            row["ok_at"] = row["ok_at"] or at
            if one.duration_s is not None:
                row["durations_s"].append(round(one.duration_s, 4))
        if access.outcome == "error":
            row["errors"] += 1
            row["codes"][mask(access.code or ""), one.kind] += 1
            row["callers"][access.caller or NO_CALLER_ROW * (access.code == NO_CALLER_ROW)] += 1
            # an error of the client, or a limit here or at the upstream, says nothing of the model
            is_elsewhere = (access.hop or "").startswith(("upstream:", "credential:"))
            if not row["ok_at"] and is_elsewhere and (is_unknown or is_failure(one.kind, access.status, one.case)):
                row["failed_at"].append(at)
        if access.usage is not None:
            row["tokens"] += (access.usage.prompt_tokens or 0) + (access.usage.completion_tokens or 0)
    rows = sorted(found.items(), key=lambda pair: -pair[1]["requests"])[:MOST_USED]
    return [
        row
        | {"codes": _counted(row["codes"])}
        | {"callers": {mask(one): n for one, n in row["callers"].most_common(MOST_CODES)}}
        | {"upstream": upstream, "model": mask(model)}
        for (upstream, model), row in rows
    ]


def _counted(by_code: Counter[tuple[str, str]]) -> list[ErrorCount]:
    return [ErrorCount(*shown, count) for shown, count in by_code.most_common(MOST_CODES)]


def routes(config: Config, caller: Caller) -> list[dict[str, Any]]:
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
            found[model] = [target.upstream for target in table.route("", model).targets]
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
    name = code if code in known else kind.code
    own, texts = known[name], explained(name, {})
    # a reply or a page of an upstream has its own status
    status = None if issubclass(kind, UpstreamErrorReply | UpstreamHtml) else status_of(code)
    return {
        "code": code,
        "kind": name,
        "status": status,
        "text": f"{texts['sentence']}\n\n{own.more}".strip(),
        "text_zh": f"{texts['sentence_zh']}{own.more_zh}",
        "action": texts["action"],
        "action_zh": texts["action_zh"],
        "cases": [explained(case, {}) for case, entry in known.items() if entry.of == code],
    }
