"""Old and new code, run by run: the definition of "worse"."""

from dataclasses import replace
from pathlib import Path

import pytest
from bench.comparison import NEW, OLD, Compared, checkout, compared, failures, table
from bench.environments import SetupFailed
from bench.footprint import Footprint
from bench.sample import Sample
from bench.series import Outcome
from bench.workloads import named

SAMPLE = Sample(2000.0, 0.0, 1.0, 900.0, 1900.0, -1.0, -1.0, -1.0, 80.0, 0.5, 0.4, 50.0, 0)
CHAT = named(("chat-64",))
STEADY = (100.0,) * 5


def outcomes(*cpu_us: float, errors: float = 0) -> dict[str, Outcome]:
    """Five runs of the old code at 80 µs, and one run of the new for each of `cpu_us`."""
    old = Outcome("old", footprints=[Footprint(0.5, 50.0)] * 5, runs={"chat-64": [SAMPLE] * 5})
    samples = [replace(SAMPLE, cpu_us=value, errors=errors) for value in cpu_us]
    return {OLD: old, NEW: Outcome("new", footprints=[Footprint(0.5, 50.0)], runs={"chat-64": samples})}


@pytest.mark.parametrize(
    ("figure", "new", "is_worse"),
    [
        ("cpu_us", 104.9, False),
        ("cpu_us", 105.1, True),
        ("requests_s", 95.1, False),
        ("requests_s", 94.9, True),
    ],
)
def test_a_median_is_worse_beyond_five_per_cent(figure: str, new: float, is_worse: bool) -> None:
    assert Compared("chat-64", figure, STEADY, (new,) * 5).is_worse is is_worse


def test_regression_is_named_with_its_change_and_the_allowed_one() -> None:
    found = outcomes(100.0, 100.0, 100.0)
    assert failures(found, compared(found, CHAT), CHAT) == [
        "chat-64 cpu_us: +25.0% where 5% and a spread of 0.0% are allowed",
    ]


def test_the_table_shows_medians_change_spread_and_the_peers() -> None:
    found = outcomes(100.0, 100.0, 100.0)
    found["gatepass-uvicorn"] = Outcome("a peer", runs={"chat-64": [replace(SAMPLE, cpu_us=300.0)]})
    lines = table(found, compared(found, CHAT))
    assert lines[0].split() == ["work", "figure", "old", "new", "worse", "by", "spread", "gatepass-uvicorn"]
    assert lines[1].split() == ["chat-64", "cpu_us", "80", "100", "+25.0%", "0.0%", "worse", "300"]
    assert any(line.split()[:4] == ["fresh", "process", "ready_s", "0.5"] for line in lines)


def test_a_checkout_is_a_folder_of_gatepass_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "src" / "gatepass").mkdir(parents=True)
    assert checkout(str(tmp_path)) == tmp_path
    with pytest.raises(SetupFailed, match="neither a checkout of gatepass nor a revision"):
        checkout("no-such-revision")
