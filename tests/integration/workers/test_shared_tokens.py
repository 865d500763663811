"""The workers of one supervisor are one towards the issuer."""

import asyncio
import os
import signal
import stat
from pathlib import Path

from tests.integration.store.minting import minting
from tests.integration.workers.test_supervisor import ask, started


async def ask_for(port: int, seconds: float) -> list[int]:
    """The statuses of some requests a second, each over a connection of its own: they reach both workers."""
    until_s, statuses = asyncio.get_running_loop().time() + seconds, []
    while asyncio.get_running_loop().time() < until_s:
        statuses.append((await ask(port)).status)
        await asyncio.sleep(0.05)
    return statuses


def arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def environment(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/environ").read_text().split("\0"))


async def test_two_workers_make_one_token_call_per_life_also_when_one_is_killed(tmp_path):
    async with minting(life_s=2.0) as issuer, started(tmp_path, issuer.configuration()) as running:
        port = await running.port
        first, _ = await running.pids()
        statuses = await ask_for(port, 3.0)
        os.kill(first, signal.SIGKILL)
        await running.pids(3)
        statuses += await ask_for(port, 1.5)
        took_s = asyncio.get_running_loop().time() - issuer.calls[0]
        assert set(statuses) == {200}
        assert issuer.refused == []
        assert 3 <= len(issuer.calls) <= 1 + took_s / (2.0 * 0.75)


async def test_where_a_new_token_ends_the_old_one_two_workers_lose_no_request(tmp_path):
    async with minting(life_s=2.0, kills_old=True) as issuer, started(tmp_path, issuer.configuration()) as running:
        port = await running.port
        await running.pids()
        statuses = await ask_for(port, 3.0)
        took_s = asyncio.get_running_loop().time() - issuer.calls[0]
        assert set(statuses) == {200}
        assert len(issuer.calls) <= 1 + took_s / (2.0 * 0.75)


async def test_what_the_workers_share_is_for_their_user_alone_and_useless_without_their_key(tmp_path):
    async with minting() as issuer, started(tmp_path, issuer.configuration()) as running:
        port = await running.port
        pids = await running.pids()
        assert (await ask(port)).status == 200
        told = arguments(pids[0])
        store = Path(told[told.index("--peers") + 1]) / "store"
        async with asyncio.timeout(10):
            while not list(store.glob("value-token*")):
                await asyncio.sleep(0.05)
        assert [stat.S_IMODE(path.stat().st_mode) for path in (store.parent, store)] == [0o700, 0o700]
        files = [path for path in store.iterdir() if path.is_file()]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        written = b"".join(path.read_bytes() for path in files)
        assert written
        assert not any(secret in written for secret in (b"opaque-token", b"a-secret-of-the-client"))
        assert all(len(argument) < 32 or "/" in argument for argument in told), "no argument is a key"
        assert environment(pids[0]) == environment(running.process.pid)
    assert not store.exists()
