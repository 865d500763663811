"""The workers of one supervisor are one towards the issuer."""

import asyncio
import json
import os
import signal
import stat
from pathlib import Path

from gatepass.server.listening import SHARED_MEMORY
from tests.integration.store.minting import Minting, minting
from tests.integration.workers.test_supervisor import ask, started
from tests.waiting import until, until_async

LIFE_S = 4.0
"""Of a token, in real time: a fetch that takes longer, on a busy machine, gives a token that has ended."""
PACE_S = 0.05
"""Between two requests: the load goes on through a token's life."""
AFTER = 20
"""Requests with the new token: it must have reached the other worker too."""


async def is_served(port: int) -> bool:
    return bool((await ask(port)).status == 200)


async def failures(port: int, issuer: Minting, calls: int) -> list[bytes]:
    """Ask until the issuer has had `calls` calls, and AFTER times more; give the answers that are not 200.

    Each request has a new connection, so that they reach both workers. The first good answer is waited for, because
    workers that start on a busy machine may be late.
    """
    await until_async(lambda: is_served(port))
    failed, after = [], 0
    while after < AFTER:
        after += len(issuer.calls) >= calls
        answer = await ask(port)
        if answer.status != 200:
            failed.append(answer.body)
        await asyncio.sleep(PACE_S)  # the pace of the load, not a wait
    return failed


def listening_at(port: int) -> str:
    """The socket as /proc/PID/fd shows it (proc_net_tcp(5): the local address, and the inode)."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return next(f"socket:[{each[9]}]" for each in sockets if each[1].endswith(f":{port:04X}") and each[3] == "0A")


def arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().removesuffix("\0").split("\0")


def environment(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/environ").read_text().split("\0"))


async def test_two_workers_make_one_call_for_a_token_that_ended_also_when_one_is_killed(tmp_path):
    async with minting() as issuer, started(tmp_path, issuer.configuration()) as running:
        port = await running.port
        first, _ = await running.pids()
        assert await failures(port, issuer, calls=1) == []
        for ended in (1, 2):
            calls = len(issuer.calls)
            issuer.ends.clear()  # each worker gets a 401
            assert await failures(port, issuer, calls + 1) == []
            assert len(issuer.calls) == calls + 1
            if ended == 1:
                os.kill(first, signal.SIGKILL)
                await running.pids(3)
                await until_async(lambda: both_up(port))
                assert len(issuer.calls) == calls + 1, "the new worker uses the token of the other one"


async def both_up(port: int) -> bool:
    workers = (await ask(port, "/status", None)).json()["workers"]
    return {"worker-2", "worker-3"} <= set(workers) and all("in_flight" in worker for worker in workers.values())


async def test_no_program_inherits_the_socket_or_the_lifeline_of_a_worker(tmp_path):
    program, listing = tmp_path / "get-token", tmp_path / "listing"
    program.write_text(f"#!/bin/sh\nls -l /proc/$$/fd >{listing}.new; mv {listing}.new {listing}; echo a-token-1\n")
    program.chmod(0o700)
    settings = {
        "credentials": {"corp": {"type": "exec", "command": [str(program)]}},
        "upstreams": {"chat": {"base_url": "http://127.0.0.1:9/v1", "credential": "corp"}},
    }
    async with started(tmp_path, settings) as running:
        socket = listening_at(await running.port)
        await until(listing.exists)
    led = [line.partition(" -> ")[2] for line in listing.read_text().splitlines() if " -> " in line]
    assert len(led) > 3
    assert [target for target in led if target == socket or target.startswith("pipe:")] == []


async def test_workers_share_tokens_in_memory_in_files_of_their_user_only(tmp_path):
    async with minting() as issuer, started(tmp_path, issuer.configuration()) as running:
        port = await running.port
        pids = await running.pids()
        assert (await ask(port)).status == 200
        *reported, worker = arguments(pids[0])
        options = json.loads(worker)
        store = Path(options["folder"]) / "store"
        await until(lambda: list(store.glob("value-token*")))
        assert store.parent.parent == Path(SHARED_MEMORY)
        assert [stat.S_IMODE(path.stat().st_mode) for path in (store.parent, store)] == [0o700, 0o700]
        files = [path for path in store.iterdir() if path.is_file()]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        written = b"".join(path.read_bytes() for path in files)
        assert b"opaque-token" in written
        assert b"a-secret-of-the-client" not in written
        reported += map(str, options.values())
        assert all(len(argument) < 32 or "/" in argument for argument in reported), "no argument is a key"
        assert environment(pids[0]) == environment(running.process.pid)
    assert not store.exists()
