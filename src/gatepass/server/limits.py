"""The use of each limit, as an operator sees it."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

from gatepass.policy.windows import Limit
from gatepass.proxy.app_state import AppState

AT_ONCE = 200
"""Limits that are read without a pause: there may be thousands of callers."""


def row_of(limit: Limit, now_s: float) -> dict[str, Any]:
    used = limit.used(now_s) + limit.others
    left = max(0, limit.most - used)
    return {"of": "/".join(limit.owner), "limit": limit.setting, "most": limit.most, "used": used, "left": left}


async def limits_of(state: AppState) -> list[dict[str, Any]]:
    """Return each limit with its use and the rest."""
    rows: list[dict[str, Any]] = []
    known = iter(() if state.admission is None else state.admission.all_limits())
    while limits := [*islice(known, AT_ONCE)]:
        await state.windows.refresh(limits)
        rows += [row_of(limit, state.clock.now()) for limit in limits]
        await asyncio.sleep(0)
    return rows
