"""Restarts under openai-python and openai-node with kept connections and no retries."""

from pathlib import Path

from tests.stress.rolls import Load, rolling_restart

LOAD = Load(node=Path(__file__).parents[2] / ".e2e" / "node-client", concurrency=4)


async def test_no_request_fails() -> None:
    results = await rolling_restart(LOAD, replicas=2, drain_delay_s=0.5)
    assert {result.client for result in results} == {"openai-python", "openai-node"}
    assert [failure for result in results for failure in result.failures] == []
    assert min(result.requests for result in results) > 20
