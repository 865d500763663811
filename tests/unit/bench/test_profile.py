"""The profile gives each sample to the innermost stage that its stack knows."""

from __future__ import annotations

from collections import Counter

import pytest
from bench.profile import LOOP, UNKNOWN, divided, read_stacks, stage_of

ROOT = "run (uvicorn/server.py:60)"
HANDLE = "handle (/x/src/gatepass/proxy/handler.py:50)"
WRITE = "write (/x/src/gatepass/server/cycle.py:40)"
ASK = "ask (/x/src/gatepass/http_client/connection.py:90)"
ENCODE = "encode (/x/lib/python3.11/json/encoder.py:9)"
LOG = "emit (/x/src/gatepass/observability/log.py:60)"


@pytest.mark.parametrize(
    ("frames", "stage"),
    [
        ((HANDLE, WRITE), "client's connection"),
        ((HANDLE, ASK), "upstream's connection"),
        ((HANDLE, LOG, ENCODE), "log line"),
        ((HANDLE,), "request path"),
        ((), LOOP),
        ((ENCODE,), UNKNOWN),
    ],
)
def test_innermost_known_frame_names_the_stage(frames: tuple[str, ...], stage: str) -> None:
    assert stage_of(frames) == stage


def test_common_beginning_of_all_stacks_is_left_out() -> None:
    assert read_stacks(f"{ROOT};{HANDLE} 3\n{ROOT} 2\n") == Counter({(HANDLE,): 3, (): 2})


def test_cost_is_divided_by_the_shares_of_the_samples() -> None:
    part = divided("a chat", 100.0, 0.5, Counter({(HANDLE, LOG): 3, (HANDLE,): 1}))
    assert part.stages == [("log line", 75.0), ("request path", 25.0)]
    assert part.own == [("gatepass/observability/log.py emit", 75.0), ("gatepass/proxy/handler.py handle", 25.0)]
    assert part.inclusive[0] == ("gatepass/proxy/handler.py handle", 100.0)
    assert part.samples == 4
