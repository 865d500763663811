"""What operators see of requests (lists of summaries, the story of one, captures), and the use of each limit."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Mapping
from heapq import nsmallest
from itertools import islice

from gatepass.auth.authenticator import LOCAL
from gatepass.config.wording import did_you_mean
from gatepass.documents import CaptureState, Limit, Limits, Requests, Story
from gatepass.errors import InvalidRequest
from gatepass.observability.capture import CapturedRequest, CaptureSettings
from gatepass.observability.observer import RequestRecord
from gatepass.observability.story import LISTED, MOST_LISTED, has_id, matches, story_of, summary_of
from gatepass.proxy.app_state import AppState
from gatepass.server.cycle import ids_begin

REPLICA = socket.gethostname()
"""The name of this host. In Kubernetes it is that of the pod."""

AT_ONCE = 50
"""How many requests are rendered before others are served: 2 ms."""
LIMITS_AT_ONCE = 200
"""Limits that are read without a pause: there may be thousands of callers."""
MOST_LIMITS = 600
"""Limits of which the nearest ones are chosen: the page asks every two seconds."""


async def requests_listing(state: AppState, filters: Mapping[str, str]) -> Requests:
    """Return the summaries of requests, those that ended last first. Other requests are served between them."""
    fields = {name: value for name, value in filters.items() if value}
    now_s, wall_s = state.clock.now(), state.clock.wall()
    limit = min(_number(fields, "limit", LISTED), MOST_LISTED)
    after = _number(fields, "ended_after", 0.0)
    # before they are rendered: a page that follows the list asks twice a second. A summary rounds its end
    least_s = after - 1e-5
    newer = [one for one in state.inspector.newest() if one.arrived_s + (one.duration_s or 0.0) >= least_s]
    found = Requests(ids_begin=ids_begin(REPLICA), now=now_s, requests=[], running=[])
    for number, one in enumerate((*running(state), *newer)):
        if number % AT_ONCE == AT_ONCE - 1:
            await asyncio.sleep(0)
        listed = found.running if one.duration_s is None else found.requests
        if len(listed) < limit:
            is_captured = state.capture.of(one.access) is not None
            summary = summary_of(one, now_s, wall_s, state.redactor.mask, captured=is_captured)
            if (summary.ended is None or summary.ended >= after) and matches(summary, fields):
                listed.append(summary)
    return found


def told(wanted: str, state: AppState) -> list[tuple[Story, CapturedRequest | None]]:
    now_s, wall_s = state.clock.now(), state.clock.wall()
    found = [one for one in (*running(state), *state.inspector.newest()) if has_id(one, wanted)]
    known = [one.access for one in found]
    # the inspector may have evicted a captured request
    found += [one for one in state.capture.ended() if has_id(one, wanted) and one.access not in known]
    found = found[:AT_ONCE]  # clients may use one id for all of their requests
    captured = [state.capture.of(one.access) for one in found]
    mask = state.redactor.mask
    return [
        (story_of(one, now_s, wall_s, mask, REPLICA, captured=bodies is not None), bodies)
        for one, bodies in zip(found, captured, strict=True)
    ]


async def stories(state: AppState, wanted: str, *, bodies: bool) -> list[Story]:
    """Return the stories of the requests with the id `wanted`, the newest first.

    With `bodies` the newest has its captured ones.
    """
    made = sorted(told(wanted, state), key=lambda one: one[0].arrived_at, reverse=True)
    if bodies and made and (captured := made[0][1]) is not None:
        made[0][0].bodies = await captured.bodies(state.redactor)
    return [story for story, _ in made]


def running(state: AppState) -> Iterator[RequestRecord]:
    requests = [one.response.context.inspected() for one in state.in_flight.requests]
    yield from sorted(requests, key=lambda one: -one.arrived_s)


def _number(fields: Mapping[str, str], name: str, default: float) -> float:
    try:
        return max(0.0, float(fields[name]))
    except (KeyError, ValueError):
        return default


def start_capture(state: AppState, settings: CaptureSettings) -> CaptureState:
    """Start the capture, and return its state.

    Raises Overloaded, and InvalidRequest for a caller that the configuration does not name. The operator is the caller
    `local`.
    """
    names = sorted({LOCAL.name, *(caller.name for caller in state.authenticator.configured)})
    if settings.caller is not None and settings.caller not in names:
        hint = did_you_mean(settings.caller, names)
        raise InvalidRequest(f"The caller {settings.caller[:100]!r} is not known{hint}", param="caller")
    state.capture.start(settings)
    return state.capture.state()


async def limits_of(state: AppState, nearest: int | None = None) -> Limits:
    """Return each limit, or of the first MOST_LIMITS the `nearest`: those with the smallest part left."""
    rows: list[Limit] = []
    known = iter(() if state.admission is None else state.admission.all_limits())
    while limits := [*islice(known, LIMITS_AT_ONCE)]:
        await state.counts.refresh(limits)
        for limit in limits:
            used = limit.all_used(state.clock.now())
            rows.append(Limit("/".join(limit.subject), limit.setting, limit.most, used, max(0, limit.most - used)))
        if nearest is not None and len(rows) >= MOST_LIMITS:
            break
        await asyncio.sleep(0)
    return Limits(rows if nearest is None else nsmallest(nearest, rows, lambda row: row.left / row.most))
