"""The demo from its first line to its last: what it prints, and how a signal ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from gatepass.demo.issuer import Minted
from gatepass.demo.stage import CHAT_MODEL, LOG, GatewayFailed, last_lines, secrets_in_files, stage
from gatepass.demo.story import play

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Printer:
    """Print through `out`, with every known secret replaced by `(hidden)`."""

    def __init__(self, out: Callable[[str], object], secrets: set[str]) -> None:
        self._out = out
        self._secrets = secrets
        self._last: dict[str, Minted] = {}

    def __call__(self, line: str) -> None:
        for secret in self._secrets:
            line = line.replace(secret, "(hidden)")
        self._out(line)

    def minted(self, token: Minted) -> None:
        """Print the fingerprint of a new token, and how long before the end of the last one it came."""
        self._secrets.add(token.token)
        before, self._last[token.audience] = self._last.get(token.audience), token
        life = f"for {token.audience}: {token.fingerprint}, lives {token.expires_at - token.issued_at:.1f} s"
        if before is None:
            self(f"   * token minted {life}")
        else:
            left_s = before.expires_at - token.issued_at
            self(f"   * token refreshed {life}; {left_s:.1f} s before the end of {before.fingerprint}")


async def show(out: Callable[[str], object], *, once: bool, life_s: float) -> int:
    """Play the story; without `once` stay up afterwards until SIGINT, SIGTERM or SIGHUP.

    Returns the exit code: 0 if every step was right and gatepass started and stopped as it should, else 1.
    """
    right = asyncio.Event()
    with secrets_in_files() as (folder, secret_of):
        printer = Printer(out, set(secret_of.values()))

        async def run() -> None:
            printer("Starting a token issuer, two model servers and gatepass, each on a free port of this machine.")
            async with stage(folder, secret_of, printer.minted, life_s) as running:
                printer(INTRODUCTION.format(running, life_s=life_s))
                if await play(running, printer):
                    right.set()
                    if not once:
                        printer(INVITATION.format(running, model=CHAT_MODEL))
                        await asyncio.Event().wait()

        try:
            was_ended = await _ended_by_signal(run())
        except GatewayFailed as error:
            right.clear()
            was_ended = False
            printer(f"\nFAILED: {error}")
        if not (right.is_set() or was_ended):
            printer("\nThe last lines that gatepass printed:")
            for line in last_lines(folder / LOG):
                printer(f"   | {line}")
    if right.is_set():
        printer("\nThe end: everything has been stopped and removed.")
    elif was_ended:
        printer("\nEnded before the last step.")
    return 0 if right.is_set() else 1


async def _ended_by_signal(work: Coroutine[Any, Any, None]) -> bool:
    """Await `work`, which the first signal cancels; later signals change nothing."""
    task, loop, signalled = asyncio.create_task(work), asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        if not signalled.is_set():
            signalled.set()
            task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        await asyncio.wait({task})
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
    if not task.cancelled():
        task.result()
    return task.cancelled()


INTRODUCTION = """
   issuer         {0.issuer_url}   tokens live {life_s:.0f} s
   model server   {0.chat_url}   takes fresh tokens only, and no member that it does not know
   embeddings     {0.embeddings_url}   another host, another login
   gatepass       {0.gateway_url}   in front; its client has one URL and one key for all of it"""

INVITATION = """
Still up. Try it from another terminal, and again in a minute; Ctrl-C ends it:

curl -N {0.gateway_url}/v1/chat/completions \\
  -H "Authorization: Bearer $(cat {0.folder}/key)" -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hi"}}]}}'

Its configuration is {0.folder}/gatepass.yaml, its log gatepass.log beside it.
"""
