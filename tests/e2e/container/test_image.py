"""The image as a cluster runs it: read-only, under a uid that nobody knows, told everything by its environment."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from packaging.utils import canonicalize_name

import gatepass
from tests import locks
from tests.e2e.container.conftest import CHAT_MODEL, EMBEDDINGS_MODEL, Corporation, Door, Harbour
from tests.e2e.container.engine import Engine
from tests.waiting import until, until_told

READY_S = 20.0
DRAIN_S = 25.0
TURNS_RED_S = 2.0
STREAM_S = 30.0
QUESTION = "please say all of these words again, one after the other, so that there is time to pull the plug"


@dataclass(slots=True)
class Story:
    """One streamed answer: its words as they came, and when."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    text: str = ""
    ended_at: float = 0.0
    arrivals: list[float] = field(default_factory=list)

    def words(self) -> str:
        chunks = [json.loads(data) for data in re.findall(r"^data: (\{.*)$", self.text, re.MULTILINE)]
        return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def chat(door: Door, story: Story) -> None:
    body = {"model": CHAT_MODEL, "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    async with client(door) as http, http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for piece in response.aiter_text():
            story.text += piece
            story.arrivals.append(time.monotonic())
            if len(story.arrivals) == 3:
                story.begun.set()
    story.ended_at = time.monotonic()


def client(door: Door) -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {door.key}"}
    return httpx2.AsyncClient(base_url=door.url, headers=headers, timeout=STREAM_S, trust_env=False)


async def test_chat_and_embeddings_pass_through_with_the_environment_alone(
    harbour: Harbour, corporation: Corporation, door: Door, facts: list[str]
) -> None:
    container = await harbour.start(door.environment, options=door.options)
    healthy_s = await asyncio.to_thread(container.wait_healthy, READY_S)
    idle_bytes = container.resident_bytes()
    story = Story()
    async with asyncio.timeout(STREAM_S):
        await chat(door, story)
        async with client(door) as http:
            health = await http.get("/healthz")
            vectors = await http.post("/v1/embeddings", json={"model": EMBEDDINGS_MODEL, "input": ["a", "b"]})

    assert story.words() == f'You said "{QUESTION}" and I answer word by word, each the moment it is made.'
    assert story.text.endswith("data: [DONE]\n\n")
    # not held back anywhere: the pieces came as slowly as the model spoke
    assert len(story.arrivals) > 10
    assert story.arrivals[-1] - story.arrivals[0] > 10 * corporation.chat.pace_s
    assert health.status_code == 200
    assert [vector["index"] for vector in vectors.json()["data"]] == [0, 1]
    assert len(corporation.embeddings.fingerprints) == 1
    assert len(corporation.issuer.minted) == 1
    assert door.key not in container.log()
    assert corporation.issuer.minted[0].token not in container.log()
    facts.append(
        f"healthy {healthy_s:.1f} s after its start by the image's own HEALTHCHECK, idle {idle_bytes / 1e6:.0f} MB"
    )


async def test_sigterm_lets_a_running_stream_finish_and_ends_with_exit_code_0(
    harbour: Harbour, corporation: Corporation, door: Door, facts: list[str]
) -> None:
    container = await harbour.start(door.environment, options=door.options)
    await asyncio.to_thread(container.wait_healthy, READY_S)
    story = Story()
    async with asyncio.timeout(STREAM_S):
        streaming = asyncio.create_task(chat(door, story))
        await story.begun.wait()
        await asyncio.to_thread(container.signal, "TERM")
        signalled_at = time.monotonic()
        async with client(door) as http:

            async def is_red() -> bool:
                return (await http.get("/readyz")).status_code == 503

            await until_told(is_red, TURNS_RED_S)
            health = await http.get("/healthz")
        await streaming
        exit_code = await asyncio.to_thread(container.wait, DRAIN_S)

    assert story.ended_at - signalled_at > 2 * corporation.chat.pace_s, "the stream was over before the signal"
    assert health.status_code == 200, "a health check that fails would have the engine kill it in its drain"
    assert story.text.endswith("data: [DONE]\n\n")
    assert story.words().endswith("the moment it is made.")
    assert exit_code == 0, container.log()
    facts.append(
        f"SIGTERM in mid-stream: the stream went on for {story.ended_at - signalled_at:.1f} s to its [DONE], "
        f"exit code {exit_code} {time.monotonic() - signalled_at:.1f} s after the signal"
    )


async def test_sigterm_right_after_the_start_is_not_lost(harbour: Harbour, door: Door) -> None:
    """The kernel throws away what pid 1 has no handler for: an unhandled SIGTERM would leave it running."""
    container = await harbour.start(door.environment, options=door.options)
    pid = container.pid
    await until(lambda: catches(pid, signal.SIGTERM))
    os.kill(pid, signal.SIGTERM)
    assert await asyncio.to_thread(container.wait, 10.0) in (0, 143), container.log()
    assert '"event":"listening"' not in container.log(), "it was not caught before all was up"


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for it (proc(5), SigCgt)."""
    told = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return told is not None and bool(int(told[1], 16) >> (number - 1) & 1)


async def test_image_gets_healthy_without_any_network(harbour: Harbour, door: Door) -> None:
    """Nothing is fetched at start, and an issuer that cannot be reached does not stop it."""
    container = await harbour.start(door.environment, network="none", options=door.options)
    await asyncio.to_thread(container.wait_healthy, READY_S)


def test_image_refuses_to_start_without_a_key(engine: Engine, image: str) -> None:
    ended = engine.once(image, options=["--env=GATEPASS_UPSTREAM_URL=https://llm.corp.example/v1"])
    said = ended.stdout + ended.stderr
    assert ended.returncode == 2, said
    assert "GATEPASS_KEY_HASHES" in said
    assert "GATEPASS_HOST" in said
    assert "Traceback" not in said


def test_healthcheck_fails_where_nothing_listens(engine: Engine, image: str) -> None:
    ended = engine.once(image, "healthcheck")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "no answer from 127.0.0.1:8080" in ended.stderr


def test_image_says_how_to_run_it(engine: Engine, image: str) -> None:
    described = engine.inspect("image", image)
    config = described["Config"]
    assert config["User"] == "65532:0"
    assert config["Entrypoint"] == ["gatepass"]
    assert config["Cmd"] == ["serve"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["ExposedPorts"] == {"8080/tcp": {}}
    assert described["Healthcheck"]["Test"] == ["CMD", "gatepass", "healthcheck"]
    labels = {name: value for name, value in config["Labels"].items() if name.startswith("org.opencontainers")}
    assert set(labels) == {f"org.opencontainers.image.{name}" for name in ("title", "description", "licenses")}


@pytest.mark.parametrize("tool", ["gcc", "cc", "ld", "make", "git", "curl"])
def test_image_holds_no_tool_to_build_or_fetch_with(engine: Engine, image: str, tool: str) -> None:
    ended = engine.once(image, "-c", f"command -v {tool}", options=["--entrypoint=/bin/sh"])
    assert (ended.returncode, ended.stdout) == (127, "")


def test_nothing_is_compiled_at_start(engine: Engine, image: str) -> None:
    """A read-only root cannot keep bytecode: what has none would be compiled at every start."""
    ended = engine.once(image, "-v", "-c", "import gatepass.server.app", options=["--entrypoint=python"])
    loaded = re.findall(r"^# code object from '?([^'\n]+)'?$", ended.stderr, re.MULTILINE)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert len(loaded) > 100
    assert [path for path in loaded if not path.endswith(".pyc")] == []


def test_image_installs_what_the_lock_says_and_nothing_else(engine: Engine, image: str) -> None:
    ended = engine.once(image, "-I", "-c", LISTING, options=["--entrypoint=python"])
    installed = {canonicalize_name(name): version for name, version in json.loads(ended.stdout).items()}
    here = locks.environment("3.13", platform.machine())
    locked = {pin.name: pin.version for pin in locks.read("runtime") if pin.applies(here)}
    assert installed == locked | {"gatepass": gatepass.__version__}


LISTING = """
import importlib.metadata, json
print(json.dumps({found.name: found.version for found in importlib.metadata.distributions()}))
"""
