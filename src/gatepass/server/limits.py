"""The use of each limit, as an operator sees and resets it. The workers of a machine share their records."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

from gatepass.errors import InvalidRequest
from gatepass.policy.windows import Limit
from gatepass.proxy.app_state import AppState

AT_ONCE = 200
"""Limits that are read without a pause: there may be thousands of callers."""


def row_of(limit: Limit, now_s: float) -> dict[str, Any]:
    used = limit.used(now_s) + limit.others
    left, mode = max(0, limit.most - used), "observe" if limit.observes else "enforce"
    return {
        "of": "/".join(limit.owner),
        "limit": limit.setting,
        "most": limit.most,
        "used": used,
        "left": left,
        "mode": mode,
    }


async def limits_of(state: AppState, reset: str | None = None) -> list[dict[str, Any]]:
    """Return each limit with its use and the rest. First reset the limits of the subject `reset`, such as `caller/ana`.

    Raises InvalidRequest if `reset` has no limits.
    """
    rows: list[dict[str, Any]] = []
    known = iter(() if state.admission is None else state.admission.all_limits())
    while limits := [*islice(known, AT_ONCE)]:
        limits = [limit for limit in limits if reset is None or "/".join(limit.owner) == reset]
        if reset is not None:
            for limit in limits:
                state.windows.reset(limit, state.clock.now())
        await state.windows.refresh(limits)
        rows += [row_of(limit, state.clock.now()) for limit in limits]
        await asyncio.sleep(0)
    if reset is not None and not rows:
        raise InvalidRequest(
            f"{reset[:100]!r} has no limits: name one as `gatepass limits` lists it, such as caller/NAME."
        )
    return rows
