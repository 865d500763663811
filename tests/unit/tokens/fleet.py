"""Several gatepass processes with separate clocks, which share a store and an issuer, in one loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from gatepass.clock import sleep
from gatepass.observability.redaction import Redactor
from gatepass.store.base import StoreCache, StoreUnavailable
from gatepass.store.encrypted import StoreKey
from gatepass.store.guarded import GuardedStore
from gatepass.tokens import Token, TokenHolder, WaitBudget, build_source
from gatepass.tokens.sharing import SharedSource
from gatepass.types import OutboundRequest
from tests.unit.clock import DrivenClock, settle
from tests.unit.store.memory import MemoryStore
from tests.unit.tokens.scripted import Far, Reply, RunningHolder, ScriptedIssuer, oauth2


class OwnClock:
    """A machine's own clock, `ahead_s` of the test's."""

    def __init__(self, clock: DrivenClock, ahead_s: float) -> None:
        self._clock, self.ahead_s = clock, ahead_s

    def now(self) -> float:
        return self._clock.now() + self.ahead_s

    def wall(self) -> float:
        return self._clock.wall() + self.ahead_s

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Any:
        return self._clock.call_later(delay_s, callback)


class Wire:
    """One process's way to the store. `state`: up, down (fails at once), or hung. `delay_s` is for one way.

    `at_request` is called with the number of each request before it goes out.
    """

    def __init__(self, store: MemoryStore, clock: OwnClock) -> None:
        self._store, self._clock = store, clock
        self.state = "up"
        self.delay_s = 0.0
        self.requests: list[tuple[str, str]] = []
        self.names_read: set[str] = set()
        self.at_request: Callable[[int], object] = lambda _: None

    async def _ask(self, what: str, name: str, work: Callable[[], Any]) -> Any:
        self.requests.append((what, name.partition(":")[0]))
        self.at_request(len(self.requests))
        await self._pass()
        result = await work()
        await self._pass()
        return result

    async def _pass(self) -> None:
        if self.delay_s:
            await sleep(self._clock, self.delay_s)
        await asyncio.sleep(0)
        if self.state == "down":
            raise StoreUnavailable("no connection")
        if self.state == "hung":
            await asyncio.Event().wait()

    async def get(self, names):
        self.names_read |= {*names}
        started_s = self._clock.now()
        reading = await self._ask("get", next(iter(names)), lambda: self._store.get(names))
        return replace(reading, started_s=started_s, finished_s=self._clock.now())

    async def put(self, name, value, ttl_s):
        await self._ask("put", name, lambda: self._store.put(name, value, ttl_s))

    async def drop(self, name):
        await self._ask("drop", name, lambda: self._store.drop(name))

    async def count(self, name, ttl_s):
        return await self._ask("count", name, lambda: self._store.count(name, ttl_s))

    async def lease(self, name, owner, ttl_s):
        return await self._ask("lease", name, lambda: self._store.lease(name, owner, ttl_s))

    async def release(self, name, owner):
        await self._ask("release", name, lambda: self._store.release(name, owner))

    async def evaluate(self, script, commands):
        raise AssertionError("tokens need no script")

    async def aclose(self):
        raise AssertionError("the store is its owner's to close")


class IssuerClient:
    """One process's way to the issuer; `open`: its requests go through, else they hang."""

    def __init__(self, issuer: ScriptedIssuer) -> None:
        self._issuer = issuer
        self.open = True
        self.under_way = 0

    def __call__(self) -> Far:
        return Far(self.play)

    async def play(self, request: OutboundRequest) -> Reply:
        self.under_way += 1
        try:
            if not self.open:
                await asyncio.Event().wait()
            return await self._issuer.play(request)
        finally:
            self.under_way -= 1


class Replica:
    """One process: a holder over a shared source."""

    def __init__(self, fleet: Fleet, ahead_s: float, settings: Any, jitter: float) -> None:
        self.clock = OwnClock(fleet.clock, ahead_s)
        self.wire = Wire(fleet.store, self.clock)
        self.store = GuardedStore(self.wire, self.clock, {}, StoreKey(b"k" * 32))
        self.snapshot = StoreCache(self.store, self.clock)
        self.redactor = Redactor()
        self.issuer_client = IssuerClient(fleet.issuer)
        source = build_source("corp", settings, self.issuer_client, self.clock)
        self.source = SharedSource(source, settings, self.store, self.clock)
        self.holder = TokenHolder(
            "corp",
            self.source,
            self.clock,
            self.redactor,
            WaitBudget(settings.timeout_s, random_fraction=lambda: jitter),
        )
        self.source.attach(self.snapshot, self.holder)

    def start(self) -> None:
        self.snapshot.start()
        self.holder.start()

    async def aclose(self) -> None:
        await self.holder.aclose()
        await self.snapshot.aclose()

    async def kill(self) -> None:
        """End as at SIGKILL: without a last request to the store."""
        self.wire.state = "down"
        await self.aclose()

    @property
    def asks(self) -> bool:
        """Whether a request of this process is under way at the issuer."""
        return self.issuer_client.under_way > 0

    @property
    def text(self) -> str | None:
        token = self.holder.current()
        return token.text if token else None


class Fleet:
    """`count` processes. Use as `async with`; `ahead_s` are the differences of their clocks."""

    def __init__(
        self,
        issuer: ScriptedIssuer,
        count: int = 4,
        *,
        ahead_s: tuple[float, ...] = (),
        settings: Any = None,
        jitter: float = 0.0,
    ) -> None:
        self.clock, self.issuer, self.jitter = issuer.clock, issuer, jitter
        self.settings = settings or oauth2()
        self.store = MemoryStore(OwnClock(self.clock, 1_700_000_000.0))
        self.replicas = [self.new_replica(ahead) for ahead in ahead_s or (0.0,) * count]
        self.gone: list[Replica] = []

    def new_replica(self, ahead_s: float = 0.0, settings: Any = None) -> Replica:
        """One more process that is neither started nor one of `replicas` yet."""
        return Replica(self, ahead_s, settings or self.settings, self.jitter)

    async def __aenter__(self) -> Self:
        for replica in self.replicas:
            replica.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for replica in self.replicas:
            await replica.aclose()
        await settle()
        assert (self.issuer.open, self.issuer.under_way) == (0, 0), "a response was left open"

    async def join(self, settings: Any = None, ahead_s: float = 0.0) -> Replica:
        """One more process."""
        replica = self.new_replica(ahead_s, settings)
        self.replicas.append(replica)
        replica.start()
        await settle()
        return replica

    async def kill(self, replica: Replica) -> None:
        self.replicas.remove(replica)
        await replica.kill()

    @property
    def texts(self) -> list[str | None]:
        return [replica.text for replica in self.replicas]


class Upstream:
    """Accepts what the issuer minted last and nothing else, as where a new token ends the old one."""

    def __init__(self, issuer: ScriptedIssuer) -> None:
        self.issuer = issuer
        self.refused = self.served = self.lost = 0

    async def serve(self, replica: Replica | RunningHolder) -> Token | None:
        """One request, as gatepass sends it: with one retry after a rejection."""
        token = await replica.holder.token()
        if token.text == self.issuer.minted[-1]:
            replica.holder.confirm(token)
            self.served += 1
            return token
        self.refused += 1
        if replica.holder.reject(token.text):
            token = await replica.holder.token(instead_of=token.text)
            if token.text == self.issuer.minted[-1]:
                replica.holder.confirm(token)
                self.served += 1
                return token
        self.lost += 1
        return None
