"""From the text of a client's error to its cause with `gatepass show ID`: the staged faults, each at its hop."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio
from click.testing import CliRunner

from gatepass.cli import main
from gatepass.cli.control import request
from tests.integration.staged_faults import STAGED, Fault, Staged, id_in, staged
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Staged]:
    async with staged(tmp_path_factory.mktemp("faults")) as gp:
        yield gp


def shown(socket: str, wanted: str) -> str:
    result = CliRunner().invoke(main, ["show", wanted, "--socket", socket], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("fault", STAGED, ids=lambda fault: fault.model)
async def test_the_text_of_an_error_leads_to_its_hop(running: Staged, fault: Fault):
    held = await running.hold() if fault.model == "limit" else None
    if held is not None:
        await until(lambda: json.loads(request("GET", "/requests", running.socket))["running"] != [])
    try:
        text = await running.ask(fault)
    finally:
        if held is not None:
            held.cancel()
            with suppress(asyncio.CancelledError):
                await held
    wanted = id_in(text)
    await until(lambda: any(one["state"] == "ended" for one in stories(running.socket, wanted)))
    (story,) = stories(running.socket, wanted)
    told = shown(running.socket, wanted)
    error = story["error"] or {"hop": None, "code": None}
    assert (error["hop"], error["code"]) == (fault.hop, fault.code), told
    if fault.hop is not None:
        (failed,) = [line for line in told.splitlines() if "failed here" in line]
        assert fault.hop in failed
    else:
        assert "failed here" not in told.partition("\n\n")[0]
    assert fault.says in told, told


def stories(socket: str, wanted: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(request("GET", f"/requests/{wanted}", socket))["stories"]
    return found
