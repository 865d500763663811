"""Every reply of gatepass is valid by the types of OpenAI's SDK for Python, strictly, for every upstream of quirks.

`test_clients.py` tests this for every operation of an upstream without quirks. This module uses the upstreams of the
table of quirks, and gatepass's own rejection of a wrong key.
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
from tests.e2e.clients.measurement import ALL_KINDS, FOREIGN, RUNNERS, Client
from tests.e2e.clients.scenario import scenarios
from tests.e2e.quirks.measurement import Calls, gatepass, upstream
from tests.e2e.quirks.row import Failure
from tests.e2e.quirks.rows import ROWS
from tests.e2e.servers import installed

SDKS = {client.title: client for client in measurement.CLIENTS if client.runner == "try_openai.py"}
CALLS: Calls = [(row, mode) for row in ROWS for mode in row.modes]
Validations = list[dict[str, Any]]
"""The output of validate_openai.py, one object for each call."""


def validate(sdk: Client, url: str) -> Validations:
    request_body = [{"model": row.model, "mode": mode, "body": row.request_body(mode)} for row, mode in CALLS]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    own = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "any", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [installed(sdk.folder) / "bin" / "python", RUNNERS / "validate_openai.py"],
        env=plain | own,
        input=json.dumps(request_body).encode(),
        timeout=measurement.CLIENT_S,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    results: Validations = json.loads(done.stdout)
    return results


def invalid(results: Validations) -> list[str]:
    return [
        f"{row.model} {mode}: {fault}"
        for (row, mode), result in zip(CALLS, results, strict=True)
        for fault in dict.fromkeys(result["invalid"])
    ]


@pytest.fixture(scope="module")
def via_gatepass(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Validations]:
    """The validations of each SDK version through one gatepass."""
    folder = tmp_path_factory.mktemp("types")
    with upstream() as upstream_url, gatepass(folder, upstream_url) as url, ThreadPoolExecutor(len(SDKS)) as pool:
        return dict(zip(SDKS, pool.map(lambda sdk: validate(sdk, url), SDKS.values()), strict=True))


@pytest.mark.parametrize("title", SDKS)
def test_every_reply_chunk_and_error_is_valid_for_every_upstream(via_gatepass: Mapping[str, Validations], title: str):
    assert invalid(via_gatepass[title]) == []


@pytest.mark.parametrize("title", SDKS)
def test_every_call_has_a_validated_reply(via_gatepass: Mapping[str, Validations], title: str):
    ends = list(zip(CALLS, via_gatepass[title], strict=True))
    assert [call for call, result in ends if not result["checked"]] == []
    assert [
        result for (row, mode), result in ends if result["error"] and not isinstance(row.expects(mode), Failure)
    ] == []


def test_without_gatepass_a_third_of_the_rows_send_invalid_replies():
    with upstream() as url:
        results = validate(next(iter(SDKS.values())), url)
    rows = {row.model for (row, _), result in zip(CALLS, results, strict=True) if result["invalid"]}
    assert len(rows) > len(ROWS) / 3


def test_a_wrong_key_is_the_same_valid_error_for_every_operation(tmp_path_factory: pytest.TempPathFactory):
    with (
        measurement.upstream() as upstream_url,
        measurement.gatepass(tmp_path_factory.mktemp("key"), upstream_url) as endpoint,
    ):
        results = measurement.run(next(iter(SDKS.values())), endpoint.url, "a wrong key", scenarios(*ALL_KINDS))
    assert [(result["invalid"], result["checked"]) for result in results.values()] == [([], 1)] * len(results)
    assert {(result["error"]["class"], result["error"]["status"]) for result in results.values()} == {
        ("AuthenticationError", 401)
    }
    assert len({result["error"]["message"] for result in results.values()}) == 1
