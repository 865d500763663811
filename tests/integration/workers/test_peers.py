"""Messages between workers, on a socket in their supervisor's folder."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

from gatepass.server.pages import OwnPages, Peers

FIRST = b"# HELP gatepass_x_total X\n# TYPE gatepass_x_total counter\ngatepass_x_total 1.0\n"


async def exposition() -> bytes:
    return FIRST


def worker(folder: Path, name: str) -> Peers:
    async def reload() -> dict[str, str]:
        return {"outcome": name}

    status = {"ready": True, "name": name}
    return Peers(
        folder, name, OwnPages(exposition, lambda: status, lambda: [{"adapted": name}], reload, lambda: [name])
    )


async def reported(folder: Path, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(folder / "worker-1.sock")
    writer.write(sent)
    if not sent.endswith(b"\n"):
        writer.write_eof()
    try:
        async with asyncio.timeout(10):
            return await reader.read(-1)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_each_worker_is_reported_by_its_name_and_metrics_are_added_up(tmp_path):
    async with aclosing(worker(tmp_path, "worker-1")) as one, aclosing(worker(tmp_path, "worker-2")) as two:
        await one.open()
        await two.open()
        statuses, exposition, learned = await one.statuses(), await two.exposition(), await two.learned()
        assert await one.reload() == [{"outcome": "worker-1"}, {"outcome": "worker-2"}]
        assert await two.retry() == [["worker-1"], ["worker-2"]]
    assert statuses == {name: {"ready": True, "name": name} for name in ("worker-1", "worker-2")}
    assert b"gatepass_x_total 2.0" in exposition
    assert learned == [[{"adapted": "worker-1"}], [{"adapted": "worker-2"}]]


async def test_a_worker_that_does_not_answer_is_left_out(tmp_path):
    (tmp_path / "worker-2.sock").touch()
    async with aclosing(worker(tmp_path, "worker-1")) as one:
        await one.open()
        assert list(await one.statuses()) == ["worker-1"]
        own, silent = await one.reload()
        assert own == {"outcome": "worker-1"}
        assert silent["problems"] == ["worker-2: did not answer; its log has the result"]
        assert b"gatepass_x_total 1.0" in await one.exposition()


async def test_an_unknown_page_and_an_invalid_line_get_an_empty_answer(tmp_path):
    async with aclosing(worker(tmp_path, "worker-1")) as one:
        await one.open()
        assert await reported(tmp_path, b"status\n") == b'{"ready": true, "name": "worker-1"}'
        assert await reported(tmp_path, b"metrics\n") == FIRST
        for sent in (b"secrets\n", b"\n", b"", b"\xff\n", b"x" * 100_000 + b"\n"):
            assert await reported(tmp_path, sent) == b""
