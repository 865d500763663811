"""Restarts and replaced workers under openai-python and openai-node with kept connections and no retries."""

from collections.abc import Coroutine
from pathlib import Path

import pytest

from tests.stress.rolls import Load, Result, replaced_workers, rolling_restart

LOAD = Load(node=Path(__file__).parents[2] / ".e2e" / "node-client", concurrency=4)


@pytest.mark.parametrize("scenario", ["restart", "renewal"])
async def test_no_request_fails(scenario: str) -> None:
    running: Coroutine[None, None, list[Result]] = (
        rolling_restart(LOAD, replicas=2, drain_delay_s=0.5)
        if scenario == "restart"
        else replaced_workers(LOAD, count=2)
    )
    results = await running
    assert {result.client for result in results} == {"openai-python", "openai-node"}
    assert [failure for result in results for failure in result.failures] == []
    assert min(result.requests for result in results) > 20
