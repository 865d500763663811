"""`gatepass target` against a real process with two workers: which requests a drained target still gets."""

import asyncio
import json
import os
import signal
from pathlib import Path

from gatepass.cli.control import request
from tests.integration.answers import DONE, delta
from tests.integration.scripted import LAST_CHUNK, Dialogue, Received, Scripted, Send, Wait, begin_stream, chunk, reply
from tests.integration.test_control import command
from tests.integration.workers.test_supervisor import COMPLETION, ask, both_answered, started
from tests.waiting import until, until_async

ASKED = json.dumps({"model": "m", "messages": []}).encode()
STREAMED = json.dumps({"model": "m", "messages": [], "stream": True}).encode()


async def test_a_drained_target_gets_no_new_request_in_any_worker_until_it_is_resumed(tmp_path: Path):
    path, may_end = str(tmp_path / "own" / "control.sock"), asyncio.Event()

    def answer(received: Received) -> Dialogue:
        if not received.json().get("stream"):
            return [Send(reply(COMPLETION))]
        rest = chunk(delta("stop", content="end")) + chunk(DONE) + LAST_CHUNK
        return [*begin_stream(), Send(chunk(delta(content="slow"))), Wait(may_end), Send(rest)]

    async def run(*arguments: str) -> tuple[int, list[str]]:
        code, text = await asyncio.to_thread(command, *arguments, "--socket", path)
        return code, text.splitlines()

    async with Scripted(answer=answer) as east, Scripted([Send(reply(COMPLETION))]) as west:
        upstreams = {name: {"base_url": f"{one.url}/v1"} for name, one in (("east", east), ("west", west))}
        targets = [{"upstream": "east"}, {"upstream": "west", "name": "prod"}]
        models = {"m": {"targets": targets, "breaker": {}}, "only-east": {"upstream": "east"}}
        server = {"control_socket": path, "drain_timeout_s": 5}
        async with started(tmp_path, {"server": server, "upstreams": upstreams, "models": models}) as running:
            port = await running.port
            await both_answered(port)
            streamed = asyncio.create_task(ask(port, body=STREAMED))
            await until(lambda: len(east.received) == 1)

            code, lines = await run("target", "drain", "east/m")
            assert (code, lines) == (
                0,
                ["east/m is drained until `gatepass target resume` or a restart. Processes: 2."],
            )
            assert {(await ask(port, body=ASKED)).status for _ in range(8)} == {200}
            assert (len(east.received), len(west.received)) == (1, 8)
            code, lines = await run("status")
            away = sorted(line.partition(" ")[2] for line in lines if " target " in line)
            assert away == [f"target east/m of m: drained, {number} in flight" for number in (0, 1)]
            may_end.set()
            assert b"end" in (await streamed).body
            assert b'gatepass_target_available{model="m",upstream="east"} 0.0' in request("GET", "/metrics", path)

            first, _ = await running.pids()
            os.kill(first, signal.SIGKILL)

            async def is_joined() -> bool:
                workers = json.loads(request("GET", "/status", path))["workers"]
                states = [one["targets"]["m"][0]["state"] for one in workers.values()]
                return "worker-3" in workers and set(states) == {"drained"}

            await until_async(is_joined)

            code, lines = await run("target", "drain", "west")
            assert (code, lines) == (
                1,
                ["Error: This leaves no target for m (503 targets_drained). Add --yes to drain it."],
            )
            code, lines = await run("target", "drain", "east", "--yes")
            assert code == 0
            refused = await ask(port, body=ASKED.replace(b'"m"', b'"only-east"'))
            assert (refused.status, refused.json()["error"]["code"]) == (503, "targets_drained")
            code, lines = await run("target", "resume", "east/m")
            assert (code, lines) == (1, ["Error: All of 'east' is drained: run `gatepass target resume east`."])
            code, lines = await run("target", "resume", "east", "--json")
            assert (code, json.loads("".join(lines))) == (0, {"processes": 2, "alone": []})
            before = len(east.received)
            assert {(await ask(port, body=ASKED)).status for _ in range(4)} == {200}
            assert len(east.received) == before + 4
            code, lines = await run("status")
            assert not any(" target " in line for line in lines)

            for name, error in (
                ("eastt", "The upstream 'eastt' is not configured; did you mean east?"),
                ("west/prd", "'west' has no target with the model 'prd'; did you mean prod?"),
                ("west/m", "'west' has no target with the model 'm'; there is prod"),
            ):
                assert await run("target", "drain", name) == (1, [f"Error: {error}"])
