"""Restarts and replaced workers under clients that keep connections; `make rolls` is the long run of this."""

from __future__ import annotations

from tests.stress.rolls import Load, Result, replaced_workers, rolling_restart

LOAD = Load(concurrency=4)


def none_failed(results: list[Result]) -> bool:
    (result,) = results
    assert result.failures == []
    return result.requests > 20


async def test_a_rolling_restart_fails_no_request():
    assert none_failed(await rolling_restart(LOAD, replicas=2, drain_delay_s=0.5))


async def test_replaced_workers_fail_no_request():
    assert none_failed(await replaced_workers(LOAD, count=2))
