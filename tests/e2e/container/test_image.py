"""The image as a cluster runs it: read-only, under an arbitrary uid, configured by environment variables."""

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
from packaging.utils import canonicalize_name

import gatepass
from release import locks
from tests.e2e.container.conftest import (
    CHAT_MODEL,
    EMBEDDINGS_MODEL,
    LABELS,
    PACE_S,
    ContainerFactory,
    CorporateServers,
    Endpoint,
)
from tests.e2e.container.engine import LIMITS, Engine
from tests.serving import free_port
from tests.waiting import until, until_async

READY_S = 20.0
DRAIN_S = 25.0
NOT_READY_S = 2.0
STREAM_S = 30.0
MOST_ADDED_BYTES = 25_000_000
QUESTION = "please say all of these words again, one after the other, so that there is time to pull the plug"


@dataclass(slots=True)
class StreamRecord:
    """One streamed reply: its text and the arrival times of its pieces."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    text: str = ""
    ended_at: float = 0.0
    arrivals: list[float] = field(default_factory=list)

    def content(self) -> str:
        chunks = [json.loads(data) for data in re.findall(r"^data: (\{.*)$", self.text, re.MULTILINE)]
        return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def chat(endpoint: Endpoint, record: StreamRecord) -> None:
    body = {"model": CHAT_MODEL, "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    async with client(endpoint) as http, http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for piece in response.aiter_text():
            record.text += piece
            record.arrivals.append(time.monotonic())
            if len(record.arrivals) == 3:
                record.begun.set()
    record.ended_at = time.monotonic()


def client(endpoint: Endpoint) -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {endpoint.key}"}
    return httpx2.AsyncClient(base_url=endpoint.url, headers=headers, timeout=STREAM_S, trust_env=False)


async def test_chat_and_embeddings_work_with_environment_variables_only(
    containers: ContainerFactory, corporate: CorporateServers, endpoint: Endpoint
) -> None:
    container = await containers.start(endpoint.environment, options=endpoint.options)
    await asyncio.to_thread(container.wait_healthy, READY_S)
    record = StreamRecord()
    async with asyncio.timeout(STREAM_S):
        await chat(endpoint, record)
        async with client(endpoint) as http:
            health = await http.get("/healthz")
            vectors = await http.post("/v1/embeddings", json={"model": EMBEDDINGS_MODEL, "input": ["a", "b"]})

    assert record.content() == f'You said "{QUESTION}" and I answer word by word, each the moment it is made.'
    assert record.text.endswith("data: [DONE]\n\n")
    # no buffering: the pieces arrive at the pace of the model
    assert len(record.arrivals) > 10
    assert record.arrivals[-1] - record.arrivals[0] > 10 * PACE_S
    assert health.status_code == 200
    assert [vector["index"] for vector in vectors.json()["data"]] == [0, 1]
    assert len(corporate.minted) == 1
    assert endpoint.key not in container.log()
    assert corporate.minted[0] not in container.log()
    printed = await asyncio.to_thread(container.run, "gatepass", "doctor")  # EngineFailed if a step fails
    assert "ok   upstream:embeddings models" in printed
    assert corporate.minted[-1] not in printed


async def test_sigterm_lets_a_running_stream_finish_and_ends_with_exit_code_0(
    containers: ContainerFactory, corporate: CorporateServers, endpoint: Endpoint
) -> None:
    container = await containers.start(endpoint.environment, options=endpoint.options)
    await asyncio.to_thread(container.wait_healthy, READY_S)
    record = StreamRecord()
    async with asyncio.timeout(STREAM_S):
        streaming = asyncio.create_task(chat(endpoint, record))
        await record.begun.wait()
        await asyncio.to_thread(container.signal, "TERM")
        signalled_at = time.monotonic()
        async with client(endpoint) as http:

            async def is_not_ready() -> bool:
                return (await http.get("/readyz")).status_code == 503

            await until_async(is_not_ready, NOT_READY_S)
            health = await http.get("/healthz")
        await streaming
        exit_code = await asyncio.to_thread(container.wait, DRAIN_S)

    assert record.ended_at - signalled_at > 2 * PACE_S, "the stream was over before the signal"
    assert health.status_code == 200, "a health check that fails would have the engine kill it in its drain"
    assert record.text.endswith("data: [DONE]\n\n")
    assert record.content().endswith("the moment it is made.")
    assert exit_code == 0, container.log()


async def test_init_in_the_image_writes_what_a_container_then_serves(
    engine: Engine, image: str, containers: ContainerFactory, corporate: CorporateServers, tmp_path: Path
) -> None:
    """The commands of docs/container.md: `init`, then its service of Compose, then `keys new --write`."""
    work = tmp_path / "work"
    work.mkdir()
    os.chown(work, 4711, 4711)
    here = (*LIMITS, "-u", "4711:4711", "-v", f"{work}:/work", "-w", "/work", "--network=host")
    asked = [
        *("--base-url", f"{corporate.chat_url}/v1", "--auth", "oauth2", "--clients", "ragflow"),
        *("--token-url", f"{corporate.issuer_url}/oauth/token", "--client-id", "ragflow"),
    ]
    typed = "\n".join(("", corporate.client_secret.read_text(), "", "", ""))  # scope, secret, embeddings, rerank
    init = ["run", "--rm", "-i", *here, image, "init", *asked]
    printed = await asyncio.to_thread(engine.podman, *init, typed=typed)
    assert "Wrote gatepass.yaml and secrets/llm." in printed

    added = ("keys", "new", "--name", "second", "--write", "--json")
    second = json.loads(await asyncio.to_thread(engine.podman, "run", "--rm", *here, image, *added))
    (first,) = re.findall(r"gp-\S+", printed)
    port = free_port()
    mounted = ("--user=4711:4711", "--workdir=/work", f"--volume={work}:/work:ro")
    container = await containers.start({"GATEPASS_PORT": str(port)}, options=mounted)
    await asyncio.to_thread(container.wait_healthy, READY_S)
    body = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    for key in (first, second["key"]):
        async with client(Endpoint(f"http://127.0.0.1:{port}", key, {}, ())) as http:
            reply = await http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text


async def test_sigterm_right_after_the_start_is_not_lost(containers: ContainerFactory, endpoint: Endpoint) -> None:
    """The kernel discards signals without a handler for pid 1, so an unhandled SIGTERM would not end it."""
    container = await containers.start(endpoint.environment, options=endpoint.options)
    pid = container.pid
    await until(lambda: catches(pid, signal.SIGTERM))
    os.kill(pid, signal.SIGTERM)
    assert await asyncio.to_thread(container.wait, 10.0) in (0, 143), container.log()
    assert '"event":"listening"' not in container.log(), "the signal arrived after the start"


def catches(pid: int, number: signal.Signals) -> bool:
    """Return whether the process handles the signal (proc(5), SigCgt)."""
    mask = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return mask is not None and bool(int(mask[1], 16) >> (number - 1) & 1)


async def test_image_gets_healthy_without_any_network(containers: ContainerFactory, endpoint: Endpoint) -> None:
    """The start needs no network, and an unreachable issuer does not prevent it."""
    container = await containers.start(endpoint.environment, network="none", options=endpoint.options)
    await asyncio.to_thread(container.wait_healthy, READY_S)


def test_image_adds_little_to_its_base(engine: Engine, image: str, base: str) -> None:
    added_bytes = engine.added_bytes(image, base)
    assert 10_000_000 < added_bytes <= MOST_ADDED_BYTES


def test_image_declares_user_command_port_healthcheck_and_labels(engine: Engine, image: str) -> None:
    """The labels of the workflow image.yml too, with which it was built."""
    described = engine.inspect("image", image)
    config = described["Config"]
    assert config["User"] == "65532:0"
    assert config["Entrypoint"] == ["gatepass"]
    assert config["Cmd"] == ["serve"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["ExposedPorts"] == {"8080/tcp": {}}
    assert described["Healthcheck"]["Test"] == ["CMD", "gatepass", "healthcheck"]
    labels = {name: value for name, value in config["Labels"].items() if name.startswith("org.opencontainers")}
    of_release = {"base.name", "base.digest", "revision", "source", "version"}
    assert set(LABELS) == {f"org.opencontainers.image.{name}" for name in of_release}
    assert all(labels.pop(name) == "a value" for name in LABELS)
    assert labels.pop("org.opencontainers.image.licenses") == "Apache-2.0"
    assert set(labels) == {f"org.opencontainers.image.{name}" for name in ("title", "description")}


def test_image_contains_no_build_or_download_tools(engine: Engine, image: str) -> None:
    ended = engine.once(
        image, "-c", "for tool in gcc cc ld make git curl; do command -v $tool; done", options=["--entrypoint=/bin/sh"]
    )
    assert (ended.returncode, ended.stdout) == (127, "")


def test_no_module_is_compiled_at_start(engine: Engine, image: str) -> None:
    """A read-only root cannot store bytecode, so a module without it would be compiled at every start."""
    ended = engine.once(image, "-v", "-c", "import gatepass.server.app", options=["--entrypoint=python"])
    loaded = re.findall(r"^# code object from '?([^'\n]+)'?$", ended.stderr, re.MULTILINE)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert len(loaded) > 100
    assert [path for path in loaded if not path.endswith(".pyc")] == []


def test_image_installs_exactly_the_locked_packages(engine: Engine, image: str) -> None:
    ended = engine.once(image, "-I", "-c", LISTING, options=["--entrypoint=python"])
    installed = {canonicalize_name(name): version for name, version in json.loads(ended.stdout).items()}
    here = locks.environment("3.13", platform.machine())
    locked = {pin.name: pin.version for pin in locks.read("runtime") if pin.applies(here)}
    assert installed == locked | {"gatepass": gatepass.__version__}


LISTING = """
import importlib.metadata, json
print(json.dumps({found.name: found.version for found in importlib.metadata.distributions()}))
"""
