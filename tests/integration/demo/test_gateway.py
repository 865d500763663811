"""How the demo starts and stops gatepass, shown on programs that behave as gatepass must not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gatepass.demo import servers as module
from gatepass.demo.servers import GatewayFailed, gateway, last_lines
from tests.integration.demo.standin import LINE, READY, Program

PID = "print(os.getpid(), flush=True)"


async def run(tmp_path: Path, then: Exception | None = None) -> str:
    async with gateway(tmp_path / "config.yaml", tmp_path / "log") as url:
        if then is not None:
            raise then
        return url


def log(tmp_path: Path) -> list[str]:
    return last_lines(tmp_path / "log")


def assert_gone(tmp_path: Path) -> None:
    """The program, which printed its id first, has ended."""
    pid = int(log(tmp_path)[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_it_is_ready_when_it_says_so_and_is_stopped_at_the_end(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GATEPASS_CONFIG", "another.yaml")
    program(
        PID,
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))",
        "print(sys.argv[1:], [n for n in os.environ if n.startswith('GATEPASS_')], flush=True)",
        READY,
        "signal.pause()",
    )
    assert await run(tmp_path) == "http://127.0.0.1:5"
    arguments = ["-P", "-m", "gatepass", "serve", "--config", str(tmp_path / "config.yaml"), "--port", "0"]
    assert log(tmp_path)[1:] == [f"{arguments} []", LINE]
    assert_gone(tmp_path)


async def test_one_that_ends_before_it_is_ready_is_reported_with_its_last_words(program: Program, tmp_path: Path):
    program("print('\\n'.join(f'line {i}' for i in range(99)))", "sys.exit(2)")
    with pytest.raises(GatewayFailed) as caught:
        await run(tmp_path)
    assert str(caught.value) == "gatepass ended with exit code 2 before it was ready"
    assert log(tmp_path) == [f"line {i}" for i in range(79, 99)]


async def test_one_that_is_never_ready_is_killed(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "READY_S", 1.5)
    # whatever becomes of the test, this one and the next end by themselves: hence no signal.pause()
    program("print(os.getpid(), flush=True)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)", "time.sleep(60)")
    monkeypatch.setattr(module, "STOP_S", 0.5)
    with pytest.raises(GatewayFailed, match="gatepass was not ready within"):
        await run(tmp_path)
    assert_gone(tmp_path)


async def test_one_that_does_not_stop_is_killed_and_reported(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "STOP_S", 0.5)
    program(PID, "signal.signal(signal.SIGTERM, signal.SIG_IGN)", READY, "time.sleep(60)")
    with pytest.raises(GatewayFailed, match="gatepass ended with exit code -9"):
        await run(tmp_path)
    assert_gone(tmp_path)


async def test_one_that_ends_badly_is_reported(program: Program, tmp_path: Path):
    program("signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))", READY, "signal.pause()")
    with pytest.raises(GatewayFailed, match="gatepass ended with exit code 7"):
        await run(tmp_path)


async def test_what_fails_in_between_stops_it_too(program: Program, tmp_path: Path):
    goodbye = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('told to go', flush=True)))"
    program(goodbye, READY, "signal.pause()")
    with pytest.raises(ZeroDivisionError):
        await run(tmp_path, then=ZeroDivisionError())
    assert (tmp_path / "log").read_text().splitlines()[-1] == "told to go"
