"""The table of `make attacks` reports what its tests found."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attacks import generated
from tests.attacks.conftest import Attack


@pytest.mark.attack("(this table's own test)")
@generated
@given(st.binary(max_size=8))
def test_each_generated_case_counts(attack: Attack, case: bytes) -> None:
    attack.cases += 1
    with attack.on_loop(), attack.memory(allowed_bytes=1 << 20):
        held = case * 1000
    attack.check(len(held) == len(case) * 1000, case)


def test_what_got_through_is_recorded_and_fails() -> None:
    row = Attack("planted")
    with pytest.raises(AssertionError, match="got through: 'bad'"):
        row.check(False, "bad")
    assert row.got_through == ["bad"]


def test_memory_above_the_formula_fails() -> None:
    row = Attack("planted")
    with pytest.raises(AssertionError, match="by the formula"), row.memory(allowed_bytes=1000):
        held = bytes(5000)
    assert len(held) == 5000
    assert row.peak_bytes > 5000


async def test_the_loop_is_watched() -> None:
    row = Attack("planted")
    async with row.on_this_loop():
        await asyncio.sleep(0)
        sum(range(1_000_000))
        await asyncio.sleep(0)
    assert row.loop_s > 0.001
