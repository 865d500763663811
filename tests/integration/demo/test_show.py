"""`gatepass demo` as a person starts it: a process with gatepass and the real client in it, with shorter tokens."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT
from types import ModuleType, SimpleNamespace

import jwt
import pytest
from click.testing import CliRunner
from starlette.exceptions import HTTPException

from gatepass.demo import servers
from gatepass.demo.command import demo
from gatepass.demo.servers import DemoClient, DemoIssuer, IssuedToken, ModelServer, understood, vector

BOUND_S = 60.0
COMMAND = (sys.executable, "-m", "gatepass", "demo")
# what may stand in a user's environment and must not reach the demo's own hops
ENVIRONMENT = os.environ | {"HTTP_PROXY": "http://127.0.0.1:9", "GATEPASS_CONFIG": "/nowhere.yaml"}
STEPS = ["stream", "images", "embeddings", "renewal", "stale-check"]


class CutServer(ModelServer):
    """Ends a stream in the middle as if it were whole."""

    async def paced(self, events: list[str]) -> AsyncIterator[str]:
        for event in events[: len(events) // 2]:
            yield event


class BurstServer(ModelServer):
    """Holds a stream back and sends all of it at once."""

    async def paced(self, events: list[str]) -> AsyncIterator[str]:
        await asyncio.sleep(self.pace_s * len(events))
        yield "".join(events)


class FailingIssuer(DemoIssuer):
    """Fails once each of its clients has its first token."""

    def mint(self, client: DemoClient) -> IssuedToken:
        if {minted.audience for minted in self.minted} == {"chat", "embeddings"}:
            raise HTTPException(503)
        return super().mint(client)


def believing(token: str, key: bytes, algorithms: list[str], *, audience: str) -> object:
    """Verify as the model server does, but believe a token after its end."""
    return jwt.decode(token, key, algorithms, audience=audience, options={"verify_exp": False})


@dataclass(frozen=True)
class Fault:
    """`name` of the demo's module is replaced by `value`; the result of `step` then contains `reason`."""

    module: ModuleType
    name: str
    value: object
    step: str
    reason: str


BELIEVING_JWT = SimpleNamespace(encode=jwt.encode, decode=believing, PyJWTError=jwt.PyJWTError)
FAULTS = {
    "cut stream": Fault(servers, "ModelServer", CutServer, "stream", "ended its stream before"),
    "burst": Fault(servers, "ModelServer", BurstServer, "stream", "chunks came within"),
    "blind": Fault(
        *(servers, "understood", lambda messages: (understood(messages)[0], []), "images"),
        "the model's answer is not the expected one: I see 2 images: image/png, image/gif.",
    ),
    "swapped vectors": Fault(
        *(servers, "vector", lambda text: vector(text[::-1]), "embeddings"),
        "the vectors are not those of the texts",
    ),
    "outage": Fault(servers, "DemoIssuer", FailingIssuer, "renewal", "503"),
    "lenient": Fault(
        *(servers, "jwt", BELIEVING_JWT, "stale-check"),
        "the model server accepted the expired token",
    ),
}


@asynccontextmanager
async def started(*options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(*COMMAND, *options, stdout=PIPE, stderr=STDOUT, env=ENVIRONMENT)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.communicate(), BOUND_S)


def step_results(output: str) -> dict[str, str]:
    """Return the result of each step: `ok`, or `FAILED - ` and the reason."""
    found = re.findall(r"^   ([a-z-]+): (ok|FAILED.*)$", output, re.MULTILINE)
    return dict(found)


def assert_no_token(output: str) -> None:
    assert not re.search(r"eyJ[\w-]{5}", output)


@pytest.mark.parametrize(
    ("names", "life"),
    [
        (["cut stream", "blind", "swapped vectors", "lenient"], "4"),
        (["burst", "outage"], "7"),  # the outage must not come before the steps in front of it are through
    ],
    ids=["all but the renewal", "two"],
)
def test_each_step_detects_its_own_failure(names: list[str], life: str, monkeypatch: pytest.MonkeyPatch):
    faults = [FAULTS[name] for name in names]
    for fault in faults:
        monkeypatch.setattr(fault.module, fault.name, fault.value)
    result = CliRunner().invoke(demo, ["--once", "--life", life], catch_exceptions=False)
    results = step_results(result.output)
    assert result.exit_code == 1, result.output
    assert [step for step in STEPS if results[step] != "ok"] == [fault.step for fault in faults], result.output
    for fault in faults:
        assert fault.reason in results[fault.step]
    assert_no_token(result.output)


async def test_demo_serves_until_a_signal_and_prints_a_command():
    await asyncio.gather(stay_until(signal.SIGINT), play_once())


async def stay_until(number: signal.Signals) -> None:
    async with started("--life", "4") as process, asyncio.timeout(BOUND_S):
        assert process.stdout is not None
        output = (await process.stdout.readuntil(b"/gatepass.yaml\n")).decode()
        assert step_results(output) == dict.fromkeys(STEPS, "ok"), output
        line = output[output.index("curl -N") : output.index("Its configuration")]
        shell = await asyncio.create_subprocess_shell(line, stdout=PIPE)
        answer, _ = await shell.communicate()
        assert answer.startswith(b"data: ")
        assert answer.endswith(b"data: [DONE]\n\n")
        folder = Path(output.partition("Its configuration is ")[2].strip()).parent
        files = [path for path in folder.iterdir() if path.suffix == ""]
        secrets = {path.name: path.read_text() for path in files}
        assert [path.stat().st_mode & 0o77 for path in files] == [0, 0, 0]
        process.send_signal(number)
        rest = (await process.stdout.read()).decode()
        assert rest.endswith("The demo has stopped its servers and removed its files.\n")
        assert await process.wait() == 0
        assert not folder.exists()
    assert sorted(secrets) == ["demo-chat", "demo-embeddings", "key"]
    assert [name for name, secret in secrets.items() if secret in output + rest] == []
    assert_no_token(output + rest)


async def test_signal_ends_the_run_without_a_result():
    async with started("--once") as process, asyncio.timeout(BOUND_S):
        assert process.stdout is not None
        await process.stdout.readuntil(b"1. A streamed chat")
        process.send_signal(signal.SIGTERM)
        rest = (await process.stdout.read()).decode()
        assert await process.wait() == 1
        assert "Traceback" not in rest
        assert "Ended before the last step." in rest


async def play_once() -> None:
    async with started("--once", "--life", "4") as process, asyncio.timeout(BOUND_S):
        output = (await process.communicate())[0].decode()
        assert process.returncode == 0
    assert step_results(output) == dict.fromkeys(STEPS, "ok"), output
    for line in (
        "token minted for chat",
        "token minted for embeddings",
        "token refreshed for chat",
        "x-gatepass-adapted: images",
        ": 401 The token has expired",
    ):
        assert line in output
    assert output.endswith("The demo has stopped its servers and removed its files.\n")
    assert_no_token(output)
