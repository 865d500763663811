"""A key is replaced while gatepass serves."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from gatepass.config.access import hash_key
from tests.integration.answers import COMPLETION
from tests.integration.gateway import CHAT, HELLO, JSON, Ask
from tests.integration.processes import started
from tests.integration.scripted import Scripted, Send, reply
from tests.integration.test_control import command

BODY = json.dumps(HELLO).encode()
OLD, OTHER = "gp-the-old-key-0123456789", "gp-another-client-0123456789"
TIMES = 2
"""Requests with each key, each on a connection of its own."""


def id_of(key: str) -> str:
    return hash_key(key)[7:15]


async def statuses(port: int, *keys: str) -> list[set[int]]:
    asked = [Ask(port, "POST", CHAT, {**JSON, "authorization": f"Bearer {key}"}, BODY) for key in keys * TIMES]
    found = [answer.status for answer in await asyncio.gather(*(one.answer() for one in asked))]
    return [set(found[place :: len(keys)]) for place in range(len(keys))]


async def test_two_keys_of_a_caller_are_valid_until_the_entry_of_the_old_one_is_deleted(tmp_path: Path):
    path = tmp_path / "own" / "control.sock"
    file, socket = tmp_path / "gatepass.json", ("--socket", str(path))

    async def run(*arguments: str) -> str:
        code, output = await asyncio.to_thread(command, *arguments)
        assert code == 0, output
        return output

    async def last_uses(names: Sequence[str]) -> dict[str, bool]:
        rows = json.loads(await run("keys", "list", "--running", "--json", *socket))
        return {row["id"]: row["last_used"] is not None for row in rows if row["name"] in names}

    async with Scripted(answer=lambda _: [Send(reply(COMPLETION))]) as upstream:
        keys = [{"name": name, "hash": hash_key(key)} for name, key in (("rag", OLD), ("bot", OTHER))]
        configuration = {
            "server": {"control_socket": str(path), "drain_timeout_s": 30},
            "upstreams": {"chat": {"base_url": f"{upstream.url}/v1"}},
            "access": {"keys": keys, "metrics_open": True},
        }
        async with started(tmp_path, configuration) as running:
            port = await running.port
            assert await statuses(port, OLD) == [{200}]
            made = json.loads(
                await run(
                    "keys", "new", "--name", "rag", "--expires", "90d", "--write", "--json", "--config", str(file)
                )
            )
            new = made["key"]
            assert await statuses(port, OLD, new) == [{200}, {401}]

            await run("reload", *socket)
            assert await last_uses(("rag", "bot")) == {id_of(OLD): True, id_of(OTHER): False, id_of(new): False}
            assert await statuses(port, OLD, new) == [{200}, {200}]
            assert await last_uses(("rag", "bot")) == {id_of(OLD): True, id_of(OTHER): False, id_of(new): True}
            metrics = (await Ask(port, "GET", "/metrics", {}, b"").answer()).body.decode()
            lines = [line for line in metrics.splitlines() if "key_id" in line]
            (left,) = [float(line.rpartition(" ")[2]) for line in lines]
            assert lines[0].startswith(f'gatepass_key_expires_in_seconds{{caller="rag",key_id="{id_of(new)}"}}')
            assert 89 * 86_400 < left <= 90 * 86_400
            assert len(await running.logged(f'"key_id":"{id_of(new)}"', TIMES)) == TIMES

            document = json.loads(file.read_text())
            del document["access"]["keys"][0]
            file.write_text(json.dumps(document))
            await run("reload", *socket)
            assert await statuses(port, OLD, new, OTHER) == [{401}, {200}, {200}]  # at once: the reload has ended
            assert await last_uses(("rag",)) == {id_of(new): True}
            assert not any(key in line for line in running.lines for key in (OLD, new, OTHER))
