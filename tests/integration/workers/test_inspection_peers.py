"""Messages between workers, on a socket in their supervisor's folder."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

from gatepass.server.inspection import RELOAD, RETRY, Peers

FIRST = b"# HELP gatepass_x_total X\n# TYPE gatepass_x_total counter\ngatepass_x_total 1.0\n"


def worker(folder: Path, name: str) -> Peers:
    answers = {
        "/metrics": FIRST,
        "/status": json.dumps({"ready": True, "name": name}).encode(),
        RELOAD: json.dumps({"outcome": name}).encode(),
        RETRY: json.dumps([name]).encode(),
    }

    async def own(page: str) -> bytes:
        return answers.get(page, b"")

    return Peers(folder, name, own)


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
        statuses, expositions = await one.collect("/status"), await two.collect("/metrics")
        assert await one.reload() == [{"outcome": "worker-1"}, {"outcome": "worker-2"}]
        assert await two.collect(RETRY) == {"worker-1": b'["worker-1"]', "worker-2": b'["worker-2"]'}
    names = ("worker-1", "worker-2")
    assert {name: json.loads(part) for name, part in statuses.items()} == {
        name: {"ready": True, "name": name} for name in names
    }
    assert expositions == dict.fromkeys(names, FIRST)


async def test_a_worker_that_does_not_answer_is_left_out(tmp_path):
    (tmp_path / "worker-2.sock").touch()
    async with aclosing(worker(tmp_path, "worker-1")) as one:
        await one.open()
        assert list(await one.collect("/status")) == ["worker-1"]
        own, silent = await one.reload()
        assert own == {"outcome": "worker-1"}
        assert silent["problems"] == ["worker-2: did not answer; its log has the result"]
        assert await one.collect("/metrics") == {"worker-1": FIRST}


async def test_an_unknown_page_and_an_invalid_line_get_an_empty_answer(tmp_path):
    async with aclosing(worker(tmp_path, "worker-1")) as one:
        await one.open()
        assert await reported(tmp_path, b"/status\n") == b'{"ready": true, "name": "worker-1"}'
        assert await reported(tmp_path, b"/metrics\n") == FIRST
        for sent in (b"/secrets\n", b"\n", b"", b"\xff\n", b"x" * 100_000 + b"\n"):
            assert await reported(tmp_path, sent) == b""
