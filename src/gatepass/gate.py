"""The Gate: one immutable table of references, made from one configuration; and Live, what moves.

Nothing here decides anything. A request holds the Gate it came in by until it is done.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

from gatepass.adapt.chain import BUILT_IN, LAST
from gatepass.adapt.declared import Declared
from gatepass.adapt.learner import Learner
from gatepass.adapt.profile import Prepared, prepared
from gatepass.adapt.rule import Rule
from gatepass.adapt.sharing import SharedLessons, shared_names
from gatepass.admission.doors import Doors
from gatepass.admission.keys import key_texts
from gatepass.call import Call, Timeouts
from gatepass.config.clashes import carry_of
from gatepass.config.credential.kinds import AnyCredential
from gatepass.config.credential.place import place_of
from gatepass.config.model import Config
from gatepass.config.upstream import Upstream
from gatepass.errors import Draining, Overloaded
from gatepass.observe.metrics import CredentialSample, Metrics
from gatepass.observe.redaction import Redactor
from gatepass.relay.shaping import Plain, Shaping, shaping_of
from gatepass.routing.table import RouteTable
from gatepass.runtime import Clock, Leash, Rounds, SystemClock, Tasks, sleep
from gatepass.store.memory import MemoryStore
from gatepass.store.seam import Store, StoreUnavailable
from gatepass.store.snapshot import Snapshot
from gatepass.tokens.holder import TokenHolder
from gatepass.tokens.shared import SharedSource, is_shareable
from gatepass.tokens.shared_keepsake import keepsake_for
from gatepass.tokens.source import build_source, is_repeatable
from gatepass.transport.choice import open_transport
from gatepass.transport.seam import Transport
from gatepass.transport.tls import Trust
from gatepass.upstream.authorize import Carrier
from gatepass.upstream.choice import dialect_of
from gatepass.upstream.dialect import Dialect

ISSUER_CONNECTIONS = 4
"""A credential has one fetch under way; the rest are connections that are still closing."""

FETCH_GRACE_S = 0.5
"""A request waits this much longer than a fetch may take: it then hears the issuer's own reason."""

LAST_WORDS_S = 2.0
"""How long the streams that a drain ends may take to write their error event."""

ROUND_S = 1.0
"""How often it is looked whether a stream has fallen silent."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One upstream, ready to be used."""

    name: str
    settings: Upstream
    dialect: Dialect
    transport: Transport
    holder: TokenHolder | None
    timeouts: Timeouts
    carrier: Carrier = field(default_factory=Carrier)
    shaping: Shaping = field(default_factory=Plain)
    host: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", urlsplit(self.settings.base_url).netloc)


class Reply(Protocol):
    """What a request is under way for."""

    @property
    def is_out(self) -> bool:
        """Whether the client's connection has taken all of it."""
        ...


class Live:
    """The requests under way in this process, and whether new ones may come."""

    def __init__(self, limit: int) -> None:
        self.tasks = Tasks()
        self.draining = False
        self._limit = limit
        self._places: set[Place] = set()
        self._idle = asyncio.Event()
        """Set while a drain finds nothing under way."""
        self._hurried = asyncio.Event()

    @property
    def busy(self) -> int:
        """How many requests are under way."""
        return len(self._places)

    def admit(self, reply: Reply) -> Place:
        """A place for one request, held by a `with` block; raises Draining or Overloaded where there is none."""
        if self.draining:
            raise Draining("gatepass is stopping. Send the request again: another instance takes it.", retry_after_s=1)
        if len(self._places) >= self._limit:
            raise Overloaded(
                f"{self._limit} requests are under way, which is the limit (limits.connections).", retry_after_s=1
            )
        return Place(self, reply)

    def enter(self, place: Place) -> None:
        self._places.add(place)

    def leave(self, place: Place) -> None:
        self._places.discard(place)
        if self.draining and not self._places:
            self._idle.set()

    async def drain(self, clock: Clock, bound_s: float) -> int:
        """Let what runs end by itself for `bound_s` or until `hurry`, then end the rest; returns how many that were."""
        self.draining = True
        if not self._places:
            self._idle.set()
        if await self._idle_within(clock, bound_s, self._hurried):
            return 0
        rest = [place for place in self._places if not place.is_answered]
        for place in rest:
            place.pull(Draining("gatepass stopped before the answer was complete."))
        await self._idle_within(clock, LAST_WORDS_S, asyncio.Event())
        return len(rest)

    def hurry(self) -> None:
        """A drain that is under way waits no longer."""
        self._hurried.set()

    async def _idle_within(self, clock: Clock, bound_s: float, hurried: asyncio.Event) -> bool:
        waits = [asyncio.create_task(wait) for wait in (self._idle.wait(), sleep(clock, bound_s), hurried.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._idle.is_set()


class Place(Leash):
    """One of the requests under way, on its leash. Nothing ends it any more when its reply is out: neither the client
    that leaves with it, nor a deadline, nor a drain."""

    def __init__(self, live: Live, reply: Reply) -> None:
        super().__init__()
        self._live = live
        self._reply = reply

    @property
    def is_answered(self) -> bool:
        return self._reply.is_out

    def pull(self, reason: BaseException) -> None:
        if not self._reply.is_out:
            super().pull(reason)

    def __enter__(self) -> Self:
        super().__enter__()
        self._live.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.leave(self)
        super().__exit__(kind, error, trace)


@dataclass(frozen=True, slots=True)
class Gate:
    """Everything a request needs, by reference."""

    config: Config
    clock: Clock
    redactor: Redactor
    doors: Doors
    routes: RouteTable
    rules: tuple[Rule, ...]
    declared: Declared
    profiles: Mapping[str, Prepared]
    has_pages: bool
    """Whether a profile lets pages of other origins in."""
    learner: Learner
    lessons: SharedLessons
    hops: Mapping[str, Hop]
    holders: Mapping[str, TokenHolder]
    transports: tuple[Transport, ...]
    metrics: Metrics
    live: Live
    rounds: Rounds
    store: Store
    snapshot: Snapshot

    def rules_for(self, call: Call) -> tuple[Rule, ...]:
        """The rules that `call` goes through before any lesson: the built-in ones, then its model's own."""
        declared = self.declared.rules(call.operation.name, call.model)
        return (*self.rules, *declared, *LAST) if declared else self.rules

    def start(self) -> None:
        """Begin minting tokens, in the background: a dead issuer does not stop the start."""
        self.snapshot.start()
        self.lessons.start()
        for holder in self.holders.values():
            holder.start()

    @property
    def ready(self) -> bool:
        """Whether a request could be served now: not draining, and a usable token for some upstream."""
        if self.live.draining:
            return False
        return any(hop.holder is None or hop.holder.usable for hop in self.hops.values())

    async def aclose(self) -> None:
        for holder in self.holders.values():
            await holder.aclose()
        await self.live.tasks.aclose()
        for transport in self.transports:
            await transport.aclose()
        await self.lessons.aclose()
        await self.snapshot.aclose()
        with suppress(StoreUnavailable):
            await self.store.aclose()


def build_gate(config: Config, clock: Clock | None = None, store: Store | None = None) -> Gate:
    """Wire one configuration. Opens nothing; raises OSError where a CA or certificate cannot be loaded, and
    UnresolvedReference where the file of a secret is away that was there when the configuration was read.

    `store` is what this process shares with others, and the Gate's to close; without one it shares nothing.
    """
    clock = clock or SystemClock()
    store = store or MemoryStore(clock)
    snapshot = Snapshot(store, clock)
    learner = Learner()
    redactor = Redactor()
    trust = Trust()
    issuers = {
        name: open_transport(credential.network, ISSUER_CONNECTIONS, trust.of(credential.network))
        for name, credential in config.credentials.items()
    }
    holders = {
        name: _holder(name, credential, issuers[name], clock, redactor, store, snapshot)
        for name, credential in config.credentials.items()
    }
    hops = {name: _hop(name, upstream, config, holders, trust, redactor) for name, upstream in config.upstreams.items()}
    for network in (hop.network for hop in (*config.upstreams.values(), *config.credentials.values())):
        if network.proxy_auth is not None:
            redactor.learn(network.proxy_auth.reveal().partition(":")[2])
    for secret in () if config.store is None else (config.store.encryption_key, config.store.password):
        if secret is not None:
            redactor.learn(secret.reveal())
    for key in config.access.keys:
        for text in key_texts(key):
            redactor.learn(text)
    return Gate(
        config=config,
        clock=clock,
        redactor=redactor,
        doors=Doors(config),
        routes=RouteTable.from_config(config),
        rules=BUILT_IN,
        declared=Declared(config),
        profiles=prepared(config.profiles),
        has_pages=any(profile.cors_origins for profile in config.profiles.values()),
        learner=learner,
        lessons=SharedLessons(learner.memory, shared_names(config, store.reach), store, snapshot, clock),
        hops=hops,
        holders=holders,
        transports=(*issuers.values(), *(hop.transport for hop in hops.values())),
        metrics=Metrics(lambda: [_sample(name, holder) for name, holder in holders.items()]),
        live=Live(config.limits.connections),
        rounds=Rounds(clock, ROUND_S),
        store=store,
        snapshot=snapshot,
    )


def _holder(
    name: str,
    settings: AnyCredential,
    issuer: Transport,
    clock: Clock,
    redactor: Redactor,
    store: Store,
    snapshot: Snapshot,
) -> TokenHolder:
    budget_s = settings.timeout_s + FETCH_GRACE_S
    holding = partial(TokenHolder, budget_s=budget_s, place=place_of(settings), repeatable=is_repeatable(settings))
    source = build_source(name, settings, issuer, clock, keepsake_for(settings, store, clock))
    if not is_shareable(settings.type, store.reach):
        return holding(name, source, clock, redactor)
    shared = SharedSource(source, settings, store, clock)
    holder = holding(name, shared, clock, redactor, refused=shared.rejected)
    shared.join(snapshot, holder.offer)
    return holder


def _hop(
    name: str, settings: Upstream, config: Config, holders: Mapping[str, TokenHolder], trust: Trust, redactor: Redactor
) -> Hop:
    return Hop(
        name=name,
        settings=settings,
        dialect=dialect_of(settings),
        transport=open_transport(
            settings.network, settings.max_connections or config.limits.connections, trust.of(settings.network)
        ),
        holder=holders[settings.credential] if settings.credential else None,
        timeouts=settings.timeouts.value(),
        carrier=Carrier(carry_of(settings, config), settings.headers, redactor, name),
        shaping=shaping_of(settings.dialect),
    )


def _sample(name: str, holder: TokenHolder) -> CredentialSample:
    status = holder.status()
    left_s = status.left_s if status.left_s is not None else (math.inf if holder.usable else 0.0)
    return CredentialSample(
        name,
        usable=holder.usable,
        life_left_s=left_s,
        fetches=status.fetches,
        failures=status.failures,
    )
