"""AppState: the immutable set of objects that serve requests, built from one configuration.

`create_app_state` wires the objects and opens no connection. `dialect_of` is the only place that chooses a dialect.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

from gatepass.auth.api_keys import key_texts
from gatepass.auth.authenticator import Authenticator
from gatepass.clock import Clock, PeriodicChecks, SystemClock
from gatepass.config.checks import placement_of
from gatepass.config.credential.kinds import AnyCredential, token_location
from gatepass.config.model import Config
from gatepass.config.upstream import AzureConfig, RagflowConfig, UpstreamConfig
from gatepass.dialects.azure import AzureDialect, deployment_of
from gatepass.dialects.base import Dialect, ResponseHeaders
from gatepass.dialects.ragflow import RagflowBody, RagflowDialect
from gatepass.http_client.pool import Http1Transport, open_transport
from gatepass.http_client.tls import TLSContexts
from gatepass.learning.session import Learner
from gatepass.normalize.built_in import BUILT_IN, LAST
from gatepass.normalize.declared import Declared
from gatepass.normalize.profiles import ProfileRules, build_profiles
from gatepass.normalize.rule import Rule
from gatepass.observability.metrics import CredentialSample, Metrics, PoolSample, Sample, StoreSample
from gatepass.observability.redaction import Redactor
from gatepass.proxy.in_flight import InFlightRequests
from gatepass.proxy.routing import RouteTable
from gatepass.sse.dialect_transforms import DialectTransforms, dialect_transforms
from gatepass.store.base import Store, StoreCache, StoreUnavailable
from gatepass.store.guarded import GuardedStore, StoreState
from gatepass.store.memory import MemoryStore
from gatepass.tokens.credential_injector import CredentialInjector
from gatepass.tokens.holder import TokenHolder, WaitBudget
from gatepass.tokens.sharing import SharedSource, is_shareable, shared_refresh_token_store
from gatepass.tokens.source import build_source, open_client
from gatepass.types import Call, Timeouts

LOG = logging.getLogger("gatepass.store")


def dialect_of(settings: UpstreamConfig) -> Dialect:
    """Return the dialect that `settings` configure."""
    if settings.dialect == "azure":
        return AzureDialect(settings=settings.azure or AzureConfig(), deployment=deployment_of(settings.base_url))
    if settings.dialect == "ragflow":
        ragflow = settings.ragflow or RagflowConfig()
        return RagflowDialect((RagflowBody(ragflow.images, ragflow.paths),), paths=ragflow.paths)
    return Dialect()


FETCH_GRACE_S = 0.5
"""A request waits this much longer than the timeout of a token fetch, so its error contains the issuer's reason."""

CHECK_EVERY_S = 1.0
"""Interval at which keep-alives check for streams that pause."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One configured upstream with its dialect, connections and credential."""

    name: str
    settings: UpstreamConfig
    dialect: Dialect
    transport: Http1Transport
    holder: TokenHolder | None
    timeouts: Timeouts
    injector: CredentialInjector = field(default_factory=CredentialInjector)
    transforms: DialectTransforms | None = None
    response_headers: ResponseHeaders = field(default_factory=ResponseHeaders)
    host: str = field(init=False)

    def __post_init__(self) -> None:
        # the only way to set a derived field of a frozen dataclass
        object.__setattr__(self, "host", urlsplit(self.settings.base_url).netloc)


@dataclass(frozen=True, slots=True)
class AppState:
    """Everything that a request needs; it holds references only and contains no logic."""

    config: Config
    clock: Clock
    redactor: Redactor
    authenticator: Authenticator
    routes: RouteTable
    rules: tuple[Rule, ...]
    declared: Declared
    profiles: Mapping[str, ProfileRules]
    has_pages: bool
    """Whether a profile allows browser pages of other origins (`cors_origins`)."""
    keeps_bodies: bool
    """Whether the first characters of bodies are logged (`log.bodies`)."""
    learner: Learner
    upstreams: Mapping[str, Upstream]
    holders: Mapping[str, TokenHolder]
    transports: tuple[Http1Transport, ...]
    metrics: Metrics
    in_flight: InFlightRequests
    periodic_checks: PeriodicChecks
    store: Store
    store_cache: StoreCache

    def rules_for(self, call: Call) -> tuple[Rule, ...]:
        """Return the rules applied to `call` before the learned ones: the built-in rules, then those of its model."""
        declared = self.declared.rules(call.operation.name, call.model)
        return (*self.rules, *declared, *LAST) if declared else self.rules

    @property
    def shared_store(self) -> GuardedStore | None:
        """The store that this process shares with others, None if it shares nothing."""
        return self.store if isinstance(self.store, GuardedStore) else None

    def start(self) -> None:
        """Start to fetch tokens in the background, so that an unreachable issuer does not delay the start."""
        if (shared := self.shared_store) is not None:
            settings = self.config.credentials.items()
            credentials = [name for name, one in settings if is_shareable(one.type, shared.scope)]
            if credentials:
                LOG.info("sharing_tokens", extra={"fields": {**shared.place, "credentials": credentials}})
            shared.start()
        self.store_cache.start()
        for holder in self.holders.values():
            holder.start()

    @property
    def ready(self) -> bool:
        """Whether the process is not draining and has a usable token for at least one upstream."""
        if self.in_flight.draining:
            return False
        return any(upstream.holder is None or upstream.holder.usable for upstream in self.upstreams.values())

    async def aclose(self) -> None:
        for holder in self.holders.values():
            await holder.aclose()
        await self.in_flight.tasks.aclose()  # before the transports that the tasks use
        for transport in self.transports:
            await transport.aclose()
        await self.store_cache.aclose()
        with suppress(StoreUnavailable):  # an unreachable store must not fail the shutdown
            await self.store.aclose()


def create_app_state(config: Config, clock: Clock | None = None, store: Store | None = None) -> AppState:
    """Wire the objects for one configuration. Opens no connection and starts no task.

    `store` is shared with other processes; AppState closes it. None: this process shares nothing.
    Raises: OSError if a CA or certificate cannot be loaded, UnresolvedReference if the file of a secret was removed
    after the configuration was read.
    """
    clock = clock or SystemClock()
    store = store or MemoryStore(clock)
    store_cache = StoreCache(store, clock)
    learner = Learner()
    redactor = Redactor()
    tls_contexts = TLSContexts()
    holders = {
        name: _create_holder(name, credential, _HolderContext(tls_contexts, clock, redactor, store, store_cache))
        for name, credential in config.credentials.items()
    }
    upstreams = {name: _create_upstream(name, config, holders, tls_contexts, redactor) for name in config.upstreams}
    # all configured secrets are masked in logs and error messages
    for network in (one.network for one in (*config.upstreams.values(), *config.credentials.values())):
        if network.proxy_auth is not None:
            redactor.learn(network.proxy_auth.reveal().partition(":")[2])  # the password of `user:password`
    for secret in () if config.store is None else (*config.store.encryption_keys, config.store.password):
        if secret is not None:
            redactor.learn(secret.reveal())
    for key in config.access.keys:
        for text in key_texts(key):
            redactor.learn(text)
    state = AppState(
        config=config,
        clock=clock,
        redactor=redactor,
        authenticator=Authenticator(config),
        routes=RouteTable.from_config(config),
        rules=BUILT_IN,
        declared=Declared(config),
        profiles=build_profiles(config.profiles),
        has_pages=any(profile.cors_origins for profile in config.profiles.values()),
        keeps_bodies=config.log.bodies,
        learner=learner,
        upstreams=upstreams,
        holders=holders,
        transports=tuple(upstream.transport for upstream in upstreams.values()),
        metrics=Metrics(),
        in_flight=InFlightRequests(config.limits.connections, config.access.callers, config.limits.held_bytes),
        periodic_checks=PeriodicChecks(clock, CHECK_EVERY_S),
        store=store,
        store_cache=store_cache,
    )
    attach_metrics(state)
    return state


def attach_metrics(state: AppState) -> None:
    """Let the metrics of `state` read its objects at a scrape, and its configured model names."""
    metrics = state.metrics
    metrics.attach(partial(_sample, state), state.routes.configured_name)
    for upstream in state.upstreams.values():
        upstream.transport.on_wait = partial(metrics.waited_for_connection, upstream.name)


@dataclass(frozen=True, slots=True)
class _HolderContext:
    """The objects that all token holders of one process share."""

    tls_contexts: TLSContexts
    clock: Clock
    redactor: Redactor
    store: Store
    store_cache: StoreCache


def _create_holder(name: str, settings: AnyCredential, context: _HolderContext) -> TokenHolder:
    clock, store = context.clock, context.store
    waits = WaitBudget(settings.timeout_s + FETCH_GRACE_S, token_location(settings))
    client = open_client(settings, context.tls_contexts)
    source = build_source(name, settings, client, clock, shared_refresh_token_store(settings, store, clock))
    if not is_shareable(settings.type, store.scope):
        return TokenHolder(name, source, clock, context.redactor, waits)
    shared = SharedSource(source, settings, store, clock)
    holder = TokenHolder(name, shared, clock, context.redactor, waits)
    shared.attach(context.store_cache, holder)
    return holder


def _create_upstream(
    name: str, config: Config, holders: Mapping[str, TokenHolder], tls_contexts: TLSContexts, redactor: Redactor
) -> Upstream:
    settings = config.upstreams[name]
    return Upstream(
        name=name,
        settings=settings,
        dialect=dialect_of(settings),
        transport=open_transport(
            settings.network,
            settings.max_connections or config.limits.connections,
            tls_contexts.context_for(settings.network),
        ),
        holder=holders[settings.credential] if settings.credential else None,
        timeouts=settings.timeouts.value(),
        injector=CredentialInjector(placement_of(settings, config), settings.headers, redactor, name),
        transforms=dialect_transforms(settings.dialect),
        response_headers=ResponseHeaders(settings.forward_response_headers, redactor.holds),
    )


def _store_sample(store: GuardedStore) -> StoreSample:
    health = store.health
    return StoreSample(health.state is StoreState.UP, health.emptied, dict(health.operations))


def _sample(state: AppState) -> Sample:
    pools = [
        PoolSample(name, *upstream.transport.counts, upstream.transport.max_connections)
        for name, upstream in state.upstreams.items()
    ]
    learned = dict.fromkeys(state.upstreams, 0)
    for record in state.learner.memory.learned(state.clock.now(), state.clock.wall()):
        if record.state == "learned":
            learned[record.scope.upstream] = learned.get(record.scope.upstream, 0) + 1
    return Sample(
        [_credential_sample(name, holder) for name, holder in state.holders.items()],
        pools,
        state.in_flight.metrics_keys(),
        state.config.limits.connections,
        learned,
        None if state.shared_store is None else _store_sample(state.shared_store),
    )


def _credential_sample(name: str, holder: TokenHolder) -> CredentialSample:
    status = holder.status()
    # a usable token without an expiry, such as a static key, never expires
    left_s = status.expires_in_s if status.expires_in_s is not None else (math.inf if holder.usable else 0.0)
    return CredentialSample(
        name,
        usable=holder.usable,
        age_s=status.age_s,
        life_left_s=left_s,
        fetches=status.fetches,
        failures=status.failures,
    )
