"""The pods of the Helm chart are replaced, with half of its delays, while their store is lost for a while.

The clients are openai-python and openai-node with kept connections and no retries.
"""

from dataclasses import replace

import pytest

from tests.e2e.servers import installed
from tests.stress.chart_rolls import Times, upgrade
from tests.stress.rolls import Load


@pytest.mark.parametrize("sleeps", [True, False])
async def test_no_request_fails_while_the_pods_of_the_chart_are_replaced(sleeps: bool) -> None:
    times = Times.read()
    times = replace(times, sleep_s=times.sleep_s / 2, delay_s=times.delay_s / 2)
    load = Load(installed("node-client"), concurrency=4, events=20, event_s=0.1)
    done = await upgrade(load, replicas=2, times=times if sleeps else times.without_sleep())
    assert done.faults == []
    assert done.without_store > 0
    assert {result.client for result in done.results} == {"openai-python", "openai-node"}
    assert min(result.requests for result in done.results) > 20
