"""The steps of `gatepass doctor` at the store, a credential and an upstream. Each returns a Step.

They use the AppState of a configuration, with the same code as a client's request. reach.py has the steps before them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from secrets import token_hex
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from gatepass.cancel import timeout
from gatepass.cli.agent_hosts import AgentHost
from gatepass.cli.reach import Step, StepOutcome, upstream_server
from gatepass.config.credential.kinds import token_location
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.model import Config, StoreSettings
from gatepass.config.references import UnresolvedReference, read_file
from gatepass.config.upstream import url_with_version
from gatepass.config.wording import nearest
from gatepass.dialects.hints import is_about_model, is_about_path, sentence
from gatepass.errors import (
    CallerError,
    GatepassError,
    TokenUnavailable,
    TransportFault,
    UpstreamAuth,
    UpstreamClosed,
    UpstreamError,
    UpstreamErrorReply,
    UpstreamHtml,
    UpstreamRedirect,
    UpstreamTimeout,
    documentation,
    stable_code,
)
from gatepass.normalize.profiles import PROFILES
from gatepass.observability.story import action_of, case_of, names_of
from gatepass.operations.table import OPERATIONS, call_of, sample
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.attempt import close_attempt, send_own_call, send_whole, served_by_chat, try_call
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.models import LIST_CALL, parse_list, request_list
from gatepass.proxy.response import BufferedReply, StreamingReply, SynthesizedStream
from gatepass.proxy.upstream_call import connection_error, total_timeout
from gatepass.store.base import StoreUnavailable
from gatepass.store.guarded import StoreState
from gatepass.tokens import TokenHolder
from gatepass.tokens.failure import CHECK_ISSUER, setting
from gatepass.tokens.issuer_error import refusal_advice
from gatepass.tokens.lifetime import LifetimeSource, ended_at, safe_claims
from gatepass.tokens.token_reply import EXPIRED
from gatepass.types import Call, Target

T = TypeVar("T")

LIST_S = 10.0
"""The limit of a request that calls no model. An operator waits, so that it ignores configured timeouts."""
SLOW = "Check whether the server is overloaded, or whether a proxy or firewall between holds the reply."


async def within(state: AppState, upstream: Upstream, answer: Awaitable[T], limit_s: float = LIST_S) -> T:
    """Return `answer`; raise UpstreamTimeout after `limit_s`, even if its timeouts are longer."""
    message = f"{upstream.host} did not return a complete reply within {limit_s:g} s, the limit of this check. {SLOW}"
    late = UpstreamTimeout(message, upstream=upstream.name, phase="total")
    return await timeout(state.clock, limit_s, answer, late)


IMPOSSIBLE_S = 100 * 365 * 86_400.0
"""An announced lifetime above a century is in another unit. Shorter ones may be a way to say that a token stays."""

TOKEN_S = 10.0
"""The limit of one token fetch. An operator waits, so that it ignores the credential's timeout_s."""


async def check_token(state: AppState, name: str, holder: TokenHolder) -> Step:
    """Fetch a token of the credential `name`. Its holder must be started."""

    def step(outcome: StepOutcome, why: str, advice: str = "", *, proves: bool = True) -> Step:
        return Step(f"credential:{name}", "token", outcome, why, advice, proves=proves)

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
        if error is late and reason is None:
            failed += f"; {CHECK_ISSUER}"
        why, advice = token_failure(state, name, f"{failed}: {reason}" if reason else failed)
        return replace(step(StepOutcome.FAILS, why, advice), hop=error.hop)
    claimed_s = token.implausible_lifetime_s
    if claimed_s is not None and claimed_s > IMPOSSIBLE_S:
        why = f"the issuer announces an impossible lifetime of {claimed_s:.3g} s; gatepass uses {token.lifetime_s:g} s"
        return step(StepOutcome.FAILS, why, f"Check the unit of the expiry, {setting(name, 'reply.unit')}.")
    if token.lifetime_s is None:
        if ended := ended_at(token.text, state.clock.wall()):
            why = f"{setting(name, KEY_SETTING[settings.type])} is a token that ended at {ended}"
            return step(StepOutcome.FAILS, why, f"Replace it, or configure a source that renews it.{RECIPES}")
        if end := safe_claims(token.text, state.clock.wall()).get("exp"):
            why = f"the key is a token that ends at {end}, and gatepass cannot renew it"
            return step(StepOutcome.UNPROVEN, why, f"Configure the source of the token.{RECIPES}")
        return step(StepOutcome.WORKS, "a key is configured; it does not expire", proves=False)
    found, advice = f"a token was fetched; its lifetime is {token.lifetime_s:g} s", ""
    if token.lifetime_source is LifetimeSource.DEFAULT:
        found = f"a token was fetched; no lifetime was found, so default_ttl_s is used: {token.lifetime_s:g} s"
    if claimed_s is not None:
        found += f" (the issuer announces {claimed_s:g} s)"
        advice = "Check the unit of the expiry and the clock of this machine."
    return step(StepOutcome.WORKS, "; ".join([found, *presented(state, name)]), advice)


def presented(state: AppState, name: str) -> Iterator[str]:
    """Yield which claims the issuer of the credential `name` sees of the assertion and the subject; never a token."""
    for what, claims in presented_claims(state, name).items():
        shown = ", ".join(f"{claim} {value}" for claim, value in claims.items())
        yield f"the {what} has {shown}" if claims else f"the {what} is not a JWT"


def token_failure(state: AppState, name: str, text: str) -> tuple[str, str]:
    """Return why the credential `name` has no token, with the claims that the issuer sees, and what to do."""
    why, advice = split_advice(text)
    settings = state.config.credentials[name]
    advice = advice or (EXPIRED in why and RENEWAL.get(settings.type)) or refusal_advice(why, name, settings)
    # it sees none if the failure is a file without a token
    shown = "" if NO_FILE in why else "; ".join(presented(state, name))
    return f"{why.rstrip('.')}. Presented: {shown}" if shown else why, advice


def presented_claims(state: AppState, name: str) -> dict[str, dict[str, str]]:
    """Return the SEEN_CLAIMS of the tokens that the credential `name` presents, under `assertion` and `subject`.

    A token that cannot be read is absent, because the failure of the fetch names it.
    """
    settings = state.config.credentials[name]
    if not isinstance(settings, Oauth2Credential):
        return {}
    found: dict[str, dict[str, str]] = {}
    for what, path in (("assertion", settings.assertion_file), ("subject", settings.subject_file)):
        if path is not None:
            with suppress(UnresolvedReference):
                found[what] = safe_claims(read_file(path).strip(), state.clock.wall())
    if settings.subject is not None:
        aud = settings.endpoint
        found["subject"] = {"iss": settings.client_id, "sub": settings.subject, "aud": aud}
    return {what: {name: claims[name] for name in SEEN_CLAIMS if name in claims} for what, claims in found.items()}


NO_FILE = " cannot be read: "
"""In the reason of a failure, after the name of a file."""
SEEN_CLAIMS = ("iss", "sub", "aud", "exp")
RECIPES = documentation("docs/tokens.md", " {} has the recipes.")
KEY_SETTING: Mapping[str, str] = {"static": "token", "api_key": "key"}
"""The setting that holds the key, by the type of a credential whose key is never parsed."""
RENEWAL: Mapping[str, str] = {
    "env": f"Start gatepass with a new token in this variable, or configure a source that renews it.{RECIPES}",
    "file": "Check the program that writes the token into this file.",
    "exec": "Run the program by hand: it must print a token that has not expired.",
}
"""What to do about an expired token, by the type of a credential that another program keeps fresh."""

MODELS_SHOWN = 10

PROVE = "Run `gatepass doctor MODEL --call`: it sends small real calls, which may be billed."
WRONG_NAME = "Correct the name of the model."
UNLISTED = " Some servers serve models that they do not list: `--call` tests them."

NO_LIST = (404, 405)
"""Statuses of GET /models at an upstream without a model list, or with a wrong base_url."""

BUSY = (408, 429)

INVALID = (400, 422)


async def check_models(
    state: AppState, upstream: Upstream, wanted: Collection[str] = (), *, is_called: bool = False
) -> Step:
    """Request the model list, which should have the `wanted` names, with the token and once more without it."""

    def step(outcome: StepOutcome, why: str, advice: str = "", base_url: str = "") -> Step:
        return Step(hop_of(upstream), "models", outcome, why, advice, base_url=base_url)

    setting = f"upstreams.{upstream.name}.base_url"
    try:
        body = (await within(state, upstream, request_list(state, upstream))).body
    except GatepassError as error:
        server = upstream_server(upstream.name, upstream.settings)
        if isinstance(error, UpstreamClosed) and server.destination.secure and server.names.network.client_cert is None:
            # in TLS 1.3 a server rejects a missing client certificate after the handshake
            advice = f"If the server requires a client certificate, set {server.names.settings}.network.client_cert."
            return step(StepOutcome.FAILS, split_advice(error.message)[0], advice)
        if not isinstance(error, UpstreamErrorReply) or error.http_status not in NO_LIST:
            return failed_step(error, state.config, "models")
        if (base_url := await _base_url_with_version(state, upstream)) is not None:
            why = f"base_url lacks the version: it has no model list ({error.http_status}), and {base_url} has one"
            return step(StepOutcome.FAILS, why, f"Set {setting} to {base_url}.", base_url)
        listing = upstream.dialect.encode(LIST_CALL, Target(upstream.name), upstream.base_url, upstream.timeouts)
        why = (
            f"answers, but GET {urlsplit(listing.url).path} returns {error.http_status}: it has no model list, or"
            " base_url is wrong, so neither base_url nor the token is proven"
        )
        return step(StepOutcome.UNPROVEN, why, PROVE)
    if missing := _missing(upstream, body, wanted):
        names = [f"models.{name}.name" for name, one in state.config.models.items() if one.name in missing]
        advice = f"Correct {' and '.join(names)}." if names else WRONG_NAME
        return step(StepOutcome.FAILS, ", and ".join(missing.values()), advice if is_called else advice + UNLISTED)
    if upstream.holder is None:
        return step(StepOutcome.WORKS, "answers; no credential is configured")
    try:
        # a list that is returned without the token too proves nothing about the token
        await within(state, upstream, request_list(state, replace(upstream, holder=None)))
    except GatepassError as error:
        # a 4xx or a login page without the token proves that the token was accepted
        is_rejection = isinstance(error, UpstreamErrorReply) and 400 <= error.http_status < 500
        if isinstance(error, UpstreamRedirect | UpstreamHtml) or (is_rejection and error.http_status not in BUSY):
            return step(StepOutcome.WORKS, "answers and accepts the token")
        reason = f"without the token it returns {error.http_status} {error.public_code}, which proves nothing"
    else:
        reason = "its model list is public"
    return step(StepOutcome.UNPROVEN, f"answers; {reason}, so it is not proven that it accepts the token", PROVE)


def _missing(upstream: Upstream, body: bytes, wanted: Collection[str]) -> dict[str, str]:
    """Return texts by the wanted models that are not in the list; none for a dialect whose list has other names."""
    if not (wanted and upstream.dialect.lists_models):
        return {}
    try:
        listed = [str(entry["id"]) for entry in parse_list(upstream, body)]
    except UpstreamError:
        return {}
    return {name: no_model(name, listed) for name in wanted if name not in listed}


def no_model(name: str, listed: list[str]) -> str:
    """Return that the list has no model `name`, the one that is similar, and its first names."""
    meant = f"; did you mean {near}? There is " if (near := nearest(name, listed)) else "; there is "
    return f"the list has no model {name}" + (meant + ", ".join(listed[:MODELS_SHOWN]) if listed else "")


async def _base_url_with_version(state: AppState, upstream: Upstream) -> str | None:
    """Return `base_url` with `/v1` if the upstream has a model list there, or rejects a request for it."""
    if (base_url := url_with_version(upstream.settings.dialect, upstream.settings.base_url)) is None:
        return None
    try:
        await within(state, upstream, request_list(state, replace(upstream, base_url=base_url)))
    except GatepassError as error:
        # a server that rejects the token there has an API there
        return base_url if isinstance(error, UpstreamAuth) else None
    return base_url


PROTOCOLS_ASKED: Mapping[str, str] = {"chat": "chat completions", "responses": "responses", "messages": "messages"}
"""The values of `protocols`, which are also names of operations, with what texts call them."""


async def protocols_of(state: AppState, upstream: Upstream) -> dict[str, bool | None]:
    """Return whether the upstream has each protocol of PROTOCOLS_ASKED; None if its answers do not show it.

    Each path gets an empty JSON object, which calls no model. A path shows itself by an answer that differs from that
    to the chat, because some gateways look for a model before they look at the path.
    """
    found, chat = dict[str, bool | None](), (0, "")
    for name in PROTOCOLS_ASKED:
        call = call_of(next(row for row in OPERATIONS if row.name == name), body={})
        attempt = Attempt.begin(state, Target(upstream.name), call)
        said, code, is_absent, found[name] = chat, None, False, None
        with suppress(GatepassError):
            try:
                await within(state, upstream, send_own_call(attempt, send_whole, call))
            except UpstreamErrorReply as error:
                body, code = error.error_body, error.upstream_code
                said = error.http_status, error.message if body is None else body.message
                is_absent = is_about_path(error)
        status = said[0]
        if name == "chat":
            if status not in (*INVALID, 404) or is_absent:
                return dict.fromkeys(PROTOCOLS_ASKED)
            found[name], chat = True, said
        elif said != chat and status in INVALID:
            found[name] = None if is_absent else True
        elif said != chat and status in (*NO_LIST, 501):
            is_absent = is_absent or (chat[0] in INVALID and not is_about_model(code, said[1]))
            found[name] = False if is_absent else None
    return found


async def check_protocols(state: AppState, upstream: Upstream, target: Target) -> Step | None:
    """Return which protocols the upstream has; None if nothing shows that it lacks one.

    What a call has just taught counts too. The advice is for `target`.
    """
    found = await protocols_of(state, upstream)
    for name in found:
        if served_by_chat(upstream, name):
            found |= {"chat": True, name: False}
    if not (why := protocols_text(found)):
        return None
    spoken = PROTOCOLS_ASKED if target.protocols is None else target.protocols
    advice = f"Set `upstreams.{upstream.name}.protocols` to [{', '.join(name for name in found if found[name])}]"
    if unknown := [name for name, has in found.items() if has is None]:
        advice += f", with {unknown[0]} if it has them"
    is_told = any(found[name] is False for name in spoken)
    return Step(hop_of(upstream), "protocols", StepOutcome.WORKS, why, f"{advice}." if is_told else "", proves=False)


def protocols_text(found: Mapping[str, bool | None]) -> str:
    """Describe what `protocols_of` returned; "" if it shows no protocol that the upstream lacks."""
    has, lacks, unknown = (
        [title for name, title in PROTOCOLS_ASKED.items() if found[name] is one] for one in (True, False, None)
    )
    if not lacks:
        return ""
    why = f"has {' and '.join(has)}, but no {' and no '.join(lacks)}"
    return f"{why}; {unknown[0]}: unknown" if unknown else why


def failed_step(
    error: GatepassError,
    config: Config,
    what: str,
    prefix: str | None = None,
    operation: str = "",
    model: str = "",
    adapted: Collection[str] = (),
) -> Step:
    """Return the step of an error: its hop, its reason after `prefix`, and its advice, else what `show` advises.

    `adapted` has the changes of the request.
    """
    if prefix is None:
        # only an upstream's own status helps: other errors have one that gatepass chose
        prefix = f"HTTP {error.http_status}: " if isinstance(error, UpstreamErrorReply) else ""
    why, advice = split_advice(_NEEDLESS.sub("", error.message))
    name, text, action = error.hop.removeprefix("upstream:"), "", None
    if not advice and isinstance(error, UpstreamErrorReply) and error.http_status == 403 and name in config.upstreams:
        credential = config.upstreams[name].credential
        advice = f"Check the rights of the token. If it was rejected, add 403 to upstreams.{name}.rejection.statuses."
        if credential is not None and (secret := KEY_SETTING.get(config.credentials[credential].type)):
            # gatepass cannot renew it, so that rejection.statuses has no effect
            advice = f"Check the rights of the key, or replace it: {setting(credential, secret)}."
    kind = stable_code(error.public_code, error.hop)
    case = case_of(error.public_code, error.hop, error.http_status, error.message, operation, adapted)
    names = names_of(error.hop, operation, model, "", error.message)
    names.pop("doctor MODEL --call", None)  # it runs already
    if not advice and not isinstance(error, CallerError | UpstreamAuth):
        advice = text = action_of(error.public_code, error.hop, case, names)
    if text or case:
        # without a text, the page shows what the case means above the advice of the message
        action = {"code": case or kind, "text": text, "names": names}
    named = f"{error.http_status} {error.public_code}: {why}"
    return Step(error.hop, what, StepOutcome.FAILS, prefix + why, advice, action=action, error=named)


def said_once(step: Step, said: dict[str, str], label: str) -> Step:
    """Return `step`, or, if an earlier step had its error, one that names the label of that step.

    `said` has the labels by error, and learns this one.
    """
    if not step.error or (first := said.setdefault(step.error, label)) == label:
        return step
    return replace(step, why=f"{label}: the same error as {first}", advice="", action=None)


_ADVICE = re.compile(
    r"(?:(?<=[.!?…。]) |; )"
    r"(?=(?:Add|Ask|Begin|Check|Compare|Correct|If|Let|Raise|Renew|Replace|Set|Shorten|Tried|Try|Use|check|set|use)\b)"
)

_NEEDLESS = re.compile(
    r" (?:`gatepass doctor [^`]+` tries it|(?:Check .+ )?A [a-z ]+ needs more: raise this setting|For .+ n8n, .+)\.$"
)
"""The end of an error that advises what runs already, less than the action of a timeout, or another client."""


def split_advice(message: str) -> tuple[str, str]:
    """Split an error message into its reason and its advice, which begins with an imperative."""
    why, *advice = _ADVICE.split(message, maxsplit=1)
    text = advice[0] if advice else ""
    return why, text[:1].upper() + text[1:]


def hop_of(upstream: Upstream) -> str:
    return f"upstream:{upstream.name}"


ANSWER_S = 30.0
"""The limit of one real call. It is longer because some servers load a model at its first request."""


@dataclass(frozen=True, slots=True)
class ProbeCall:
    """A small real call of a model with one word, sent to each upstream of its route with `profile`."""

    operation: str
    model: str
    profile: str = "plain"
    stream: bool = False
    agent_host: AgentHost | None = None
    """The program whose request is sent instead."""
    advice: str = ""
    """What the step says beside its result."""


@dataclass(frozen=True, slots=True)
class TargetProbe:
    """A ProbeCall at one target."""

    what: str
    asked: ProbeCall
    call: Call
    target: Target
    first: Target
    """The first target of the route, whose total timeout limits the call."""
    context: RequestContext = field(repr=False)
    """The state of the call, with its last attempt, and the number of its events."""
    moments_s: list[float] = field(default_factory=list)
    """When the events of its stream arrived, by the clock."""


def probes_of(state: AppState, upstream: Upstream, asked: ProbeCall) -> list[TargetProbe]:
    """Return what `asked` sends to `upstream`, in the order of its route."""
    model, host = asked.model, asked.agent_host
    if host is None:
        named, call = asked.operation, sample(asked.operation, model)
    else:
        named, call = f"the request of {host.title} {host.version}", host.call(model)
    if asked.stream:
        named += " as a stream"
        members = msgspec.json.decode(call.body, type=dict[str, Any])
        call = msgspec.structs.replace(call, body=msgspec.json.encode({**members, "stream": True}), stream=True)
    call = msgspec.structs.replace(call, id=f"doctor-{token_hex(8)}")
    targets, found = state.routes.resolve(asked.operation, model), []
    query = b"" if host is None else host.query
    for target in targets:
        if target.upstream == upstream.name:
            context = RequestContext.without_client(state, PROFILES[asked.profile], query)
            sent = f" (sent as {target.model})" if target.model not in (None, model) else ""
            found.append(TargetProbe(f"{named} with {model}{sent}", asked, call, target, targets[0], context))
    return found


async def check_call(state: AppState, upstream: Upstream, target_probe: TargetProbe) -> Step:
    """Send a small real call, which may be billed, as a client would."""
    call, first = target_probe.call, target_probe.first
    what = "stream" if call.stream else "call"
    timeouts = first.timeouts or state.upstreams[first.upstream].timeouts
    result: Awaitable[str] = real_call(state, target_probe)
    if timeouts.total_s is not None:
        result = timeout(state.clock, timeouts.total_s, result, total_timeout(upstream.name, timeouts))
    try:
        shown = await within(state, upstream, result, ANSWER_S)
    except GatepassError as error:
        prefix = f"{target_probe.what}: {error.http_status} {error.public_code}: {arrived(state, target_probe, error)}"
        attempt = target_probe.context.attempt
        if error.hop == hop_of(upstream) and error.http_status in NO_LIST and attempt is not None and attempt.sent:
            # a chat of the client's call that fails too shows the error before it
            prefix += f"{_sent_by(attempt, call if error is attempt.absent else None)}: "
        adapted = () if attempt is None else attempt.record.adapted
        step = failed_step(error, state.config, what, prefix, call.operation.name, call.model, adapted)
        step = replace(step, advice=" ".join(filter(None, (step.advice, target_probe.asked.advice))))
        # such an error blames the client, but here gatepass itself made the request
        return replace(step, hop=hop_of(upstream)) if isinstance(error, CallerError) else step
    return Step(hop_of(upstream), what, StepOutcome.WORKS, f"{target_probe.what}: {shown}", target_probe.asked.advice)


def arrived(state: AppState, target_probe: TargetProbe, error: GatepassError) -> str:
    """Return what arrived of a reply that was not complete in time, to be put before `error`; "" for other errors."""
    attempt, moments_s = target_probe.context.attempt, target_probe.moments_s
    if not (isinstance(error, UpstreamTimeout) and error.phase == "total" and attempt and attempt.record.head_s):
        return ""
    if not moments_s:
        return f"the reply began after {attempt.record.head_s:.2f} s: "
    count = target_probe.context.access.events
    ago_s = state.clock.now() - moments_s[-1]
    return f"{'1 event' if count == 1 else f'{count} events'} arrived, the last one {ago_s:.1f} s ago: "


async def real_call(state: AppState, target_probe: TargetProbe) -> str:
    """Return the status of a good reply and the rules learned for it; raise the error that a client would get."""
    context, began_s = target_probe.context, state.clock.now()
    attempt = Attempt.begin(state, target_probe.target, target_probe.call, context.profile_rules.settings)
    answer = await send_own_call(attempt, try_call, context)
    attempt = context.attempt or attempt
    learned = f"; {', '.join(attempt.learned)} (learned from an error, as for any client)" if attempt.learned else ""
    if attempt.chat is not None:
        learned = f"; a chat served it: {_sent_by(attempt)}{learned}"
    if isinstance(answer, StreamingReply):
        first_s = state.clock.now() - began_s
        return f"first event after {first_s:.2f} s, {await _read_stream(target_probe, attempt, answer)}{learned}"
    if isinstance(answer, SynthesizedStream):
        return f"200, a whole reply of which gatepass makes a stream{learned}"
    if not isinstance(answer, BufferedReply):
        raise TypeError("a call without stream got a stream")
    return f"{answer.status}{learned}"


def _sent_by(attempt: Attempt, call: Call | None = None) -> str:
    upstream, call = attempt.upstream, call or attempt.normalized or attempt.call
    sent = upstream.dialect.encode(call, attempt.target, upstream.base_url, upstream.timeouts)
    return f"{sent.method} {sent.url.partition('?')[0]}"


async def _read_stream(target_probe: TargetProbe, attempt: Attempt, reply: StreamingReply) -> str:
    """Read a stream to its end and return its events and the longest gap; raise the error that ended it."""
    events, moments_s, clock = reply.events, target_probe.moments_s, attempt.state.clock
    moments_s.append(clock.now())

    def write(piece: bytes) -> bool:
        if events.feed(piece):
            moments_s.append(clock.now())
        return not (events.done or events.failure is not None or events.waiting)

    at_end = reply.body_ended
    try:
        while not (at_end or events.done or events.failure is not None):
            if events.waiting:
                write(b"")
                continue
            at_end = await reply.response.stream_to(write)
            if at_end:
                events.finish()
    except TransportFault as fault:
        events.fail(connection_error(attempt, fault))
    except BaseException as error:
        attempt.end_by(error)
        raise
    finally:
        target_probe.context.access.events = events.events
        await reply.response.aclose()
    close_attempt(attempt, events.failure)
    if events.failure is not None:
        raise events.failure
    gaps_s = [later - earlier for earlier, later in pairwise(moments_s)]
    return f"{events.events} events, longest gap {max(gaps_s, default=0.0):.2f} s, complete"


async def check_store(state: AppState, settings: StoreSettings) -> Step:
    """Read and write the store, and compare the encryption key. The result proves nothing about an upstream."""
    store, address = state.store, f"{settings.host}:{settings.port}"
    assert store is not None  # noqa: S101 - open_store returns a shared one for these settings
    with suppress(StoreUnavailable):  # its health has the reason
        await store.check()
    if store.health.state is StoreState.UP:
        why = f"{address} answers, and the encryption key matches"
        return Step("store", "store", StepOutcome.WORKS, why, proves=False)
    why, advice = split_advice(str(store.health.reason))
    if store.health.state is StoreState.UNREADABLE:
        return Step("store", "store", StepOutcome.FAILS, f"{address} answers, but {why}", advice)
    # a failing store stops no request
    advice = f"{sentence(advice)} Until then each process fetches tokens itself." if advice else ""
    return Step("store", "store", StepOutcome.FAILS, f"{address} is not used: {why}", advice)
