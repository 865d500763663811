"""The demo from its first port to its last: who plays, the story, and the end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from gatepass.demo.gateway import GatewayFailed
from gatepass.demo.sabotage import Sabotage
from gatepass.demo.signing import Minted
from gatepass.demo.stage import Stage, stage
from gatepass.demo.story import tell
from gatepass.demo.voice import Voice

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def show(out: Callable[[str], object], *, once: bool, life_s: float, sabotage: Sabotage | None = None) -> int:
    """Play the story through `out`; without `once` stay up afterwards until SIGINT, SIGTERM or SIGHUP.

    Gives the exit code: 0 if every step was right and gatepass came and went as it should, else 1.
    """
    voice = Voice(out)
    right = asyncio.Event()
    try:
        whole = await _to_its_end(_play(voice, right, once=once, life_s=life_s, sabotage=sabotage))
    except GatewayFailed as error:
        voice(f"\nFAILED: {error}")
        _quote(voice, error.log)
        return 1
    if right.is_set():
        voice("\nThe end: everything has been stopped and removed.")
        return 0
    if not whole:
        voice("\nEnded before the last step.")
    return 1


async def _play(voice: Voice, right: asyncio.Event, *, once: bool, life_s: float, sabotage: Sabotage | None) -> None:
    voice("Starting a token issuer, two model servers and gatepass, each on a free port of this machine.")
    async with stage(voice, Announcer(voice), life_s=life_s, sabotage=sabotage) as running:
        _introduce(voice, running, life_s)
        if not await tell(running, voice):
            _quote(voice, running.gateway.tail())
            return
        right.set()
        if not once:
            _invite(voice, running)
            await asyncio.Event().wait()


async def _to_its_end(work: Coroutine[Any, Any, None]) -> bool:
    """Await `work`; False where a signal ended it. The first one cancels, later ones change nothing."""
    task, loop = asyncio.create_task(work), asyncio.get_running_loop()
    signalled = asyncio.Event()

    def stop() -> None:
        if not signalled.is_set():
            signalled.set()
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not signalled.is_set():
            raise
        return False
    else:
        return True
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _introduce(voice: Voice, running: Stage, life_s: float) -> None:
    voice(
        f"\n   issuer         {running.issuer_url}   tokens live {life_s:.0f} s"
        f"\n   model server   {running.chat_url}   takes fresh tokens only, and no member that it does not know"
        f"\n   embeddings     {running.embeddings_url}   another host, another login"
        f"\n   gatepass       {running.gateway.url}   in front; its client has one URL and one key for all of it"
    )


def _invite(voice: Voice, running: Stage) -> None:
    voice(
        "\nStill up. Try it from another terminal, and again in a minute; Ctrl-C ends it:"
        f"\n\n{running.curl()}\n"
        f"\nIts configuration is {running.folder}/gatepass.yaml, its log gatepass.log beside it.\n"
    )


def _quote(voice: Voice, log: Iterable[str]) -> None:
    voice("\nThe last lines that gatepass printed:")
    for line in log:
        voice(f"   | {line}")


class Announcer:
    """Tells of each token as it is minted, by its fingerprint."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._last: dict[str, Minted] = {}

    def __call__(self, token: Minted) -> None:
        self._voice.hide(token.token)
        before, self._last[token.audience] = self._last.get(token.audience), token
        life = f"{token.fingerprint}, lives {token.expires_at - token.issued_at:.1f} s"
        if before is None:
            self._voice(f"   * token minted for {token.audience}: {life}")
            return
        left = before.expires_at - token.issued_at
        when = f"{left:.1f} s before the end" if left > 0 else f"{-left:.1f} s after the end"
        self._voice(f"   * token refreshed for {token.audience}: {life}; {when} of {before.fingerprint}")
