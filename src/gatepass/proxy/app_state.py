"""AppState: the immutable set of objects that serve requests, built from one configuration.

`create_app_state` wires the objects and opens no connection. `next_app_state` does the same for a reload, and keeps
what did not change. `dialect_of` is the only place that chooses a dialect.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import ssl
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from gatepass.auth.authenticator import Authenticator
from gatepass.clock import Clock, SystemClock
from gatepass.config.access import JwtIssuer
from gatepass.config.checks import placement_of
from gatepass.config.credential.kinds import AnyCredential, LocalCredential, token_location
from gatepass.config.load import is_same
from gatepass.config.model import Config, Limits
from gatepass.config.routes import ANY
from gatepass.config.upstream import AzureConfig, DialectName, RagflowConfig, UpstreamConfig
from gatepass.dialects.azure import AzureDialect, deployment_of
from gatepass.dialects.base import Dialect, ResponseHeaders
from gatepass.dialects.ragflow import RagflowDialect
from gatepass.errors import TokenUnavailable
from gatepass.fair_queue import FairQueue
from gatepass.http_client.loop_turns import LoopTurns
from gatepass.http_client.pool import IDLE_S, SHORT_IDLE_S, Http1Transport, open_transport
from gatepass.http_client.tls import TLSContexts
from gatepass.learning.learned_rule import LearnedRuleRecord, RuleScope
from gatepass.learning.memory import Memory
from gatepass.normalize.ragflow_body import RagflowBody
from gatepass.normalize.rules import DeclaredModels
from gatepass.observability.access_log import AccessLog
from gatepass.observability.capture import Capture
from gatepass.observability.inspector import Inspector
from gatepass.observability.metrics import MAX_NAMES, Labels, Metrics, Sample
from gatepass.observability.observer import Observers
from gatepass.observability.redaction import Redactor
from gatepass.observability.traffic import Traffic
from gatepass.policy.balancing import AVAILABLE, TargetHealth
from gatepass.policy.limits import Counts, Subjects
from gatepass.policy.retry_budget import RetryBudget
from gatepass.protocols.operations import route_of
from gatepass.proxy.admission import Admission
from gatepass.proxy.body_threads import BodyThreads
from gatepass.proxy.in_flight import InFlightRequests, MemoryBudget
from gatepass.proxy.routing import Route, RouteTable
from gatepass.sse.dialect_transforms import RagflowTransforms
from gatepass.store.base import StoreUnavailable
from gatepass.store.guarded import GuardedStore, StoreState
from gatepass.tokens.credential_injector import CredentialInjector
from gatepass.tokens.failure import FetchFailure, failure_advice
from gatepass.tokens.holder import WINDOW_S, TokenHolder, WaitBudget
from gatepass.tokens.lifetime import Token
from gatepass.tokens.sharing import SharedSource, is_shared
from gatepass.tokens.source import build_source, transport_of
from gatepass.types import MCP_UPSTREAM, Timeouts, settings_of

if TYPE_CHECKING:
    from gatepass.auth.jwt_callers import JwtCallers
    from gatepass.auth.key_sets import KeySetHolder
    from gatepass.observability.tracing import Tracing

LOG = logging.getLogger("gatepass.store")


def dialect_of(settings: UpstreamConfig) -> Dialect:
    if settings.dialect == "azure":
        return AzureDialect(settings=settings.azure or AzureConfig(), deployment=deployment_of(settings.base_url))
    if settings.dialect == "ragflow":
        ragflow = settings.ragflow or RagflowConfig()
        return RagflowDialect((RagflowBody(ragflow.images, ragflow.paths),), paths=ragflow.paths)
    return Dialect()


UNAUTHORIZED = 401
FETCH_GRACE_S = 0.5
"""A request waits this much longer than the timeout of a token fetch, so its error contains the issuer's reason."""


LONGEST_USE_S = 3600.0
"""Requests in progress at a reload may use a removed credential or upstream for this long."""

MOST_MODELS = 1_000
"""The models that only clients name of which an upstream's waits are known: the one not used for longest leaves."""


class Place(asyncio.Event):
    """What stands for a request in the queue of an upstream. It is set when the request gets a place, or no room."""

    def __init__(self, caller: str, unread_s: Callable[[], float], abort: Callable[[], None]) -> None:
        """`unread_s` and `abort` are those of the client's `RequestCycle`."""
        super().__init__()
        self.caller, self.unread_s, self._abort = caller, unread_s, abort
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True
        self._abort()


class Accepted(msgspec.Struct, gc=False):
    """The last request for a model that the upstream answered without an error."""

    token: Token | None
    is_confirmed: bool
    """Whether its holder knows that the token was accepted, and the upstream rejected none since."""
    credential: object
    """The holder of its token, or what adds the headers."""
    at_s: float
    model: str
    """As the client named it."""
    scope: RuleScope


MOST_ACCEPTED = 100
"""The models of an upstream for which that is known: of more, the first one leaves."""


class UpstreamState:
    """What a process remembers of one upstream. A reload keeps it if the upstream's name and base URL stay the same."""

    __slots__ = ("accepted", "healths", "learned", "of_models", "queue")

    def __init__(self) -> None:
        self.learned = Memory()
        self.accepted: dict[str, Accepted] = {}
        """By its own names of the models."""
        self.healths: dict[str, TargetHealth] = {}
        """Of the targets at this upstream, by `Route.names`: no more than the configuration has."""
        self.of_models: dict[str, TargetHealth] = {}
        """Of the models that only clients name, at the targets of patterns, the one used last at the end."""
        self.queue = FairQueue[Place]()
        """The requests in progress that `max_in_flight` counts, and those that wait."""

    def health(self, name: str) -> TargetHealth:
        if name not in self.healths:
            self.healths[name] = TargetHealth()
        return self.healths[name]

    def of_model(self, model: str) -> TargetHealth:
        """Return the health of a model that a client names: a caller that may use one stops no other."""
        if model in self.healths:
            return self.healths[model]
        found = self.of_models.pop(model, None) or TargetHealth()
        self.of_models[model] = found
        if len(self.of_models) > MOST_MODELS:
            del self.of_models[next(iter(self.of_models))]
        return found


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """One configured upstream with its dialect, connections and credential."""

    name: str
    settings: UpstreamConfig
    dialect: Dialect
    transport: Http1Transport
    holder: TokenHolder | None
    timeouts: Timeouts
    injector: CredentialInjector
    transforms: RagflowTransforms | None
    response_headers: ResponseHeaders
    state: UpstreamState
    # values of `settings` that each request reads: an attribute of a model of pydantic takes ten times as long
    host: str
    base_url: str
    dialect_name: DialectName
    is_cumulative: bool
    forward_headers: list[str]
    credential: str
    """"" without one."""
    learns: bool
    includes_usage: bool
    rejection_statuses: frozenset[int]


IssuerConnection = tuple[ssl.SSLContext | None, int]
"""The TLS context of a credential's HTTP client, and a hash of its password for the proxy."""


class ProcessParts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of an AppState that the process keeps in a reload."""

    clock: Clock
    redactor: Redactor = msgspec.field(default_factory=Redactor)
    upstream_states: dict[tuple[str, str], UpstreamState] = msgspec.field(default_factory=dict)
    """By the name and base URL of the upstream."""
    repeats: defaultdict[str, RetryBudget] = msgspec.field(default_factory=partial(defaultdict, RetryBudget))
    """Requests and repeats by the name of the entry of `models`, see `policy.retry_budget`."""
    metrics: Metrics
    traffic: Traffic
    in_flight: InFlightRequests
    observers: Observers
    tracing: Tracing | None
    inspector: Inspector
    capture: Capture
    body_threads: BodyThreads = msgspec.field(default_factory=BodyThreads)
    turns: LoopTurns = msgspec.field(default_factory=LoopTurns)
    store: GuardedStore | None
    """None if this process shares nothing."""
    counts: Counts = msgspec.field(default_factory=Counts)
    end_users: Subjects = msgspec.field(default_factory=Subjects)
    of_rows: Subjects = msgspec.field(default_factory=partial(Subjects, are_invented=False))
    reload_problems: list[str] = msgspec.field(default_factory=list)
    """Why the last reload was refused, so that `/status` shows it."""


class AppState(ProcessParts, frozen=True, kw_only=True):
    """Everything that a request needs. A request uses the AppState that it began with."""

    config: Config
    limits: Limits
    base_path: str
    authenticator: Authenticator
    routes: RouteTable
    declared: DeclaredModels
    upstreams: Mapping[str, Upstream]
    """By name, those of `upstreams` and those of `mcp`: the server NAME is `mcp/NAME`."""
    admission: Admission | None
    holders: Mapping[str, TokenHolder]
    issuer_connections: Mapping[str, IssuerConnection]
    tls_contexts: TLSContexts

    def start(self) -> None:
        """Start to fetch tokens in the background, so that an unreachable issuer does not delay the start."""
        if self.store is not None:
            credentials = [name for name, one in self.config.credentials.items() if is_shared(one)]
            if credentials:
                LOG.info("sharing_tokens", extra={"fields": {**self.store.place, "credentials": credentials}})
            self.store.start()
            self.counts.start()
        if self.tracing is not None:
            self.tracing.start()
        for holder in self._fetching():
            holder.start()

    def _fetching(self) -> list[TokenHolder | KeySetHolder]:
        """Return what fetches in the background."""
        return [*self.holders.values(), *self.key_sets]

    @property
    def key_sets(self) -> Sequence[KeySetHolder]:
        """Those of `access.jwt`, in its order."""
        return () if self.authenticator.tokens is None else self.authenticator.tokens.holders

    def healths_of(self, route: Route) -> list[TargetHealth]:
        named = zip(route.targets, route.names, strict=True)
        return [self.upstreams[target.upstream].state.health(name) for target, name in named]

    def learned_rules(self) -> list[LearnedRuleRecord]:
        now_s, wall_s = self.clock.now(), self.clock.wall()
        memories = [upstream.state.learned for upstream in self.upstreams.values()]
        return [record for memory in memories for record in memory.records(now_s, wall_s)]

    def targets(self) -> Iterator[tuple[Route, int, TargetHealth, tuple[str, float]]]:
        """Yield each target of a route with several or a breaker: the route, its place, health and state.

        The state of a pattern's target is that of a model that is kept away, if there is one.
        """
        now_s, configured = self.clock.now(), self.routes.configured_name
        for route in self.routes.all:
            if len(route.targets) > 1 or route.breaker is not None:
                for at, health in enumerate(self.healths_of(route)):
                    known = [health]
                    if route.is_pattern and route.targets[at].model is None:
                        models = self.upstreams[route.targets[at].upstream].state.of_models.items()
                        known += [one for name, one in models if (configured(name) or ANY) == route.entry]
                    states = [one.state(now_s, route.breaker, has_cooldown=route.has_cooldown) for one in known]
                    yield route, at, health, next((one for one in states if one[0] != AVAILABLE), states[0])

    @property
    def ready(self) -> bool:
        """Whether the process is not draining and has a usable token for at least one upstream."""
        if self.in_flight.draining:
            return False
        return any(upstream.holder is None or upstream.holder.usable for upstream in self.upstreams.values())

    @property
    def has_all_tokens(self) -> bool:
        """Whether the process is not draining, every credential has a usable token, and no upstream rejects it.

        A rejection is ignored after WINDOW_S: a process without requests could not notice the recovery.
        """
        if self.in_flight.draining or not all(holder.usable for holder in self.holders.values()):
            return False
        return all(age_s >= WINDOW_S for age_s in self.rejection_ages_s().values())

    def rejection_ages_s(self) -> dict[str, float]:
        ages_s = {
            name: one.holder.rejection_age_s(name, one.base_url)
            for name, one in self.upstreams.items()
            if one.holder is not None
        }
        return {name: age_s for name, age_s in ages_s.items() if age_s is not None}

    def retry_failing(self) -> list[str]:
        """Let each failing or rejected credential, and each key set, fetch now. Return the names of the credentials."""
        for key_set in self.key_sets:  # its issuer may have withdrawn a key at once
            key_set.retry()
        return [name for name, holder in self.holders.items() if holder.retry()]

    def hand_over(self, successor: AppState) -> None:
        """Start `successor`. What it does not use closes when the requests in progress have ended."""
        kept = successor._fetching()
        holders = [holder for holder in self._fetching() if holder not in kept]
        used = [upstream.transport for upstream in successor.upstreams.values()]
        transports = [one.transport for one in self.upstreams.values() if one.transport not in used]
        servers = {(one.name, one.base_url) for one in successor.upstreams.values()}
        for server in self.upstream_states.keys() - servers:
            del self.upstream_states[server]  # requests in progress keep theirs
        for counts in (self.counts, self.end_users):
            counts.prune(self.clock.now())
        _take_over(successor)
        successor.authenticator.keys.keep_uses(self.authenticator.keys.last_used_s)
        for name, upstream in successor.upstreams.items():
            if (before := self.upstreams.get(name)) is None or not is_same(before.settings, upstream.settings):
                self.metrics.settings_changed(name)
        self.in_flight.set_callers(successor.config.access.callers)
        for holder in kept:
            holder.start()
        if holders or transports:
            self.in_flight.tasks.spawn(_close_unused(self.in_flight, self.clock, holders, transports), "close unused")

    async def aclose(self) -> None:
        self.capture.stop()
        # each may wait for a program
        await asyncio.gather(*(holder.aclose() for holder in self._fetching()))
        await self.in_flight.tasks.aclose()  # before the transports that the tasks use
        self.body_threads.close()
        for upstream in self.upstreams.values():
            await upstream.transport.aclose()
        await self.counts.aclose()
        if self.tracing is not None:
            await self.tracing.aclose()
        if self.store is not None:
            with suppress(StoreUnavailable):  # an unreachable store must not fail the shutdown
                await self.store.aclose()


async def _close_unused(
    in_flight: InFlightRequests,
    clock: Clock,
    holders: list[TokenHolder | KeySetHolder],
    transports: list[Http1Transport],
) -> None:
    """Close parts of a replaced AppState after the requests in progress, or when the process stops."""
    try:
        await in_flight.wait_for_current(clock, LONGEST_USE_S)
    finally:
        await asyncio.gather(*(holder.aclose() for holder in holders))
        for transport in transports:
            await transport.aclose()
    holders.clear()
    transports.clear()
    # They have reference cycles: without this, which takes 3 ms, 1,000 reloads add 15 MiB.
    gc.collect()


def create_app_state(config: Config, clock: Clock | None = None, store: GuardedStore | None = None) -> AppState:
    """Wire the objects for one configuration. Opens no connection and starts no task.

    AppState closes `store`; None: this process shares nothing. Raises OSError if a CA or certificate cannot be loaded,
    UnresolvedReference if the file of a secret was removed after the configuration was read.
    """
    clock = clock or SystemClock()
    limits, callers = config.limits, config.access.callers
    held_bytes = limits.held_bytes - limits.heads_bytes - limits.ring_bytes
    budget = MemoryBudget(held_bytes, callers, limits.body_bytes + limits.reply_bytes)
    in_flight = InFlightRequests(limits.connections, callers, budget)
    redactor = Redactor()
    counts = Counts()
    if store is not None:
        store.mask = redactor.mask
    if store is not None and config.store is not None:
        from gatepass.proxy.shared_counts import SharedCounts  # nothing configured, nothing imported

        counts = SharedCounts(store, clock)
    metrics, inspector = Metrics(redactor.mask), Inspector()
    # in the order in which they learn of an event
    observers, tracing = Observers([metrics, AccessLog(), inspector], metrics.observer_failed), None
    if config.tracing is not None:
        from gatepass.observability.tracing import Tracing  # nothing configured, nothing imported

        for secret in config.tracing.secrets():
            redactor.learn(secret)
        tracing = Tracing(config.tracing, clock, redactor.mask)
        observers.switch(tracing, on=True)
    parts = ProcessParts(
        clock=clock,
        redactor=redactor,
        metrics=metrics,
        traffic=Traffic(metrics),
        in_flight=in_flight,
        observers=observers,
        tracing=tracing,
        inspector=inspector,
        capture=Capture(clock, budget.hold, observers),
        store=store,
        counts=counts,
    )
    state = _assemble(config, parts, TLSContexts(), None)
    _take_over(state)
    return state


def next_app_state(config: Config, tls_contexts: TLSContexts, previous: AppState) -> AppState:
    """Return the state of a reload. `previous.hand_over` starts it. `tls_contexts` follow those of `previous`.

    It keeps the token holder of each credential, and the connections of each upstream, that did not change. Raises like
    `create_app_state`.
    """
    return _assemble(config, previous, tls_contexts, previous)


def _assemble(config: Config, parts: ProcessParts, tls_contexts: TLSContexts, previous: AppState | None) -> AppState:
    settings = config.upstreams | {MCP_UPSTREAM + name: server.as_upstream() for name, server in config.mcp.items()}
    connections = {name: _issuer_connection(one, tls_contexts) for name, one in config.credentials.items()}
    holders = {
        name: _kept_holder(name, one, connections[name], previous) or _new_holder(name, one, parts, tls_contexts)
        for name, one in config.credentials.items()
    }
    upstreams = dict[str, Upstream]()
    for name, one in settings.items():
        idle_s, most = SHORT_IDLE_S if name.startswith(MCP_UPSTREAM) else IDLE_S, one.max_connections
        tls = tls_contexts.context_for(one.network, one.base_url)
        transport = open_transport(one.network, most or config.limits.connections, tls, parts.turns, idle_s)
        holder = holders[one.credential] if one.credential else None
        injector = CredentialInjector(placement_of(one, config), one.headers, parts.redactor, name, one.query)
        before = None if previous is None else previous.upstreams.get(name)
        # a reload keeps the connections, unless the server or its network changed
        if before is not None and before.settings.base_url == one.base_url and transport.is_like(before.transport):
            transport = before.transport
        upstreams[name] = _upstream(name, one, parts, transport, holder, injector)
    _mask_secrets(config, parts.redactor)
    return AppState(
        config=config,
        limits=config.limits,
        base_path=config.server.base_path,
        authenticator=Authenticator(config, _jwt_callers(config, parts, tls_contexts, holders, previous)),
        routes=RouteTable(config),
        declared=DeclaredModels(config),
        upstreams=upstreams,
        admission=Admission(config, parts.counts, parts.clock, parts.metrics.limit_hit, parts.end_users, parts.of_rows)
        or None,
        holders=holders,
        issuer_connections=connections,
        tls_contexts=tls_contexts,
        **{name: getattr(parts, name) for name in ProcessParts.__struct_fields__},
    )


def _issuer_connection(settings: AnyCredential | JwtIssuer, tls_contexts: TLSContexts) -> IssuerConnection:
    if isinstance(settings, LocalCredential):
        return None, 0
    auth = settings.network.proxy_auth
    return tls_contexts.context_for(settings.network), hash(None if auth is None else auth.reveal())


def _kept_holder(
    name: str, settings: AnyCredential, connection: IssuerConnection, previous: AppState | None
) -> TokenHolder | None:
    """Return the holder of a credential that a reload did not change, None for another one."""
    if previous is None or previous.issuer_connections.get(name) != connection:
        return None
    return previous.holders[name] if is_same(settings, previous.config.credentials[name]) else None


def _new_holder(name: str, settings: AnyCredential, parts: ProcessParts, tls_contexts: TLSContexts) -> TokenHolder:
    advice = partial(failure_advice, credential=name, settings=settings)
    waits = WaitBudget(settings.timeout_s + FETCH_GRACE_S, token_location(settings), advice=advice)
    source = build_source(name, settings, transport_of(settings, tls_contexts), parts.clock)
    if parts.store is None or not is_shared(settings):
        holder = TokenHolder(name, source, parts.clock, parts.redactor, waits)
    else:
        shared = SharedSource(source, settings, parts.store, parts.clock)
        holder = TokenHolder(name, shared, parts.clock, parts.redactor, waits)
        shared.attach(parts.store.cache, holder)
    return holder


def _jwt_callers(
    config: Config,
    parts: ProcessParts,
    tls_contexts: TLSContexts,
    holders: Mapping[str, TokenHolder],
    previous: AppState | None,
) -> JwtCallers | None:
    """Return the callers by tokens, with the key sets that a reload did not change. None without `access.jwt`."""
    if not (entries := config.access.jwt):
        return None
    from gatepass.auth.jwt_callers import JwtCallers  # nothing configured, nothing imported
    from gatepass.auth.key_sets import KeySetFault, KeySetHolder
    from gatepass.tokens.key_set import KeySetSource
    from gatepass.tokens.token_endpoint import issuer_transport

    async def fetch(source: KeySetSource) -> tuple[bytes, float]:
        try:
            return await source.fetch()
        except (FetchFailure, TokenUnavailable) as failure:
            raise KeySetFault(str(failure)) from failure

    found = list[KeySetHolder]()
    before = () if previous is None else previous.key_sets
    for number, entry in enumerate(entries):
        context, holder = tls_contexts.context_for(entry.network), holders.get(entry.credential or "")
        setting, place = f"access.jwt[{number}]", (entry.issuer, entry.jwks)
        source = KeySetSource(setting, entry, issuer_transport(entry.network, context), holder, parts.clock)
        # the table may change without its keys
        made_of = (entry.model_copy(update={"callers": []}), _issuer_connection(entry, tls_contexts), holder)
        if (kept := next((one for one in before if is_same(one.made_of, made_of)), None)) is None:
            kept = KeySetHolder(setting, entry.issuer[0], partial(fetch, source), parts.clock, made_of, place)
            for one in before:
                if one.place == place:
                    kept.keep(one)
        found.append(kept)
    return JwtCallers(entries, found, parts.clock)


def _upstream(
    name: str,
    settings: UpstreamConfig,
    parts: ProcessParts,
    transport: Http1Transport,
    holder: TokenHolder | None,
    injector: CredentialInjector,
) -> Upstream:
    return Upstream(
        name=name,
        settings=settings,
        dialect=dialect_of(settings),
        transport=transport,
        holder=holder,
        timeouts=settings.timeouts.value(settings_of(name)),
        injector=injector,
        transforms=RagflowTransforms() if settings.dialect == "ragflow" else None,
        response_headers=ResponseHeaders(parts.redactor.holds, is_of_mcp=name.startswith(MCP_UPSTREAM)),
        state=parts.upstream_states.setdefault((name, settings.base_url), UpstreamState()),
        host=urlsplit(settings.base_url).netloc,
        base_url=settings.base_url,
        dialect_name=settings.dialect,
        is_cumulative=settings.repair.cumulative,
        forward_headers=settings.forward_headers,
        credential=settings.credential or "",
        learns=settings.learn == "on",
        includes_usage=settings.include_usage,
        rejection_statuses=frozenset((UNAUTHORIZED, *settings.rejection.statuses)),
    )


def _mask_secrets(config: Config, redactor: Redactor) -> None:
    for path, hop in config.hops():
        if hop.network.proxy_auth is not None:
            # the password of `user:password`
            redactor.learn(hop.network.proxy_auth.reveal().partition(":")[2], ("proxy_auth", path))
    for secret in () if config.store is None else (config.store.encryption_key, config.store.password):
        if secret is not None:
            redactor.learn(secret.reveal())
    for index, key in enumerate(config.access.keys):
        for place, text in enumerate(key.texts):
            redactor.learn(text, ("access.keys", index, place))


def _take_over(state: AppState) -> None:
    """Let the metrics read the objects and model names of `state`, and the inspector keep what `state` allows."""
    metrics = state.metrics
    groups = {caller.name: caller.group for caller in state.authenticator.configured if caller.group is not None}
    metrics.attach(partial(_sample, state), state.routes.configured_name, groups)
    for upstream in state.upstreams.values():
        upstream.transport.on_wait = partial(metrics.waited_for_connection, upstream.name)
        queue = upstream.state.queue
        queue.limit, queue.most_waiting = upstream.settings.max_in_flight, upstream.settings.queue
        while (ticket := queue.grant()) is not None:  # a reload raised the limit
            ticket.set()
    if state.tracing is not None:
        settings = {name: upstream.settings for name, upstream in state.upstreams.items()}
        state.tracing.scheme = "http" if state.config.server.tls is None else "https"
        state.tracing.attach(settings, partial(route_of, base_path=state.base_path))
    state.inspector.limit(state.limits.ring_bytes)


def _sample(state: AppState) -> Sample:
    values: defaultdict[str, dict[Labels, float]] = defaultdict(dict)
    values["gatepass_requests_in_flight_limit"][()] = state.config.limits.connections
    _sample_upstreams(state, values)
    for name, holder in state.holders.items():
        status, labels = holder.status(), (name,)
        # a usable token without an expiry, such as a static key, never expires
        left_s = status.expires_in_s if status.expires_in_s is not None else (math.inf if holder.usable else 0.0)
        values["gatepass_token_expires_in_seconds"][labels] = left_s
        values["gatepass_token_usable"][labels] = holder.usable
        values["gatepass_token_fetches_total"][labels] = status.fetches
        values["gatepass_token_fetch_failures_total"][labels] = status.failures
        if status.age_s is not None:
            values["gatepass_token_age_seconds"][labels] = status.age_s
    for route, at, health, (word, _) in state.targets():
        of_target = (route.targets[at].upstream, route.names[at])
        is_free = word == AVAILABLE and values["gatepass_target_available"].get(of_target, True)
        values["gatepass_target_available"][of_target] = is_free
        values["gatepass_target_in_flight"][of_target] = health.in_flight
        if route.breaker is not None:
            values["gatepass_target_ejections_total"][of_target] = health.ejected_times
    ends = [(key.expires.timestamp(), key) for key in state.authenticator.keys.known if key.expires is not None]
    for end_s, key in sorted(ends, key=itemgetter(0))[:MAX_NAMES]:
        values["gatepass_key_expires_in_seconds"][key.name, key.id] = max(0.0, end_s - state.clock.wall())
    if state.admission is not None:
        values["gatepass_limit_left_ratio"] = state.admission.budgets()
    if state.store is not None:
        store = state.store.health
        values["gatepass_store_up"][()] = store.state is StoreState.UP
        values["gatepass_store_operations_total"].update(store.operations.items())
        values["gatepass_limits_store_up"][()] = state.counts.fault is None
    if state.config.mcp:
        values["gatepass_mcp_streams"][()] = len(state.in_flight.idle_streams)
    return Sample(values, [request.response.context.metrics_key() for request in state.in_flight.requests])


def _sample_upstreams(state: AppState, values: defaultdict[str, dict[Labels, float]]) -> None:
    rejections = state.rejection_ages_s()
    for name, upstream in state.upstreams.items():
        counts = upstream.transport.counts
        values["gatepass_upstream_connections"] |= {(name, "busy"): counts.busy, (name, "idle"): counts.idle}
        values["gatepass_upstream_connections_limit"][(name,)] = upstream.transport.max_connections
        values["gatepass_pool_waiting_requests"][(name,)] = counts.waiting
        if upstream.state.queue.limit is not None:
            values["gatepass_queue_waiting_requests"][(name,)] = len(upstream.state.queue.waiting)
        values["gatepass_learned_rules"][(name,)] = 0
        if upstream.holder is not None:
            values["gatepass_upstream_rejects_token"][(name,)] = name in rejections
    for record in state.learned_rules():
        values["gatepass_learned_rules"][(record.scope.upstream,)] += 1
