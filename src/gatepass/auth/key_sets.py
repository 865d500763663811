"""The key set of an issuer of callers' tokens: fetched in the background, and again for an unknown key.

The last keys stay for a day while the issuer cannot be reached, so that its outage ends no caller's work.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from gatepass import documents
from gatepass.auth.jwt_verdict import KeySet, Token, span_text
from gatepass.cancel import Tasks
from gatepass.clock import Clock, sleep
from gatepass.config.advice import Advice
from gatepass.errors import KeySetUnavailable
from gatepass.fair_queue import FairQueue

LOG = logging.getLogger("gatepass.callers")

AGAIN_S = 10.0
"""Seconds between two fetches because of an unknown `kid`, a wrong signature or a failure. A client may invent both."""
MOST_WAITING = 100
"""How many tokens may wait for a fetch of one set, in lines of FairQueue, which has no place for them: all wake in one
turn of the loop, and clients may invent a `kid`."""
KEPT_S = 86_400.0
"""How long the last keys are used while the issuer cannot be reached."""


class KeySetFault(Exception):
    """Why a key set could not be fetched, without a secret."""


FetchKeys = Callable[[], Awaitable[tuple[bytes, float]]]
"""Returns the document of a key set, and when to fetch it again in seconds; raises KeySetFault within a bound."""


class KeySetHolder:
    """Holds the keys of one entry of `access.jwt`. `start` requires a running event loop."""

    def __init__(
        self, setting: str, issuer: str, fetch: FetchKeys, clock: Clock, made_of: object, place: object
    ) -> None:
        """A reload that changes nothing of `made_of` keeps the holder, and one that changes no `place` the keys."""
        self.setting, self.issuer, self.made_of, self.place = setting, issuer, made_of, place
        self._fetch, self._clock = fetch, clock
        self._keys: KeySet | None = None
        self._document: bytes | None = None
        self._fetched_s = self._asked_s = -math.inf
        self._next_s = -math.inf
        self.fault = ""
        """Why the last fetch failed, "" after one that succeeded."""
        self._running: asyncio.Task[None] | None = None
        self._waiting = FairQueue[asyncio.Event](0, MOST_WAITING)
        self._tasks = Tasks()
        self._is_started = False

    def keep(self, previous: KeySetHolder) -> None:
        """Begin with the keys that `previous` has of the same place, until the first fetch: the issuer may be down."""
        self._keys, self._document, self._fetched_s = previous._keys, previous._document, previous._fetched_s

    def start(self) -> None:
        """Begin to fetch in the background, once."""
        if not self._is_started:
            self._is_started = True
            self._tasks.keep(self._refresh, f"key set of {self.setting}", self._failed, self._pause)

    async def aclose(self) -> None:
        await self._tasks.aclose()

    @property
    def keys(self) -> KeySet | None:
        """The keys that are not too old. None: no fetch has succeeded within KEPT_S."""
        return None if self._clock.now() - self._fetched_s > KEPT_S else self._keys

    def status(self) -> documents.KeySet:
        keys, fault = self.keys, self.fault or None
        age_s = None if keys is None else round(self._clock.now() - self._fetched_s, 3)
        unusable = (keys and keys.problem) or None
        return documents.KeySet(issuer=self.issuer, keys=len(keys or ()), age_s=age_s, fault=fault, unusable=unusable)

    def age_text(self) -> str:
        """Return when the keys were fetched, for an error."""
        return f"fetched {span_text(self._clock.now() - self._fetched_s)} ago"

    async def keys_for(self, token: Token, line: str) -> KeySet:
        """Return the keys, fetched again if they have none for `token`. Known keys never wait. `line` as for `fetched`.

        Raises KeySetUnavailable if no keys were ever fetched, or none for a day.
        """
        if (keys := self.keys) is None or keys.find(token) is None:
            keys = await self.fetched(line)
        if keys is None:
            when = "since its start" if self._fetched_s == -math.inf else "within the last day"
            raise KeySetUnavailable(  # log, `status` and `doctor` report the reason; a client does not learn it
                f"gatepass fetched no keys of the issuer {self.issuer} {when}.",
                advice=str(Advice("key_set_unavailable", {"setting": self.setting})),
                setting=self.setting,
                retry_after_s=max(1.0, self._asked_s + AGAIN_S - self._clock.now()),
            )
        return keys

    def retry(self) -> None:
        """Fetch again in the background: an operator asked for it, and AGAIN_S is for those who need no key."""
        self._asked_s = -math.inf
        self._tasks.spawn(self.fetched(), f"key set of {self.setting}, by an operator")

    async def fetched(self, line: str = "") -> KeySet | None:
        """Fetch again, but not twice in AGAIN_S, and return `keys`: those of before if too many of `line` wait."""
        if self._running is None and self._clock.now() - self._asked_s >= AGAIN_S:
            self._asked_s = self._clock.now()
            self._running = self._tasks.spawn(self._fetch_once(), f"key set of {self.setting}")
            self._running.add_done_callback(self._end_fetch)
        if self._running is not None:
            # all wait for one fetch: a client that leaves does not end it, and no client causes its failure
            waiting = asyncio.Event()
            if (left_out := self._waiting.enter(waiting, line, weight=1)) is not None:
                left_out.set()
            try:
                await waiting.wait()
            finally:
                self._waiting.leave(waiting)
        return self.keys

    def _end_fetch(self, _: asyncio.Task[None]) -> None:
        self._running = None
        for one in self._waiting.waiting:
            one.set()

    async def _fetch_once(self) -> None:
        try:
            document, again_s = await self._fetch()
            if document != self._document:  # the remembered tokens stay verified: the keys are the same
                keys = KeySet(document)
                for _ in keys.make():
                    await asyncio.sleep(0)  # no request waits for the keys of others
                self._keys, self._document = keys, document
                why = {"reason": keys.problem} if keys.problem else {}
                fields = {"issuer": self.issuer, "keys": len(keys), **why}
                LOG.log(logging.WARNING if why else logging.INFO, "key_set_fetched", extra={"fields": fields})
        except (KeySetFault, ValueError) as error:
            self._failed(error)
        else:
            self._fetched_s, self.fault = self._clock.now(), ""
            self._next_s = self._fetched_s + again_s

    def _failed(self, error: BaseException) -> None:
        self._next_s = self._clock.now() + AGAIN_S
        if (why := str(error)) != self.fault:
            LOG.warning("key_set_failed", extra={"fields": {"issuer": self.issuer, "reason": why}})
        self.fault = why

    async def _refresh(self) -> None:
        while True:
            if self._clock.now() >= self._next_s:
                await self.fetched()
            await self._pause()

    async def _pause(self) -> None:
        await sleep(self._clock, max(AGAIN_S, self._next_s - self._clock.now()))
