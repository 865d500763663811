import asyncio
import fcntl
import os
import stat

import pytest

from gatepass.store.base import StoreUnavailable
from gatepass.store.folder import FolderStore
from tests.unit.clock import settle
from tests.unit.store.contract import Shared, StoreContract


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "store"
    made.mkdir(mode=0o700)
    return made


class TestFolderStore(StoreContract):
    @pytest.fixture
    def shared(self, folder, clock):
        return Shared(FolderStore(folder, clock), FolderStore(folder, clock), clock.advance)


async def test_stores_files_are_private_to_their_user(folder, clock):
    old = os.umask(0)
    try:
        store = FolderStore(folder, clock)
        await store.put("value/one", b"x", 60.0)
        await store.count("count/one", 60.0)
        await store.lease("lease/one", "a", 60.0)
    finally:
        os.umask(old)
    files = list(folder.iterdir())
    assert len(files) == 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_a_name_cannot_lead_out_of_the_folder(folder, clock):
    store = FolderStore(folder, clock)
    await store.put("../../value/one", b"x", 60.0)
    assert (await store.get(["../../value/one"])).values == {"../../value/one": b"x"}
    assert {file.parent for file in folder.parent.rglob("*") if file.is_file()} == {folder}


async def test_a_writer_waits_for_the_lease_and_readers_do_not(folder, clock):
    store = FolderStore(folder, clock)
    await store.put("value/one", b"old", 60.0)
    with (folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        putting = asyncio.create_task(store.put("value/one", b"new", 60.0))
        await clock.advance(1.0)
        assert not putting.done()
        assert (await store.get(["value/one"])).values == {"value/one": b"old"}
    await clock.advance(0.01)
    await putting
    assert (await store.get(["value/one"])).values == {"value/one": b"new"}


async def test_a_writer_that_is_cancelled_while_it_waits_leaves_nothing_open(folder, clock):
    store = FolderStore(folder, clock)
    await store.put("value/one", b"old", 60.0)
    before = len(os.listdir("/proc/self/fd"))
    with (folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        putting = asyncio.create_task(store.put("value/one", b"new", 60.0))
        await settle()
        putting.cancel()
        await asyncio.wait({putting})
    assert len(os.listdir("/proc/self/fd")) == before
    assert await store.lease("lease/one", "a", 1.0)


async def test_partial_file_of_a_killed_writer_is_overwritten(folder, clock):
    (folder / "new").write_bytes(b"9999999999.0\nhalf a")
    store = FolderStore(folder, clock)
    assert (await store.get(["value/one"])).values == {}
    await store.put("value/one", b"x", 60.0)
    assert (await store.get(["value/one"])).values == {"value/one": b"x"}


@pytest.mark.parametrize("garbage", [b"", b"\n", b"soon\nvalue", b"\xff\xfe", b"nan\nvalue"])
async def test_a_file_that_it_did_not_write_is_not_there_and_is_replaced(folder, clock, garbage):
    store = FolderStore(folder, clock)
    await store.put("value/one", b"x", 60.0)
    (written,) = folder.glob("value-*")
    written.write_bytes(garbage)
    assert (await store.get(["value/one"])).values == {}
    await store.put("value/one", b"y", 60.0)
    assert (await store.get(["value/one"])).values == {"value/one": b"y"}


async def test_expired_files_are_removed(folder, clock):
    store = FolderStore(folder, clock)
    for number in range(5):
        await store.put(f"value/{number}", b"x", 1.0)
        await store.count(f"count/{number}", 1.0)
        await store.lease(f"lease/{number}", "a", 1.0)
        await clock.advance(2.0)
    await store.put("value/last", b"x", 1.0)
    assert sorted(file.name for file in folder.iterdir()) == ["lock", "value-value%2Flast"]


async def test_unreadable_file_makes_the_store_unavailable(folder, clock):
    (folder / "value-value%2Fone").mkdir()
    with pytest.raises(StoreUnavailable, match="Is a directory"):
        await FolderStore(folder, clock).get(["value/one"])


async def test_missing_folder_makes_the_store_unavailable(folder, clock):
    store = FolderStore(folder / "gone", clock)
    works = (
        store.put("value/one", b"x", 1.0),
        store.drop("value/one"),
        store.count("count/one", 1.0),
        store.lease("lease/one", "a", 1.0),
        store.release("lease/one", "a"),
    )
    for work in works:
        with pytest.raises(StoreUnavailable, match=r"the folder that the workers share: No such file"):
            await work
