"""What the demo says and does when gatepass itself fails it, and when a signal comes."""

from __future__ import annotations

import os
import signal

from gatepass.demo.command import show
from tests.integration.demo.standin import READY, Program

GOODBYE = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))"
FOLDER = "folder = pathlib.Path(sys.argv[sys.argv.index('--config') + 1]).parent"


async def test_a_gatepass_that_does_not_start_is_quoted_without_its_secrets(program: Program):
    said: list[str] = []
    program(
        FOLDER,
        "for name in ('key', 'demo-chat', 'demo-embeddings'): print(name, (folder / name).read_text())",
        "sys.exit(2)",
    )
    assert await show(said.append, once=True, lifetime_s=20) == 1
    assert said[1:] == [
        "\nFAILED: gatepass ended with exit code 2 before it was ready",
        "\nThe last lines that gatepass printed:",
        "   | key (hidden)",
        "   | demo-chat (hidden)",
        "   | demo-embeddings (hidden)",
    ]


async def test_its_files_are_for_their_owner_alone(program: Program):
    said: list[str] = []
    program(FOLDER, "print(sorted((p.name, oct(p.stat().st_mode & 0o77)) for p in folder.iterdir() if not p.suffix))")
    await show(said.append, once=True, lifetime_s=20)
    assert said[-1] == "   | [('demo-chat', '0o0'), ('demo-embeddings', '0o0'), ('key', '0o0')]"


async def test_a_gatepass_that_serves_nothing_fails_every_step(program: Program):
    said: list[str] = []
    program(GOODBYE, READY, "signal.pause()")
    assert await show(said.append, once=False, lifetime_s=20) == 1
    assert "\nFAILED: stream, images, embeddings, renewal, stale-check" in said
    few = "of the chat's tokens gatepass has fetched 0, which is too few"
    assert f"   renewal: FAILED - {few}" in said


async def test_a_signal_before_the_end_is_no_success(program: Program):
    said: list[str] = []

    def out(line: str) -> None:
        said.append(line)
        if line.startswith("\n1. "):
            os.kill(os.getpid(), signal.SIGHUP)

    program(GOODBYE, READY, "signal.pause()")
    assert await show(out, once=True, lifetime_s=20) == 1
    assert said[-1] == "\nEnded before the last step."
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
