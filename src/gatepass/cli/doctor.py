"""All checks of one configuration: the store, credentials, and upstreams by their model lists or by a real call.

`gatepass check --live`: asks the store, mints each token, calls each upstream, and names the hop that fails.

What was not seen is not claimed: a model list that everybody may read proves no token.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
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
from gatepass.tokens import TokenHolder
from gatepass.tokens.failure import setting
from gatepass.tokens.lifetime import LifetimeSource
from gatepass.types import Call, Target

PROVE = "add --model M, with a model that goes there"


class Outcome(StrEnum):
    """As it is printed. UNPROVEN is no failure: the hop answers, and whether it works was not to be seen."""

    WORKS = "ok"
    FAILS = "FAIL"
    UNPROVEN = "????"
    SKIPPED = "skip"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: which hop, whether it works, and what to do where it does not.

    `proves`: that it works was seen, where it does; a key that stands in the configuration works until it is shown.
    """

    hop: str
    outcome: Outcome
    finding: str
    proves: bool = True


def place(hop: Upstream) -> str:
    return f"upstream:{hop.name}"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bound:
    """How long all that one check asks may take together."""

    began_s: float
    bound_s: float

    def used_s(self, clock: Clock) -> float:
        return clock.now() - self.began_s


async def within(bound: Bound, state: AppState, hop: Upstream, answer: Awaitable[T]) -> T:
    """`answer`; raises UpstreamTimeout where it does not come in what is left of `bound`, whatever `hop` allows."""
    said = f"{hop.host} gave no whole answer within {bound.bound_s:g} s, the bound of this check."
    late = UpstreamTimeout(said, upstream=hop.name, phase="total")
    return await timeout(state.clock, bound.bound_s - bound.used_s(state.clock), answer, late)


LIST_S = 10.0
"""The bound of both questions together, whatever the hop's own timeouts allow: somebody sits in front of this."""

NO_LIST = (404, 405)
"""What a GET /models gets where there is none, and where base_url leads elsewhere."""

BUSY = (408, 429)


async def of_list(state: AppState, hop: Upstream) -> Check:
    """`model_list_request`, which generates nothing and bills nothing; then once more as a stranger."""
    bound = Bound(state.clock.now(), LIST_S)
    try:
        await within(bound, state, hop, _listed(state, hop))
    except GatepassError as error:
        return _unlisted(hop, error)
    if hop.holder is None:
        return Check(place(hop), Outcome.WORKS, "answers; it gets no credential")
    try:
        await within(bound, state, hop, _listed(state, replace(hop, holder=None)))
    except GatepassError as error:
        # whether an upstream that answers us refused the same call without our token: by a 4xx or a login page
        is_refusal = isinstance(error, UpstreamErrorReply) and 400 <= error.http_status < 500
        if isinstance(error, UpstreamRedirect | UpstreamHtml) or (is_refusal and error.http_status not in BUSY):
            return Check(place(hop), Outcome.WORKS, "answers, and took the token")
        said = f"without the token it is {error.http_status} {error.public_code}, which tells nothing"
    else:
        said = "its model list is open to everybody"
    finding = f"answers; {said}, so whether it takes the token is not proven: {PROVE}"
    return Check(place(hop), Outcome.UNPROVEN, finding)


async def _listed(state: AppState, hop: Upstream) -> None:
    """Returns where `hop` answers well; raises what its answer really is, a refused token in a client's words."""
    models = next(operation for operation in OPERATIONS if operation.name == "models")
    call, target = call_of(models), Target(hop.name)
    attempt = Attempt(state, hop, target, call)
    request = hop.dialect.encode(call, target, hop.settings.base_url, hop.timeouts)
    try:
        await classify(attempt, await send(attempt, request))
    except UpstreamAuth as refusal:
        raise explain_rejection(attempt, refusal) from refusal.__cause__


def _unlisted(hop: Upstream, error: GatepassError) -> Check:
    if not isinstance(error, UpstreamErrorReply):
        return Check(error.hop, Outcome.FAILS, error.message)
    if error.http_status not in NO_LIST:
        return Check(error.hop, Outcome.FAILS, f"HTTP {error.http_status}: {error.message}")
    path = urlsplit(model_list_request(hop).url).path
    return Check(
        place(hop),
        Outcome.UNPROVEN,
        f"answers, but GET {path} is {error.http_status}: it has no model list, or base_url is wrong,"
        f" so neither base_url nor the token is proven: {PROVE}",
    )


SERVER_ERROR = 500
ANSWER_S = 30.0
"""The bound of a model's answer: some servers load a model when it is first asked."""

LEARNED = "(learned from a refusal, as for any client)"


@dataclass(frozen=True, slots=True)
class ProbeCall:
    """A model to ask for real, at each upstream of its route, as a client of `profile` would: one word, and the
    shortest answer."""

    operation: str
    model: str
    profile: str = "plain"


@dataclass(frozen=True, slots=True)
class TargetProbe:
    """A trial at one target of its route; `calls` in order of what upstreams take most often."""

    what: str
    target: Target
    calls: tuple[Call, ...]
    profile: ProfileRules


def tries_at(state: AppState, hop: Upstream, probe_call: ProbeCall | None) -> list[TargetProbe]:
    """What `probe_call` asks of `hop`, in the order of its route."""
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
        if target.upstream == hop.name
    ]


async def of_call(state: AppState, hop: Upstream, target_probe: TargetProbe) -> Check:
    bound = Bound(state.clock.now(), ANSWER_S)
    try:
        taken = await within(bound, state, hop, _first_taken(state, target_probe))
    except GatepassError as error:
        said = f"{error.http_status} {error.public_code} after {bound.used_s(state.clock):.2f} s: {error.message}"
        where = place(hop) if isinstance(error, CallerError) else error.hop
        return Check(where, Outcome.FAILS, f"{target_probe.what}: {said}")
    status, learned = taken
    taught = f"; {', '.join(learned)} {LEARNED}" if learned else ""
    said = f"{target_probe.what}: {status} in {bound.used_s(state.clock):.2f} s{taught}"
    return Check(place(hop), Outcome.WORKS, said)


async def _first_taken(state: AppState, target_probe: TargetProbe) -> tuple[int, tuple[str, ...]]:
    *first, last = target_probe.calls
    for call in first:
        try:
            return await _taken(state, target_probe, call)
        except UpstreamErrorReply as refusal:
            # another of the calls, which bounds its answer by another member, may be taken
            if refusal.http_status >= SERVER_ERROR or "max_tokens" not in f"{refusal.param} {refusal.message}":
                raise
    return await _taken(state, target_probe, last)


async def _taken(state: AppState, target_probe: TargetProbe, call: Call) -> tuple[int, tuple[str, ...]]:
    """The status of a good answer to `call`, and what refusals taught for it; raises what a client would be told."""
    context = RequestContext.of_own(state, target_probe.profile)
    answer = await try_target(context, call, target_probe.target)
    if not isinstance(answer, BufferedReply):
        raise TypeError("no stream was asked for")
    return answer.status, context.attempts[-1].learned


TOKEN_S = 10.0
"""The bound of it, whatever its own timeout allows: somebody sits in front of this."""


async def of_credential(state: AppState, name: str, holder: TokenHolder) -> Check:
    if has_unshared_refresh_token(state.config, name):
        return Check(f"credential:{name}", Outcome.SKIPPED, UNSHARED_REFRESH_LOGIN)
    settings = state.config.credentials[name]
    own = f"{setting(name, 'timeout_s')} is {settings.timeout_s:g} s"
    said = f"no token from {token_location(settings)} within {TOKEN_S:g} s, the bound of this check ({own})"
    late = TokenUnavailable(said, credential=name)
    try:
        token = await timeout(state.clock, TOKEN_S, holder.token(), late)
    except TokenUnavailable as error:
        # this command ends now: what the error says of the next try is for a gatepass that runs
        reason = holder.status().last_error
        failed = error.message if error is late or reason is None else f"no token for credential {name}"
        return Check(error.hop, Outcome.FAILS, f"{failed}: {reason}" if reason else failed)
    if token.lifetime_s is None:
        found = "a key is configured; it does not expire"
    elif token.lifetime_source is LifetimeSource.DEFAULT:
        found = f"a token was minted; nothing tells its life, so default_ttl_s counts: {token.lifetime_s:g} s"
    else:
        found = f"a token was minted; it lives {token.lifetime_s:g} s"
    return Check(f"credential:{name}", Outcome.WORKS, found, proves=token.lifetime_s is not None)


async def diagnose(
    config: Config, probe_call: ProbeCall | None = None, clock: Clock | None = None
) -> AsyncGenerator[Check, None]:
    """All checks of one configuration, each as soon as it is known: the store, credentials, upstreams.

    An upstream whose credential failed is not tried, nor is a credential that ends by a try. Without a trial each
    upstream gets a GET /models; with one those of its route get its call, and no other upstream and no store are
    checked. Raises ModelNotFound where a trial leads nowhere.
    """
    clock = clock or SystemClock()
    state = create_app_state(config, clock, open_store(config.store, None, clock))
    without: dict[str | None, str] = {}
    try:
        hops = _concerned(state, probe_call)
        used = {hop.settings.credential for hop in hops}
        credentials = [name for name in state.holders if probe_call is None or name in used]
        if config.store is not None and probe_call is None:
            yield await _of_store(state, config.store)
        state.store_cache.start()
        for name in credentials:
            if not has_unshared_refresh_token(config, name):  # a fetch of it would cost the running gatepass its login
                state.holders[name].start()
        for name in credentials:
            check = await of_credential(state, name, state.holders[name])
            if check.outcome is not Outcome.WORKS:
                without[name] = "failed" if check.outcome is Outcome.FAILS else "was not tried"
            yield check
        for hop in hops:
            if (end := without.get(hop.settings.credential)) is not None:
                yield Check(place(hop), Outcome.SKIPPED, f"its credential {end}")
                continue
            tries = tries_at(state, hop, probe_call)
            for target_probe in tries:
                yield await of_call(state, hop, target_probe)
            if not tries:
                yield await of_list(state, hop)
    finally:
        await state.aclose()


async def _of_store(state: AppState, settings: StoreSettings) -> Check:
    """Whether the store answers one request. It proves nothing about an upstream."""
    try:
        await state.store.get(("check",))
    except StoreUnavailable as error:
        reason = state.redactor.mask(str(error))
        advice = "Check store.url, store.username and store.password; until then each process fetches tokens by itself"
        return Check("store", Outcome.FAILS, f"no answer from {settings.host}:{settings.port}: {reason}. {advice}")
    return Check("store", Outcome.WORKS, f"{settings.host}:{settings.port} answers", proves=False)


def _concerned(state: AppState, probe_call: ProbeCall | None) -> list[Upstream]:
    """The upstreams to try: a trial says nothing of those that its model never comes to."""
    if probe_call is None:
        return [*state.upstreams.values()]
    route = {target.upstream for target in state.routes.resolve(probe_call.operation, probe_call.model)}
    return [hop for name, hop in state.upstreams.items() if name in route]
