"""A real Valkey or Redis server, and gatepass processes that are killed and started again.

STORE_SOAK_S=60 .venv/bin/pytest -s tests/e2e/test_valkey.py prints the figures of a minute.
"""

import asyncio
import itertools
import os
import re
import time
from collections.abc import Iterator

import pytest

from gatepass.clock import SystemClock
from gatepass.config.model import StoreSettings
from gatepass.store.guarded import GuardedStore
from tests.e2e.servers import CLIENT_SECRET, HERE
from tests.e2e.store.fleet import Clients, Fleet
from tests.e2e.store.server import StoreServer
from tests.e2e.store.token_setup import LIFE_S, running_setup
from tests.unit.http_client.loop import one_iteration
from tests.unit.store.contract import Shared, StoreContract, opened_store
from tests.waiting import block_until

SOAK_S = float(os.environ.get("STORE_SOAK_S", "12"))
KILL_EVERY_S = 3.0
"""Pause between two kills. It is not a multiple of the token lifetime."""
KILLED_IN_FETCH = 3
"""Every third token call, its process is killed."""
ITERATIONS = 12
"""Loop iterations before a cancellation. A store request takes fewer."""
LEAST_GAP_S = 0.6 * LIFE_S
"""The least mean time between two token calls. Load delays single ones, by less than half of it."""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[StoreServer]:
    with StoreServer(tmp_path_factory.mktemp("store")) as server:
        yield server


def kill_in_turn(fleet: Fleet, seconds: float) -> None:
    until_s, number = time.monotonic() + seconds, 0
    while time.monotonic() + KILL_EVERY_S < until_s:
        time.sleep(KILL_EVERY_S)
        fleet.kill(fleet.pids[number % len(fleet.pids)])
        number += 1
    time.sleep(max(0.0, until_s - time.monotonic()))


def test_four_processes_that_are_killed_all_the_time_lose_no_request_and_make_one_call_per_life(store):
    with running_setup(store, 4) as it:
        in_fetch: list[int] = []

        def kill_some(pid: int | None, number: int) -> None:
            if number % KILLED_IN_FETCH == 0 and pid is not None:
                in_fetch.append(pid)
                it.fleet.kill(pid)

        it.servers.on_call = kill_some
        with Clients(it.fleet.ports, 6) as clients:
            kill_in_turn(it.fleet, SOAK_S)
        block_until(it.servers.is_idle)
        report, used = clients.report, len(it.servers.used)
        answered = [fetch for fetch in it.servers.fetches if fetch.answered]
        gaps_s = sorted(later.at_s - earlier.at_s for earlier, later in itertools.pairwise(answered))
        unanswered = len(it.servers.fetches) - len(answered)
        print(
            f"\n4 gatepass processes, {SOAK_S:g} s, tokens of {LIFE_S} s: {it.fleet.kills} killed and started again, "
            f"{len(in_fetch)} of them while they fetched a token. {report.served} requests served, "
            f"{len(report.lost)} lost ({report.moved} attempts went on from a killed process to the next), "
            f"{it.servers.refused} refused; the slowest took {report.slowest_s:.1f} s. "
            f"{used} tokens used, {len(it.servers.fetches)} token calls, of which {unanswered} ended with "
            f"their process: {len(answered) / max(1, used):.2f} calls per life."
        )
        assert report.lost == [], it.fleet.output
        assert it.servers.refused == 0
        assert report.served > 10 * SOAK_S
        assert len(answered) <= used + 1, "at the end one may not have been used yet"
        assert sum(gaps_s) >= LEAST_GAP_S * len(gaps_s), gaps_s
        assert gaps_s[0] >= LEAST_GAP_S / 2, "two processes fetched in one life"
        assert in_fetch, "no process was killed during a fetch"
        dumped = store.dump()
    assert b"gatepass:token:" in dumped
    assert b"token-number-" not in dumped
    assert CLIENT_SECRET.encode() not in dumped


DOCS = (HERE.parents[1] / "docs/operations/store.md").read_text()


class TestDocumentedUser(StoreContract):
    """The permissions of the user in docs/operations/store.md suffice for gatepass."""

    @pytest.fixture
    async def shared(self, store):
        store.empty()
        (line,) = re.findall(r"^user (gatepass on >PASSWORD .+)$", DOCS, re.MULTILINE)
        store.add_user(["gatepass", "reset", *line.split()[1:]])
        settings = StoreSettings.model_validate({**store.settings(), "username": "gatepass", "password": "PASSWORD"})
        here, there = (opened_store(settings, SystemClock()) for _ in range(2))
        assert isinstance(here, GuardedStore)
        await here.check()
        yield Shared(here, there, asyncio.sleep)
        await here.aclose()
        await there.aclose()

    async def test_client_uses_its_own_database_and_the_documented_memory(self, store, shared):
        digest = "a" * 64
        text = b"t" * 2000
        await shared.here.put(f"token/v1/{digest}", text, 60.0)
        await shared.here.put(f"token-failure/v1/{digest}", b"f" * 300, 60.0)
        await shared.here.count(f"token-refusals/v1/{digest}", 60.0)
        await shared.here.lease(f"token-lease/v1/{digest}", "o" * 16, 60.0)
        sizes = {key.split(b":")[1]: size for key, size in store.memory_bytes().items()}
        assert sizes.keys() == {
            b"encryption-key",
            b"token",
            b"token-failure",
            b"token-refusals",
            b"token-lease",
        }
        of_processes = sizes.pop(b"encryption-key")
        assert sum(sizes.values()) <= len(text) + 1500
        assert of_processes <= 140

    async def test_a_cancelled_request_does_not_continue(self, shared):
        """The timeout of the client library lost one cancellation in fourteen, which caused a second token call."""
        went_on: list[int] = []

        async def work(iterations: int) -> None:
            await shared.here.put("kind/name", b"value", 60.0)
            went_on.append(iterations)

        for iterations in [*range(ITERATIONS)] * 25:
            task = asyncio.ensure_future(work(iterations))
            for _ in range(iterations):
                await one_iteration()
            went_on.clear()
            if task.cancel():
                await asyncio.wait([task])
                assert (task.cancelled(), went_on) == (True, []), iterations
