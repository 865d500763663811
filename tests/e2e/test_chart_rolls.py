"""The pods of the Helm chart are replaced, with half of its delays, while their store is lost for a while."""

from dataclasses import replace

from tests.stress.chart_rolls import Times, upgrade
from tests.stress.rolls import Load


async def test_no_request_fails_while_the_pods_of_the_chart_are_replaced() -> None:
    times = Times.read()
    times = replace(times, sleep_s=times.sleep_s / 2, delay_s=times.delay_s / 2)
    done = await upgrade(Load(concurrency=8, events=20, event_s=0.1), replicas=2, times=times)
    assert done.faults == []
    assert done.without_store > 0
