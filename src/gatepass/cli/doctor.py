"""`gatepass check --live`: call the store, fetch each token, call each upstream, and report the hop that fails.

A check reports only what it has seen: a public model list does not prove that the upstream accepts the token.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar
from urllib.parse import urlsplit

from gatepass.cancel import timeout
from gatepass.clock import Clock, SystemClock
from gatepass.config.checks import UNSHARED_REFRESH_LOGIN, has_unshared_refresh_token
from gatepass.config.credential.kinds import token_location
from gatepass.config.model import Config, StoreSettings
from gatepass.errors import (
    CallerError,
    GatepassError,
    TokenUnavailable,
    UpstreamAuth,
    UpstreamErrorReply,
    UpstreamHtml,
    UpstreamRedirect,
    UpstreamTimeout,
)
from gatepass.normalize.profiles import ProfileRules
from gatepass.operations.table import OPERATIONS, call_of, samples
from gatepass.proxy.app_state import AppState, Upstream, create_app_state
from gatepass.proxy.attempt import try_target
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.models import model_list_request
from gatepass.proxy.response import BufferedReply, classify
from gatepass.proxy.upstream_call import explain_rejection, send
from gatepass.store.base import StoreUnavailable
from gatepass.store.choice import open_store
from gatepass.store.guarded import StoreState
from gatepass.tokens import TokenHolder
from gatepass.tokens.failure import setting
from gatepass.tokens.lifetime import LifetimeSource
from gatepass.types import Call, Target

PROVE = "add --model M with a model of this upstream"


class Outcome(StrEnum):
    """The result of a check, as it is printed. UNPROVEN: the hop answers, but the check cannot show that it works."""

    WORKS = "ok"
    FAILS = "FAIL"
    UNPROVEN = "????"
    SKIPPED = "skip"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: the hop, whether it works, and what to do if it does not.

    `proves` is false for an outcome WORKS without a proof, such as a configured key that was not sent anywhere.
    """

    hop: str
    outcome: Outcome
    finding: str
    proves: bool = True


def hop_of(upstream: Upstream) -> str:
    return f"upstream:{upstream.name}"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """The time limit for all requests of one check together."""

    began_s: float
    limit_s: float

    def used_s(self, clock: Clock) -> float:
        return clock.now() - self.began_s


async def within(limit: TimeLimit, state: AppState, upstream: Upstream, answer: Awaitable[T]) -> T:
    """Return `answer`; raise UpstreamTimeout after the rest of `limit`, even if its timeouts are longer."""
    message = f"{upstream.host} did not return a complete reply within {limit.limit_s:g} s, the limit of this check."
    late = UpstreamTimeout(message, upstream=upstream.name, phase="total")
    return await timeout(state.clock, limit.limit_s - limit.used_s(state.clock), answer, late)


LIST_S = 10.0
"""The limit of both requests of `check_model_list`. An operator waits, so that it ignores configured timeouts."""

NO_LIST = (404, 405)
"""Statuses of GET /models at an upstream without a model list, or with a wrong base_url."""

BUSY = (408, 429)


async def check_model_list(state: AppState, upstream: Upstream) -> Check:
    """Request the model list with the token and once more without it. Such a request costs nothing."""
    limit = TimeLimit(state.clock.now(), LIST_S)
    try:
        await within(limit, state, upstream, _request_model_list(state, upstream))
    except GatepassError as error:
        return _failed_model_list(upstream, error)
    if upstream.holder is None:
        return Check(hop_of(upstream), Outcome.WORKS, "answers; no credential is configured")
    try:
        await within(limit, state, upstream, _request_model_list(state, replace(upstream, holder=None)))
    except GatepassError as error:
        # a 4xx or a login page without the token proves that the token was accepted
        is_rejection = isinstance(error, UpstreamErrorReply) and 400 <= error.http_status < 500
        if isinstance(error, UpstreamRedirect | UpstreamHtml) or (is_rejection and error.http_status not in BUSY):
            return Check(hop_of(upstream), Outcome.WORKS, "answers and accepts the token")
        reason = f"without the token it returns {error.http_status} {error.public_code}, which proves nothing"
    else:
        reason = "its model list is public"
    finding = f"answers; {reason}, so it is not proven that it accepts the token: {PROVE}"
    return Check(hop_of(upstream), Outcome.UNPROVEN, finding)


async def _request_model_list(state: AppState, upstream: Upstream) -> None:
    """Request the model list; raise the classified error, with a rejected token explained as for a client."""
    models = next(operation for operation in OPERATIONS if operation.name == "models")
    call, target = call_of(models), Target(upstream.name)
    attempt = Attempt(state, upstream, target, call)
    request = upstream.dialect.encode(call, target, upstream.settings.base_url, upstream.timeouts)
    try:
        await classify(attempt, await send(attempt, request))
    except UpstreamAuth as refusal:
        raise explain_rejection(attempt, refusal) from refusal.__cause__


def _failed_model_list(upstream: Upstream, error: GatepassError) -> Check:
    if not isinstance(error, UpstreamErrorReply):
        return Check(error.hop, Outcome.FAILS, error.message)
    if error.http_status not in NO_LIST:
        return Check(error.hop, Outcome.FAILS, f"HTTP {error.http_status}: {error.message}")
    path = urlsplit(model_list_request(upstream).url).path
    return Check(
        hop_of(upstream),
        Outcome.UNPROVEN,
        f"answers, but GET {path} returns {error.http_status}: it has no model list, or base_url is wrong,"
        f" so neither base_url nor the token is proven: {PROVE}",
    )


SERVER_ERROR = 500
ANSWER_S = 30.0
"""The limit of one real call. It is longer because some servers load a model at its first request."""

LEARNED = "(learned from a rejection, as for any client)"


@dataclass(frozen=True, slots=True)
class ProbeCall:
    """A small real call of a model with one word, sent to each upstream of its route with `profile`."""

    operation: str
    model: str
    profile: str = "plain"


@dataclass(frozen=True, slots=True)
class TargetProbe:
    """The call at one target. `calls` are its variants; the one that most upstreams accept comes first."""

    what: str
    target: Target
    calls: tuple[Call, ...]
    profile: ProfileRules


def probes_of(state: AppState, upstream: Upstream, probe_call: ProbeCall | None) -> list[TargetProbe]:
    """Return the calls that `probe_call` sends to `upstream`, in the order of its route."""
    if probe_call is None:
        return []
    calls = samples(probe_call.operation, probe_call.model)
    return [
        TargetProbe(
            f"{probe_call.operation} with {target.model or probe_call.model}",
            target,
            calls,
            state.profiles[probe_call.profile],
        )
        for target in state.routes.resolve(probe_call.operation, probe_call.model)
        if target.upstream == upstream.name
    ]


async def check_call(state: AppState, upstream: Upstream, target_probe: TargetProbe) -> Check:
    limit = TimeLimit(state.clock.now(), ANSWER_S)
    try:
        status, learned = await within(limit, state, upstream, _first_accepted(state, target_probe))
    except GatepassError as error:
        result = f"{error.http_status} {error.public_code} after {limit.used_s(state.clock):.2f} s: {error.message}"
        failed_hop = hop_of(upstream) if isinstance(error, CallerError) else error.hop
        return Check(failed_hop, Outcome.FAILS, f"{target_probe.what}: {result}")
    rules = f"; {', '.join(learned)} {LEARNED}" if learned else ""
    finding = f"{target_probe.what}: {status} in {limit.used_s(state.clock):.2f} s{rules}"
    return Check(hop_of(upstream), Outcome.WORKS, finding)


async def _first_accepted(state: AppState, target_probe: TargetProbe) -> tuple[int, tuple[str, ...]]:
    *first, last = target_probe.calls
    for call in first:
        try:
            return await _call(state, target_probe, call)
        except UpstreamErrorReply as rejection:
            # the next variant limits its answer by another member than max_tokens
            if rejection.http_status >= SERVER_ERROR or "max_tokens" not in f"{rejection.param} {rejection.message}":
                raise
    return await _call(state, target_probe, last)


async def _call(state: AppState, target_probe: TargetProbe, call: Call) -> tuple[int, tuple[str, ...]]:
    """Return the status of a good reply and the rules learned for it; raise the error that a client would get."""
    context = RequestContext.of_own(state, target_probe.profile)
    answer = await try_target(context, call, target_probe.target)
    if not isinstance(answer, BufferedReply):
        raise TypeError("a call without stream got a stream")
    return answer.status, context.attempts[-1].learned


TOKEN_S = 10.0
"""The limit of one token fetch. An operator waits, so that it ignores the credential's timeout_s."""


async def check_credential(state: AppState, name: str, holder: TokenHolder) -> Check:
    if has_unshared_refresh_token(state.config, name):
        return Check(f"credential:{name}", Outcome.SKIPPED, UNSHARED_REFRESH_LOGIN)
    settings = state.config.credentials[name]
    own_limit = f"{setting(name, 'timeout_s')} is {settings.timeout_s:g} s"
    message = f"no token from {token_location(settings)} within {TOKEN_S:g} s, the limit of this check ({own_limit})"
    late = TokenUnavailable(message, credential=name)
    try:
        token = await timeout(state.clock, TOKEN_S, holder.token(), late)
    except TokenUnavailable as error:
        # the error's own message announces the next try, but this command ends now
        reason = holder.status().last_error
        failed = error.message if error is late or reason is None else f"no token for credential {name}"
        return Check(error.hop, Outcome.FAILS, f"{failed}: {reason}" if reason else failed)
    if token.lifetime_s is None:
        found = "a key is configured; it does not expire"
    elif token.lifetime_source is LifetimeSource.DEFAULT:
        found = f"a token was fetched; no lifetime was found, so default_ttl_s is used: {token.lifetime_s:g} s"
    else:
        found = f"a token was fetched; its lifetime is {token.lifetime_s:g} s"
    return Check(f"credential:{name}", Outcome.WORKS, found, proves=token.lifetime_s is not None)


async def diagnose(
    config: Config, probe_call: ProbeCall | None = None, clock: Clock | None = None
) -> AsyncGenerator[Check, None]:
    """Yield each check of the store, credentials and upstreams as soon as it is done.

    Skips an upstream if its credential failed, and a credential whose refresh token only a running gatepass may use.
    Without `probe_call` each upstream gets a GET /models. With it, only the upstreams of its route are checked, by
    that call; the store is not. Raises ModelNotFound if the model has no route.
    """
    clock = clock or SystemClock()
    state = create_app_state(config, clock, open_store(config.store, None, clock))
    without: dict[str | None, str] = {}
    try:
        upstreams = list(state.upstreams.values())
        if probe_call is not None:
            route = {target.upstream for target in state.routes.resolve(probe_call.operation, probe_call.model)}
            upstreams = [upstream for upstream in upstreams if upstream.name in route]
        used = {upstream.settings.credential for upstream in upstreams}
        credentials = [name for name in state.holders if probe_call is None or name in used]
        if config.store is not None and probe_call is None:
            yield await _check_store(state, config.store)
        state.store_cache.start()
        for name in credentials:
            if not has_unshared_refresh_token(config, name):  # a fetch would end the login of the running gatepass
                state.holders[name].start()
        for name in credentials:
            check = await check_credential(state, name, state.holders[name])
            if check.outcome is not Outcome.WORKS:
                without[name] = "failed" if check.outcome is Outcome.FAILS else "was not tried"
            yield check
        for upstream in upstreams:
            if (reason := without.get(upstream.settings.credential)) is not None:
                yield Check(hop_of(upstream), Outcome.SKIPPED, f"its credential {reason}")
                continue
            probes = probes_of(state, upstream, probe_call)
            for target_probe in probes:
                yield await check_call(state, upstream, target_probe)
            if not probes:
                yield await check_model_list(state, upstream)
    finally:
        await state.aclose()


async def _check_store(state: AppState, settings: StoreSettings) -> Check:
    """Read and write the store, and compare the encryption key. The result proves nothing about an upstream."""
    store, address = state.shared_store, f"{settings.host}:{settings.port}"
    assert store is not None  # noqa: S101 - open_store returns a shared one for these settings
    with suppress(StoreUnavailable):  # its health has the reason
        await store.check()
    health = store.health
    if health.state is StoreState.UP:
        return Check("store", Outcome.WORKS, f"{address} answers, and the encryption key matches", proves=False)
    reason = state.redactor.mask(str(health.reason))
    if health.state is StoreState.UNREADABLE:
        return Check("store", Outcome.FAILS, f"{address} answers, but {reason}")
    return Check(
        "store", Outcome.FAILS, f"no use of {address}: {reason}. Until then each process fetches tokens itself"
    )
