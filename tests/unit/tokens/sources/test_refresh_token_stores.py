from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from gatepass.tokens import FetchFailure
from gatepass.tokens.failure import BUSY
from gatepass.tokens.sources.refresh_token import FileRefreshTokenStore, MemoryRefreshTokenStore, RefreshTokenStore
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import failure_of


@pytest.fixture(params=["memory", "file"])
def stores(request, tmp_path):
    """A factory of refresh token stores of one process, and of others that share it."""
    clock = DrivenClock()
    memory = MemoryRefreshTokenStore(clock)

    def make() -> RefreshTokenStore:
        return memory if request.param == "memory" else FileRefreshTokenStore(str(tmp_path / "refresh"), clock)

    return clock, make


async def test_no_other_lease_is_granted_until_the_first_one_ends(stores):
    clock, make = stores
    reported: list[str] = []

    async def take(name: str, end: asyncio.Event) -> None:
        async with make().exclusive(10.0):
            reported.append(f"{name} in")
            await end.wait()
            reported.append(f"{name} out")

    first, second = asyncio.Event(), asyncio.Event()
    second.set()
    tasks = [asyncio.create_task(take("first", first)), asyncio.create_task(take("second", second))]
    await clock.advance(1.0)
    assert reported == ["first in"]
    first.set()
    await clock.advance(1.0)
    assert reported == ["first in", "first out", "second in", "second out"]
    await asyncio.gather(*tasks)


async def test_a_lease_that_is_not_granted_in_time_is_a_failure(stores):
    clock, make = stores

    async def take() -> None:
        async with make().exclusive(2.0):
            raise AssertionError("it was somebody else's turn")

    async with make().exclusive(1.0):
        waiting = asyncio.create_task(failure_of(take()))
        await clock.advance(1.9)
        assert not waiting.done()
        await clock.advance(0.2)
        failure = await waiting
    assert failure.reason == BUSY
    async with make().exclusive(0.5):
        pass


async def test_file_is_replaced_atomically_and_private(tmp_path: Path):
    file = tmp_path / "refresh"
    file.write_text("by-hand\n")
    file.chmod(0o644)
    before = file.open()
    refresh_store = FileRefreshTokenStore(str(file), DrivenClock())
    assert await refresh_store.get() == "by-hand"
    async with refresh_store.exclusive(1.0):
        await refresh_store.put("new")
    assert before.read() == "by-hand\n", "who had it open still reads all of the old text"
    before.close()
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o600)
    assert sorted(os.listdir(tmp_path)) == ["refresh", "refresh.lock"]
    assert stat.S_IMODE((tmp_path / "refresh.lock").stat().st_mode) == 0o600


async def test_a_file_is_on_the_disk_before_it_takes_the_place_of_the_old_one(tmp_path: Path, monkeypatch):
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "text")
        sync(descriptor)

    def renamed(old: str, new: str) -> None:
        done.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", renamed)
    await FileRefreshTokenStore(str(tmp_path / "refresh"), DrivenClock()).put("new")
    assert done == ["text", "rename", "directory"]


async def test_target_of_a_link_is_replaced_and_locked(tmp_path: Path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real" / "refresh")
    refresh_store = FileRefreshTokenStore(str(link), DrivenClock())
    async with refresh_store.exclusive(1.0):
        await refresh_store.put("new")
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path / "real")) == ["refresh", "refresh.lock"]


async def test_a_write_that_fails_leaves_the_old_text_and_nothing_else(tmp_path: Path, monkeypatch):
    file = tmp_path / "refresh"
    file.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    failure = await failure_of(FileRefreshTokenStore(str(file), DrivenClock()).put("new"))
    assert failure.reason == "refresh_token_file cannot be written: No space left on device"
    assert (file.read_text(), os.listdir(tmp_path)) == ("old", ["refresh"])


async def test_a_missing_directory_is_reported(tmp_path: Path):
    refresh_store = FileRefreshTokenStore(str(tmp_path / "nowhere" / "refresh"), DrivenClock())
    for work, what in ((refresh_store.put("x"), "written"), (refresh_store.exclusive(1.0).__aenter__(), "locked")):
        with pytest.raises(FetchFailure, match=f"refresh_token_file cannot be {what}: No such file or directory"):
            await work
    assert await refresh_store.get() is None


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file/refresh", "refresh_token_file cannot be read: Not a directory"),
        ("folder", "refresh_token_file: the file .*/folder cannot be read: Is a directory"),
    ],
)
async def test_unreadable_file_is_not_a_missing_one(tmp_path: Path, place, reason):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FetchFailure, match=reason):
        await FileRefreshTokenStore(str(tmp_path / place), DrivenClock()).get()


async def test_a_lock_that_the_file_system_refuses_is_reported(tmp_path: Path, monkeypatch):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(FetchFailure, match="refresh_token_file cannot be locked: No locks available"):
        await FileRefreshTokenStore(str(tmp_path / "refresh"), DrivenClock()).exclusive(1.0).__aenter__()
