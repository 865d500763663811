"""A supervisor starts and ends its workers, and passes a reload on: with programs that play workers."""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from gatepass.server import supervisor as slots
from gatepass.server import supervisor as worker
from gatepass.server.supervisor import Supervisor, WorkerCommand
from tests.integration.workers.processes import alive
from tests.waiting import until

UNUSABLE = 2
WORKER = """
import json, os, select, signal, socket, sys, time
folder, plans = sys.argv[1], json.loads(sys.argv[2])
options = json.loads(sys.argv[-1])
name, lifeline, peers = f"worker-{options['number']}", options["lifeline"], options["folder"]
plan = plans.get(name, "serve")

def say(word):
    with open(f"{folder}/said", "a") as said:
        said.write(f"{name} {word}\\n")

terms, told = 0, False

def on_term(*_):
    global terms
    terms += 1
    say("TERM")
    if told or terms == 2 or plan == "slow":
        os._exit(0)

def on_next_stop(*_):
    say("USR1")
    os._exit(0)

if plan == "refuse":
    sys.exit(2)
signal.signal(signal.SIGUSR1, on_next_stop)
signal.signal(signal.SIGTERM, signal.SIG_IGN if plan == "deaf" else on_term)
signal.signal(signal.SIGHUP, lambda *_: say("HUP"))
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
say(f"is {os.getpid()}")
heard = socket.socket(fileno=lifeline)
if plan != "slow":
    open(f"{peers}/{name}.sock", "w").close()
while not os.path.exists(f"{folder}/finish") or not (told or terms):
    if not told and select.select([heard], [], [], 0)[0]:
        say("lifeline")
        told = True
    time.sleep(0.005)
"""
"""Logs its signals. Ends when the test lets it finish, or at a signal after the first. `slow` is never ready, `refuse`
cannot use its configuration, `deaf` ignores signals."""


class Kept:
    """A supervisor of two such workers, in this process."""

    def __init__(self, folder: Path, notes: list[dict[str, Any]], plans: dict[str, str]) -> None:
        self._folder = folder
        self._logged = notes
        script = folder / "worker.py"
        script.write_text(WORKER)
        named = {name.replace("_", "-"): plan for name, plan in plans.items()}
        command = (sys.executable, "-I", "-S", str(script), str(folder), json.dumps(named))
        self._listening = socket.socket()
        self.supervisor = Supervisor(
            WorkerCommand(command, UNUSABLE), self._listening, 2, 0.05, lambda: self._announced.set()
        )
        self._announced = asyncio.Event()
        self.running = asyncio.create_task(self.supervisor.run())

    async def aclose(self) -> None:
        self.finish()
        if not self.running.done():
            self.signal(signal.SIGTERM)
        await asyncio.wait([self.running], timeout=20)
        self._listening.close()

    @property
    def notes(self) -> list[str]:
        path = self._folder / "said"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def pids(self) -> dict[str, int]:
        split = [line.split() for line in self.notes]
        return {words[0]: int(words[2]) for words in split if words[1] == "is"}

    def reported(self, name: str) -> list[str]:
        """The stop signals that one worker received."""
        return [line.partition(" ")[2] for line in self.notes if line.startswith(f"{name} ") and " is " not in line]

    def logged(self, event: str) -> list[Any]:
        return [fields for fields in self._logged if fields["event"] == event]

    async def up(self, *names: str) -> None:
        await until(lambda: set(names) <= set(self.pids))

    async def served(self) -> None:
        await asyncio.wait_for(self._announced.wait(), 20)
        await self.up("worker-1", "worker-2")

    def signal(self, number: int) -> None:
        os.kill(os.getpid(), number)

    def finish(self) -> None:
        (self._folder / "finish").touch()

    async def ended(self) -> int:
        return await asyncio.wait_for(self.running, 20)


Keep = Callable[..., aclosing[Kept]]


@pytest.fixture
def keep(tmp_path, caplog, monkeypatch) -> Iterator[Keep]:
    caplog.set_level(logging.INFO, "gatepass.server.supervisor")
    monkeypatch.setattr(slots, "KILL_GRACE_S", 20.0)
    logged: list[dict[str, Any]] = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append({"event": record.getMessage(), **getattr(record, "fields", {})})

    handler = Noting()
    slots.LOG.addHandler(handler)
    monkeypatch.setattr(slots.LOG, "propagate", False)

    yield lambda **plans: aclosing(Kept(tmp_path, logged, plans))
    slots.LOG.removeHandler(handler)


async def test_sighup_is_sent_to_each_worker_and_waits_for_the_handler_of_one_that_starts(keep):
    """It may have read the file before the change."""
    async with keep(worker_2="slow") as kept:
        while len(kept.logged("worker_started")) < 2:
            await asyncio.sleep(0)  # one turn of the loop: `until` would look too late, when the workers are ready
        kept.signal(signal.SIGHUP)
        await until(lambda: kept.reported("worker-1") == kept.reported("worker-2") == ["HUP"])
        kept.signal(signal.SIGHUP)
        await until(lambda: kept.reported("worker-1") == kept.reported("worker-2") == ["HUP", "HUP"])
        assert sorted(kept.pids) == ["worker-1", "worker-2"]


async def test_a_stop_waits_for_a_worker_that_has_just_taken_a_slot(keep, monkeypatch):
    monkeypatch.setattr(worker, "SHORT_LIFE_S", 0.0)
    async with keep(worker_3="deaf") as kept:
        await kept.served()
        os.kill(kept.pids["worker-1"], signal.SIGKILL)
        await kept.up("worker-3")
        kept.signal(signal.SIGTERM)
        await until(lambda: kept.reported("worker-3") == ["lifeline"])
        kept.finish()
        assert await kept.ended() == 0
        assert not any(map(alive, kept.pids.values()))


async def test_a_stopping_worker_is_waited_for_and_receives_the_second_signal(keep):
    async with keep() as kept:
        await kept.served()
        kept.signal(signal.SIGTERM)
        await until(lambda: kept.reported("worker-1") == kept.reported("worker-2") == ["lifeline"])
        assert not kept.running.done()
        kept.signal(signal.SIGTERM)
        assert await kept.ended() == 0
        assert not any(map(alive, kept.pids.values()))
        assert kept.reported("worker-1") == kept.reported("worker-2") == ["lifeline", "USR1"]


async def test_a_worker_that_outlives_its_drain_is_killed(keep, monkeypatch):
    monkeypatch.setattr(slots, "KILL_GRACE_S", 0.05)
    async with keep(worker_1="deaf") as kept:
        await kept.served()
        kept.signal(signal.SIGTERM)
        await until(lambda: kept.logged("worker_killed"))
        await until(lambda: not alive(kept.pids["worker-1"]))
        assert {"event": "worker_killed", "worker": 1} in kept.logged("worker_killed")


@pytest.mark.parametrize("plans", [{"worker_1": "refuse"}, {"worker_1": "refuse", "worker_2": "refuse"}])
async def test_a_first_worker_that_cannot_use_the_configuration_ends_the_supervisor_with_its_code(keep, plans):
    plans = {"worker_2": "slow", **plans}
    async with keep(**plans) as kept:
        kept.finish()
        assert await kept.ended() == UNUSABLE
        assert len(kept.logged("worker_started")) == 2
        assert kept.logged("worker_exited") == []


async def test_a_later_worker_that_cannot_use_the_configuration_is_started_again(keep, monkeypatch):
    """Meanwhile the other workers serve the old configuration, because the file may just be written."""
    monkeypatch.setattr(worker, "SHORT_LIFE_S", 0.0)
    async with keep(worker_3="refuse") as kept:
        await kept.served()
        os.kill(kept.pids["worker-1"], signal.SIGKILL)
        await kept.up("worker-4")
        died = [(fields["worker"], fields["code"]) for fields in kept.logged("worker_exited")]
        assert died == [(1, -signal.SIGKILL), (3, UNUSABLE)]


@pytest.mark.parametrize(("code", "lived_s", "pause_s"), [(1, 1.0, 8.0), (0, 1.0, 1.0), (1, 11.0, 0.0), (0, 11.0, 0.0)])
async def test_pause_before_the_next_worker_doubles_only_after_a_failure(
    tmp_path: Path, code: int, lived_s: float, pause_s: float
) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", f"raise SystemExit({code})")
    await process.wait()
    ended = worker.Worker(1, process, tmp_path, asyncio.get_running_loop().time() - lived_s)
    assert ended.pause_s(4.0) == pause_s
