"""`gatepass tail` and `gatepass show` against real processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gatepass.cli import main
from gatepass.cli.control import request
from gatepass.cli.requests import LAST
from gatepass.server.cycle import ids_begin
from tests.integration.answers import COMPLETION, EVENTS
from tests.integration.gateway import Ask
from tests.integration.processes import changed, started
from tests.integration.scripted import Dialogue, Fin, Hold, Received, Scripted, Send, begin_stream, chunk, reply
from tests.waiting import until

REFUSAL = {"error": {"message": "Unsupported parameter: 'seed'", "param": "seed", "code": "unsupported_parameter"}}
BODY = {"model": "m", "seed": 1, "messages": [{"role": "user", "content": "hi"}]}

MODELS = {
    "*": {"upstream": "chat"},
    "chats": {"upstream": "chat", "protocols": ["chat"]},
    "down": {"upstream": "dead"},
}


def command(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return result.output


async def ask(port: int, name: str, path: str = "/v1/chat/completions", **changes: Any) -> int:
    fields = {"content-type": "application/json", "x-request-id": name}
    return (await Ask(port, "POST", path, fields, json.dumps({**BODY, **changes}).encode()).answer()).status


def strict(request: Received) -> Dialogue:
    if request.method == "GET":  # the model list, which gatepass reads at its start
        return [Send(reply({"object": "list", "data": []}))]
    body = json.loads(request.body)
    if body["model"] == "hangs":
        return [Hold()]
    if body["model"] == "cut":
        return [*begin_stream(), Send(chunk(EVENTS[0])), Fin()]
    if body["model"] == "nothing":
        return [Send(reply({"detail": "Not Found"}, 404))]
    refused = "seed" in body and body["model"] == "strict"
    return [Send(reply(REFUSAL if refused else COMPLETION, 400 if refused else 200, x_request_id="up-7"))]


@dataclass
class Serving:
    port: int
    socket: str
    folder: Path
    running: Any

    def requests(self, kind: str) -> list[Any]:
        listed: list[Any] = json.loads(request("GET", "/requests", self.socket))[kind]
        return listed


@asynccontextmanager
async def serving(tmp_path: Path, **blocks: Any) -> AsyncIterator[Serving]:
    path = tmp_path / "own" / "control.sock"
    async with Scripted(answer=strict) as upstream:
        upstreams = {
            "chat": {"base_url": f"{upstream.url}/v1", "credential": "fixed"},
            "dead": {"base_url": "http://127.0.0.1:9/v1"},
        }
        configuration: dict[str, Any] = {
            "server": {"control_socket": str(path), "drain_timeout_s": 30},
            "credentials": {"fixed": {"type": "static", "token": "fixed-token-1234"}},
            "upstreams": upstreams,
            "models": MODELS,
            **blocks,
        }
        async with started(tmp_path, configuration) as running:
            yield Serving(await running.port, str(path), tmp_path, running)


async def test_from_the_id_of_an_error_to_its_cause(tmp_path: Path):
    async with serving(tmp_path) as gp:
        assert await ask(gp.port, "learns", model="strict") == 200
        assert await ask(gp.port, "down", model="down") == 502
        assert await ask(gp.port, "cut", model="cut", stream=True) == 200

        lines = command("show", "down", "--socket", gp.socket).splitlines()
        assert lines[0].startswith("502 upstream_connect at upstream:dead after ")
        (failed,) = [line for line in lines if "failed here" in line]
        assert failed.startswith("  ✗ upstream:dead  connection_failed upstream_connect, ")
        assert "  Test the hop: gatepass doctor down --call" in lines

        lines = command("show", "cut", "--socket", gp.socket).splitlines()
        assert lines[0].startswith("200 upstream_closed at upstream:chat after ")
        assert lines[-1].endswith("closed first by: upstream")

        lines = command("show", "learns", "--socket", gp.socket).splitlines()
        assert "  drop=seed: required by the upstream or by a rule (learned from the error of" in lines
        assert "      sent again with a rule learned from the error" in lines
        assert lines[3] == "id learns"
        assert "      upstream's id: up-7" in lines
        assert command("show", "up-7", "--socket", gp.socket).splitlines()[0].startswith("200 after ")

        story = json.loads(command("show", "learns", "--json", "--socket", gp.socket))
        assert (story["id"], [one["status"] for one in story["attempts"]]) == ("learns", [400, 200])
        text = command("show", "learns", "--curl", "--socket", gp.socket, exit_code=1)
        assert "Capture the request first: gatepass capture." in text


@pytest.mark.parametrize(
    ("path", "members", "translation"),
    [
        ("/v1/messages", {"top_k": 5, "container": "c-1", "inference_geo": "eu"}, "translate=messages"),
        ("/v1/responses", {"input": "hi", "truncation": "auto", "x": 1, "y": 2}, "translate=responses"),
    ],
)
async def test_a_translation_is_one_word_of_a_line_and_each_change_has_a_reason(tmp_path, path, members, translation):
    async with serving(tmp_path) as gp:
        assert await ask(gp.port, "turn", path, model="chats", max_tokens=9, **members) == 200
        line = command("tail", "--once", "--socket", gp.socket).splitlines()[-1]
        shown = command("show", "turn", "--socket", gp.socket)
        (turn,) = gp.requests("requests")
    changes = turn["adapted"]
    assert len(changes) > 3
    assert line.endswith(f" {translation} +{len(changes) - 1}")
    text = " ".join(shown.split())
    assert f"{translation}: the upstream serves the request as a chat" in text
    for change in changes[1:]:
        assert f"{change}: " in text


async def test_a_captured_body_is_shown_and_sent_again_by_a_shell(tmp_path: Path):
    shim = tmp_path / "bin" / "curl"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    shim.chmod(0o700)
    text = "it's `id` $HOME \\ 名"
    async with serving(tmp_path) as gp:
        command("capture", "--model", "m", "--minutes", "1", "--socket", gp.socket)
        assert await ask(gp.port, "kept", messages=[{"role": "user", "content": text}]) == 200
        lines = command("show", "kept", "--socket", gp.socket).splitlines()
        assert "  request of the client:" in lines[lines.index("Bodies") :]
        curl = command("show", "kept", "--curl", "--socket", gp.socket)
        environment = {"PATH": f"{shim.parent}:{os.environ['PATH']}", "GATEPASS_KEY": "gp-key"}
        shell = await asyncio.create_subprocess_shell(curl, stdout=subprocess.PIPE, env=environment)
        sent, _ = await shell.communicate()
    arguments = sent.decode().split("\0")
    assert "authorization: Bearer gp-key" in arguments
    assert f"http://127.0.0.1:{gp.port}/v1/chat/completions" in arguments
    assert "gp-key" not in curl
    body = json.loads(arguments[arguments.index("--data-raw") + 1])
    assert body == {**BODY, "messages": [{"role": "user", "content": text}]}


async def test_an_id_of_several_requests_shows_the_newest(tmp_path: Path):
    async with serving(tmp_path) as gp:
        for model in ("one", "two"):
            assert await ask(gp.port, "same", model=model) == 200
        text = command("show", "same", "--socket", gp.socket)
        assert "chat two" in text


async def test_an_unknown_id_names_the_ids_of_this_replica(tmp_path: Path):
    async with serving(tmp_path) as gp:
        text = command("show", "never\x1b", "--socket", gp.socket, exit_code=1)
    assert "the request never� is not known here. The log keeps every request; " in text
    assert f"the ids of this replica begin with {ids_begin(os.uname().nodename)}." in text
    text = command("show", "one", "--socket", gp.socket, exit_code=1)
    assert "no gatepass answers at" in text


@dataclass
class Tail:
    """A `gatepass tail` in a process of its own, with its lines as they arrive."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())


@asynccontextmanager
async def tailing(gp: Serving, *options: str) -> AsyncIterator[Tail]:
    # a job in the background of a script ignores SIGINT, and so would the command
    arguments = ["env", "--default-signal=INT", sys.executable, "-m", "gatepass", "tail", "--socket", gp.socket]
    process = await asyncio.create_subprocess_exec(*arguments, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    found = Tail(process)
    reading = asyncio.create_task(found.read())
    try:
        yield found
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def test_tail_shows_each_request_once_over_a_reload_until_gatepass_is_gone(tmp_path: Path):
    async with serving(tmp_path) as gp:
        assert await ask(gp.port, "before") == 200
        async with tailing(gp) as tail:
            await until(lambda: len(tail.lines) == 2)
            changed(
                tmp_path, models={"*": {"upstream": "chat"}, "down": {"upstream": "dead"}, "x": {"upstream": "chat"}}
            )
            names = [f"r{number}" for number in range(300)]
            for begin in range(0, len(names), 20):
                await asyncio.gather(*(ask(gp.port, name) for name in names[begin : begin + 20]))
                if begin == 100:
                    assert "Reloaded" in await asyncio.to_thread(command, "reload", "--socket", gp.socket)
            await until(lambda: len(tail.lines) >= 2 + len(names))
            assert await ask(gp.port, "down", model="down") == 502
            await until(lambda: "upstream_connect upstream:dead" in tail.lines[-1])
            shown = [line.split()[2] for line in tail.lines[1:]]
            assert sorted(shown) == sorted(["before", *names, "down"])
            gp.running.process.send_signal(signal.SIGTERM)
            assert await gp.running.ended() == 0
            assert await tail.process.wait() == 1
            assert tail.process.stderr is not None
            assert b"no gatepass answers at" in await tail.process.stderr.read()


async def test_tail_ends_with_ctrl_c_and_lists_what_failed(tmp_path: Path):
    async with serving(tmp_path) as gp:
        for name, model in (("a", "m"), ("b", "down"), ("c", "m")):
            await ask(gp.port, name, model=model)
        lines = command("tail", "--once", "--socket", gp.socket).splitlines()
        assert lines[0].split() == ["UTC", "STATUS", "ID", "CALLER", "MODEL", "TIME", "UPSTREAM", "OR", "ERROR"]
        assert [line.split()[1:3] for line in lines[1:]] == [["200", "a"], ["502", "b"], ["200", "c"]]

        def listed(*options: str) -> list[str]:
            text = command("tail", "--once", "--json", "--socket", gp.socket, *options)
            return [json.loads(line)["id"] for line in text.splitlines()]

        assert listed("--failed") == ["b"]
        later = [f"down-{number}" for number in range(LAST)]
        for name in later:
            await ask(gp.port, name, model="down")
        hidden = CliRunner().invoke(main, ["tail", "--once", "--failed", "--socket", gp.socket])
        assert [line.split()[2] for line in hidden.stdout.splitlines()[1:]] == later == listed()
        async with tailing(gp, "--json") as tail:
            await until(lambda: len(tail.lines) == LAST)
            tail.process.send_signal(signal.SIGINT)
            assert await tail.process.wait() == 0
            assert tail.process.stderr is not None
            assert await tail.process.stderr.read() == b""


async def test_a_request_in_progress_is_shown_by_its_id(tmp_path: Path):
    async with serving(tmp_path) as gp:
        fields = {"content-type": "application/json", "x-request-id": "waits"}
        async with Ask(
            gp.port, "POST", "/v1/chat/completions", fields, json.dumps({**BODY, "model": "hangs"}).encode()
        ):
            await until(lambda: len(gp.requests("running")) == 1)
            assert "waits" not in command("tail", "--once", "--socket", gp.socket)
            await until(lambda: "◌ upstream:chat" in command("show", "waits", "--socket", gp.socket))
            assert command("show", "waits", "--socket", gp.socket).startswith("running for ")
        await until(lambda: "waits" in command("tail", "--once", "--failed", "--socket", gp.socket))
        lines = command("show", "waits", "--socket", gp.socket).splitlines()
        assert "client gone" in lines[0]
        assert "◀ closed first" in lines[6]
