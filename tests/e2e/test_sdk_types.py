"""Whatever an upstream does, all that a client is sent is valid by the types of OpenAI's SDK for Python, strictly.

`test_clients.py` holds it over an upstream that does all well, for every operation. Here are the upstreams of the table
of quirks, which lie, refuse and break off; and gatepass's own refusal.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.clients import measurement
from tests.e2e.clients.measurement import EVERYTHING, FOREIGN, RUNNERS, Client
from tests.e2e.clients.scenario import cases
from tests.e2e.quirks.measurement import Calls, gatepass, upstream
from tests.e2e.quirks.row import Failure
from tests.e2e.quirks.rows import ROWS
from tests.e2e.servers import made

SDKS = {client.title: client for client in measurement.CLIENTS if client.runner == "try_openai.py"}
CALLS: Calls = [(row, way) for row in ROWS for way in row.ways]
Held = list[dict[str, Any]]
"""What validate_openai.py prints, call by call."""


def held(sdk: Client, url: str) -> Held:
    asked = [{"model": row.model, "way": way, "body": row.asked(way)} for row, way in CALLS]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    own = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "any", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [made(sdk.made) / "bin" / "python", RUNNERS / "validate_openai.py"],
        env=plain | own,
        input=json.dumps(asked).encode(),
        timeout=measurement.CLIENT_S,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    seen: Held = json.loads(done.stdout)
    return seen


def invalid(seen: Held) -> list[str]:
    return [
        f"{row.model} {way}: {fault}"
        for (row, way), one in zip(CALLS, seen, strict=True)
        for fault in dict.fromkeys(one["invalid"])
    ]


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Held]:
    """Of each version, all over one gatepass."""
    folder = tmp_path_factory.mktemp("types")
    with upstream() as behind, gatepass(folder, behind) as url, ThreadPoolExecutor(len(SDKS)) as pool:
        return dict(zip(SDKS, pool.map(lambda sdk: held(sdk, url), SDKS.values()), strict=True))


@pytest.mark.parametrize("title", SDKS)
def test_every_answer_chunk_and_error_is_valid_whatever_the_upstream_does(through: Mapping[str, Held], title: str):
    assert invalid(through[title]) == []


@pytest.mark.parametrize("title", SDKS)
def test_every_call_ended_in_something_that_was_held(through: Mapping[str, Held], title: str):
    ends = list(zip(CALLS, through[title], strict=True))
    assert [call for call, one in ends if not one["checked"]] == []
    assert [one for (row, way), one in ends if one["error"] and not isinstance(row.expects(way), Failure)] == []


def test_straight_a_third_of_the_rows_send_what_is_not_valid():
    with upstream() as url:
        seen = held(next(iter(SDKS.values())), url)
    rows = {row.model for (row, _), one in zip(CALLS, seen, strict=True) if one["invalid"]}
    assert len(rows) > len(ROWS) / 3


def test_a_wrong_key_is_the_same_valid_error_for_every_operation(tmp_path_factory: pytest.TempPathFactory):
    with measurement.upstream() as behind, measurement.gatepass(tmp_path_factory.mktemp("key"), behind) as entrance:
        seen = measurement.run(next(iter(SDKS.values())), entrance.url, "a wrong key", cases(*EVERYTHING))
    assert [(one["invalid"], one["checked"]) for one in seen.values()] == [([], 1)] * len(seen)
    assert {(one["error"]["class"], one["error"]["status"]) for one in seen.values()} == {("AuthenticationError", 401)}
    assert len({one["error"]["message"] for one in seen.values()}) == 1
