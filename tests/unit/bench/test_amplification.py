"""Which results of repeats during an outage break the promise."""

from __future__ import annotations

from bench.amplification import MOST, Load, Result, missed, table


def result(received: int, gateway: str = "gatepass", rate: int = 50) -> Result:
    return Result(Load("errors-100", rate), gateway, 500, received, 0)


def test_only_gatepass_at_the_higher_rate_promises_a_ratio() -> None:
    assert missed([result(602), result(900, "LiteLLM"), result(800, rate=5)]) == []
    assert missed([result(603)]) == [f"50/s, 100 % errors: 1.21 > {MOST}"]


def test_the_gateways_stand_side_by_side() -> None:
    rows = list(table([result(600), result(800, rate=5), result(300, "LiteLLM")]))
    assert rows[1:] == [
        ["50/s, 100 % errors", "gatepass", "500", "600", "1.20", "0"],
        ["50/s, 100 % errors", "LiteLLM", "500", "300", "0.60", "0"],
        ["5/s, 100 % errors", "gatepass", "500", "800", "1.60", "0"],
    ]
