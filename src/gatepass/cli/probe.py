"""The steps of `gatepass doctor` at the store, a credential, an upstream and an MCP server.

They use the AppState of a configuration, with the same code as a client's request, and report its errors. An MCP
server executes no tool.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from secrets import token_hex
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import structs

from gatepass.cancel import timeout
from gatepass.config.advice import Advice, explained
from gatepass.config.certificates import end_of_certificate
from gatepass.config.credential.base import Credential
from gatepass.config.credential.kinds import token_location
from gatepass.config.document import dotted
from gatepass.config.model import URLS, StoreSettings
from gatepass.config.upstream import url_with_version
from gatepass.config.wording import nearest
from gatepass.documents import Step, StepOutcome
from gatepass.errors import (
    CallerError,
    GatepassError,
    TokenUnavailable,
    TransportFault,
    UpstreamError,
    UpstreamErrorReply,
    UpstreamHtml,
    UpstreamRedirect,
    UpstreamTimeout,
    documentation,
)
from gatepass.http_client.message_head import ProxyServer, destination_of
from gatepass.http_client.pool import dial
from gatepass.mcp.exchange import SESSION, check_head, read_reply
from gatepass.mcp.message import read_message
from gatepass.normalize.profiles import PROFILES
from gatepass.observability.story import advice_of, names_of
from gatepass.protocols.operations import OPERATIONS, sample
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.attempt import close_attempt, send, send_own_call, try_call
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.models import LIST_CALL, parse_list, request_list
from gatepass.proxy.response import BufferedReply, StreamingReply, SynthesizedStream
from gatepass.proxy.upstream_call import connection_error, read_body, total_timeout
from gatepass.sse.event import Framer, parse_event, split_events
from gatepass.store.base import StoreUnavailable
from gatepass.store.guarded import StoreState
from gatepass.tokens import TokenHolder
from gatepass.tokens.failure import FetchFailure, failure_advice, slow_advice
from gatepass.tokens.lifetime import LifetimeSource, ended_at, safe_claims
from gatepass.types import MCP_UPSTREAM, Call, Headers, Hidden, OutboundRequest, Target, counted, header

T = TypeVar("T")

Steps = AsyncGenerator[Step, None]
Begin = Callable[[str, str], object]
"""Called with the hop and the name of a step before it runs, to show progress."""


async def timed(steps: Callable[..., Steps], begin: Begin) -> Steps:
    """Yield the steps with their times, without what precedes a step, such as the lists that name a model."""
    began_s = time.monotonic()

    def begun(hop: str, what: str) -> None:
        nonlocal began_s
        began_s = time.monotonic()
        begin(hop, what)

    async with aclosing(steps(begin=begun)) as taken:
        async for step in taken:
            yield structs.replace(step, seconds=round(time.monotonic() - began_s, 3))
            began_s = time.monotonic()


def found(hop: str, what: str, outcome: StepOutcome, name: str, **values: object) -> Step:
    """Return a step with the texts of an entry of errors.json, whose placeholders `{name}` become the `values`."""
    texts = explained(name, {placeholder: str(value) for placeholder, value in values.items()})
    return Step(hop, what, outcome, texts["sentence"], texts["action"], texts["sentence_zh"], texts["action_zh"])


LIST_S = 10.0
"""The limit of a request that calls no model. An operator waits, so that it ignores configured timeouts."""
SLOW = "Check whether the server is overloaded, or whether a proxy or firewall between holds the reply."


async def within(state: AppState, upstream: Upstream, answer: Awaitable[T], limit_s: float = LIST_S) -> T:
    """Return `answer`; raise UpstreamTimeout after `limit_s`, even if its timeouts are longer."""
    message = f"{upstream.host} did not return a complete reply within {limit_s:g} s, the limit of this check. {SLOW}"
    late = UpstreamTimeout(message, upstream=upstream.name, phase="total")
    return await timeout(state.clock, limit_s, answer, late)


TOKEN_S = (10.0, 30.0)
"""The limit of one token fetch is the credential's timeout_s, within these bounds. An operator waits."""


async def check_token(state: AppState, name: str, holder: TokenHolder) -> Step:
    """Fetch a token of the credential `name`. Its holder must be started."""
    step, wall_s = partial(found, f"credential:{name}", "token"), state.clock.wall()
    settings = state.config.credentials[name]
    limit_s = min(max(TOKEN_S[0], settings.timeout_s), TOKEN_S[1])
    own_limit = f"credentials.{name}.timeout_s is {settings.timeout_s:g} s"
    message = f"no token from {token_location(settings)} within {limit_s:g} s, the limit of this check ({own_limit})"
    advice = slow_advice(name, settings.timeout_s) if settings.timeout_s <= limit_s else Advice("issuer_down")
    late = TokenUnavailable(message, credential=name, case=advice.case, names=advice.names)
    try:
        token = await timeout(state.clock, limit_s, holder.token(), late)
    except TokenUnavailable as error:
        why = error.cause if error is late else f"no token for credential {name}"
        return token_step(error, settings, holder.last_failure, f"{why}: ")
    if token.lifetime_s is None:
        if ended := ended_at(token.text, wall_s):
            place = f"credentials.{name}.{KEY_SETTING[settings.type]}"
            return step(StepOutcome.FAILS, "key_ended", setting=place, end=ended, recipes=RECIPES)
        if end := safe_claims(token.text, wall_s).get("exp"):
            return step(StepOutcome.UNPROVEN, "key_ends", end=end, recipes=RECIPES)
        return structs.replace(step(StepOutcome.WORKS, "key_configured"), proves=False)
    is_default = token.lifetime_source is LifetimeSource.DEFAULT
    entry = "token_without_lifetime" if is_default else "token_fetched"
    return step(StepOutcome.WORKS, entry, s=f"{token.lifetime_s:g}")


def token_step(error: TokenUnavailable, settings: Credential, failure: FetchFailure | None, prefix: str = "") -> Step:
    """Return the step of a fetch that failed, for a command that ends now: `error` itself announces the next try."""
    if failure is None:
        return failed_step(error, "token")
    advice = failure_advice(failure, error.credential, settings)
    told = TokenUnavailable(prefix + failure.why, credential=error.credential, case=advice.case, names=advice.names)
    told.detail = failure.detail
    step = structs.replace(failed_step(told, "token"), error=failure.case or error.code)
    return step if advice else structs.replace(step, advice="", advice_zh="")


RECIPES = documentation("docs/tokens.md", " {} has the recipes.")
KEY_SETTING: Mapping[str, str] = {"static": "token", "api_key": "key"}
"""The setting that holds the key, by the type of a credential whose key is never parsed."""

MODELS_SHOWN = 10

NO_LIST = (404, 405)
"""Statuses of GET /models at an upstream without a model list, or with a wrong base_url."""


async def check_models(state: AppState, upstream: Upstream, wanted: Collection[str] = ()) -> Step:
    """Request the model list, which should have the `wanted` names, with the token and once more without it."""
    step = partial(found, hop_of(upstream), "models")
    try:
        body = (await within(state, upstream, request_list(state, upstream, "doctor"))).body
    except GatepassError as error:
        if not isinstance(error, UpstreamErrorReply) or error.http_status not in NO_LIST:
            return failed_step(error, "models", credential=upstream.settings.credential or "")
        listing = upstream.dialect.encode(LIST_CALL, Target(upstream.name), upstream.base_url, upstream.timeouts)
        asked = {"path": urlsplit(listing.url).path, "status": error.http_status}
        if (url := url_with_version(upstream.settings.dialect, upstream.settings.base_url)) is not None:
            place = f"upstreams.{upstream.name}.base_url"
            return step(StepOutcome.FAILS, "list_without_version", setting=place, url=url, **asked)
        return step(StepOutcome.UNPROVEN, "list_absent", **asked)
    listed = None
    if wanted and upstream.dialect.lists_models:
        with suppress(UpstreamError):  # the list cannot be read
            listed = [str(entry["id"]) for entry in parse_list(upstream, body)]
    if listed is not None and (missing := [name for name in wanted if name not in listed]):
        settings = [f"models.{name}.name" for name, one in state.config.models.items() if one.name in missing]
        return step(
            StepOutcome.FAILS,
            "list_lacks_model",
            missing=", and ".join(no_model(name, listed) for name in missing),
            names="、".join(f"{one}（是否为 {near}？）" if (near := nearest(one, listed)) else one for one in missing),
            listed="、".join(listed[:MODELS_SHOWN]) or "–",
            place=" and ".join(settings) or "the name of the model",
            settings=f"（{'、'.join(settings)}）" if settings else "",
        )
    if upstream.holder is None:
        return step(StepOutcome.WORKS, "answers")
    try:
        # a list that is returned without the token too proves nothing about the token
        await within(state, upstream, request_list(state, structs.replace(upstream, holder=None)))
    except GatepassError as error:
        # a 4xx or a login page without the token proves that the token was accepted
        is_rejection = isinstance(error, UpstreamErrorReply) and 400 <= error.http_status < 500
        if isinstance(error, UpstreamRedirect | UpstreamHtml) or (is_rejection and error.http_status not in (408, 429)):
            return step(StepOutcome.WORKS, "token_accepted")
        refused = {"status": error.http_status, "code": error.public_code}
        return step(StepOutcome.UNPROVEN, "list_proves_nothing", **refused)
    return step(StepOutcome.UNPROVEN, "list_public")


def no_model(name: str, listed: list[str]) -> str:
    """Return that the list has no model `name`, the one that is similar, and its first names."""
    there = "There are " if len(listed) > 1 else "There is "
    meant = f"; did you mean {near}? {there}" if (near := nearest(name, listed)) else f"; {there.lower()}"
    return f"the list has no model {name}" + (meant + ", ".join(listed[:MODELS_SHOWN]) if listed else "")


def failed_step(
    error: GatepassError,
    what: str,
    prefix: str | None = None,
    operation: str = "",
    model: str = "",
    credential: str = "",
) -> Step:
    """Return the step of an error: its hop, its reason after `prefix`, and what `show` advises."""
    if prefix is None:
        # only an upstream's own status helps: other errors have one that gatepass chose
        prefix = f"HTTP {error.http_status}: " if isinstance(error, UpstreamErrorReply) else ""
    # an earlier step has listed the names
    names = {**names_of(error.hop, operation, model, credential), **error.names, "names_listed": ""}
    texts = advice_of(error.stable_code, error.hop, error.case, error.setting, names)
    advice = error.advice if isinstance(error, CallerError) else texts["action"]
    said, zh = (prefix + " ".join(error.whole_cause.split()), advice), (texts["sentence_zh"], texts["action_zh"])
    return Step(error.hop, what, StepOutcome.FAILS, *said, *zh, error=error.stable_code, model=model)


def hop_of(upstream: Upstream) -> str:
    return f"upstream:{upstream.name}"


ANSWER_S = 30.0
"""The limit of one real call. It is longer because some servers load a model at its first request."""


@dataclass(frozen=True, slots=True)
class ProbeCall:
    """A small real call of a model with one word, sent to each upstream of its route."""

    operation: str
    model: str
    stream: bool = False


@dataclass(frozen=True, slots=True)
class TargetProbe:
    """A ProbeCall at one target. `context` is the state of the call, with its last attempt."""

    asked: ProbeCall
    named: tuple[str, str]
    """Its model, with the name that is sent if that is another one; in English and Chinese."""
    call: Call
    target: Target
    first: Target
    """The first target of the route, whose total timeout limits the call."""
    context: RequestContext = field(repr=False)


def probes_of(state: AppState, upstream: Upstream, asked: ProbeCall) -> list[TargetProbe]:
    """Return what `asked` sends to `upstream`, in the order of its route."""
    model, call = asked.model, sample(asked.operation, asked.model)
    if asked.stream:
        members = msgspec.json.decode(call.body, type=dict[str, Any])
        call = msgspec.structs.replace(call, body=msgspec.json.encode({**members, "stream": True}), stream=True)
    # each call has a caller of its own, because a rejection limits the renewals for the next request of its caller
    call = msgspec.structs.replace(call, id=(name := f"doctor-{token_hex(8)}"), caller=name)
    targets, probes = state.routes.route(asked.operation, model).targets, []
    for target in targets:
        if target.upstream == upstream.name:
            context = RequestContext.without_client(state, PROFILES["plain"])
            sent, other = target.model, target.model not in (None, model)
            named = f"{model}{f' (sent as {sent})' * other}", f"{model}{f'（发送为 {sent}）' * other}"
            probes.append(TargetProbe(asked, named, call, target, targets[0], context))
    return probes


async def check_call(state: AppState, upstream: Upstream, target_probe: TargetProbe) -> Step:
    """Send a small real call, which may be billed, as a client would."""
    call, first = target_probe.call, target_probe.first
    what = "stream" if call.stream else "call"
    timeouts = first.timeouts or state.upstreams[first.upstream].timeouts
    result: Awaitable[Step] = _real_call(state, target_probe)
    if timeouts.total_s is not None:
        result = timeout(state.clock, timeouts.total_s, result, total_timeout(upstream.name, timeouts))
    try:
        return await within(state, upstream, result, ANSWER_S)
    except GatepassError as error:
        hop, name, (model, model_zh) = hop_of(upstream), call.operation.name, target_probe.named
        texts = {"call": f"{name}{' as a stream' * call.stream}", "call_zh": f"{name}{'（流式）' * call.stream}"}
        texts |= {"more": f" {error.public_code}: ", "more_zh": f"，错误码 {error.public_code}。"}
        texts |= {"status": str(error.http_status), "model": model, "model_zh": model_zh}
        said = found(hop, what, StepOutcome.FAILS, "called", **texts)
        step = failed_step(error, what, said.why, name, call.model, upstream.settings.credential or "")
        # a CallerError blames the client, but here gatepass itself made the request
        hop = hop if isinstance(error, CallerError) else step.hop
        return structs.replace(step, hop=hop, why_zh=said.why_zh + step.why_zh)


async def _real_call(state: AppState, target_probe: TargetProbe) -> Step:
    """Return the step of a good reply, with the rules learned for it; raise the error that a client would get."""
    context, began_s = target_probe.context, state.clock.now()
    attempt = Attempt.begin(state, target_probe.target, target_probe.call, context.profile_rules.settings)
    answer = await send_own_call(attempt, try_call, context)
    attempt = context.attempt or attempt
    rules = ", ".join(attempt.learned)
    more = "; a chat served it" * (attempt.chat is not None)
    more += f"; {rules} (learned from an error, as for any client)" * bool(rules)
    more_zh = "；由对话补全接口提供" * (attempt.chat is not None) + f"；{rules}（从错误中学到）" * bool(rules)
    asked, (model, model_zh) = target_probe.asked, target_probe.named
    hop = f"upstream:{target_probe.target.upstream}"
    step = partial(found, hop, "stream" if asked.stream else "call", StepOutcome.WORKS)
    step = partial(step, call=asked.operation, model=model, model_zh=model_zh, more=more, more_zh=more_zh)
    if isinstance(answer, StreamingReply):
        first_s = state.clock.now() - began_s
        events, at_once = await _read_stream(attempt, answer)
        is_late = at_once >= BUFFERED_EVENTS and first_s >= BUFFERED_S
        entry = "streamed_at_once" if is_late else "streamed"
        return step(entry, s=f"{first_s:.2f}", events=events, at_once=at_once, docs=BUFFERING, docs_zh=BUFFERING_ZH)
    if isinstance(answer, SynthesizedStream):
        return step("stream_made")
    if not isinstance(answer, BufferedReply):
        raise TypeError("a call without stream got a stream")
    return step("called", status=answer.status, call_zh=asked.operation)


BUFFERING = documentation("docs/operations/run.md#a-proxy-that-buffers", " See {}")
BUFFERING_ZH = documentation("docs/zh/run.md#缓冲流的代理", "见 {}")
BUFFERED_EVENTS, BUFFERED_S = 10, 2.0
"""A first read with so many events, so long after the request: what wrote them held them back."""


async def _read_stream(attempt: Attempt, reply: StreamingReply) -> tuple[int, int]:
    """Read a stream to its end and return the number of its events, and of those in the first read of events.

    Raises the error that ended it.
    """
    events, at_once = reply.events, None

    def write(piece: bytes) -> bool:
        events.feed(piece)
        return not (events.done or events.failure is not None or events.waiting)

    at_end = reply.body_ended
    try:
        while not (at_end or events.done or events.failure is not None):
            if events.waiting:
                write(b"")
                continue
            at_once = events.events if at_once is None else at_once
            at_end = await reply.response.stream_to(write)
            if at_end:
                events.finish()
    except TransportFault as fault:
        events.fail(connection_error(attempt, fault))
    except BaseException as error:
        attempt.end_by(error)
        raise
    finally:
        await reply.response.aclose()
    close_attempt(attempt, events.failure)
    if events.failure is not None:
        raise events.failure
    return events.events, events.events if at_once is None else at_once


async def check_store(state: AppState, settings: StoreSettings) -> Step:
    """Read and write the store, and compare the encryption key. The result proves nothing about an upstream."""
    store, address = state.store, f"{settings.host}:{settings.port}"
    assert store is not None  # noqa: S101 - open_store returns a shared one for these settings
    with suppress(StoreUnavailable):  # its health has the reason
        await store.check()
    if store.health.state is StoreState.UP:
        works = found("store", "store", StepOutcome.WORKS, "store_answers", address=address)
        return structs.replace(works, proves=False)
    fault = store.health.fault
    assert fault is not None  # noqa: S101 - for mypy: note() stores one with each state but UP
    is_unreadable = store.health.state is StoreState.UNREADABLE
    advised = explained(fault.advice.case or "store_down", fault.advice.names)
    values = {"address": address, "why": fault.why, "advice": advised["action"], "advice_zh": advised["action_zh"]}
    name = "store_unreadable" if is_unreadable else "store_unused"
    return found("store", "store", StepOutcome.FAILS, name, **values)


Message = dict[str, Any]

NEWEST_MCP = "2026-07-28"
"""The first revision without a handshake. Its requests name it in a header and in `_meta`."""
HANDSHAKE_MCP = "2025-11-25"
"""The last revision with a handshake."""
MCP_REPLY_BYTES = 4 * 1024 * 1024
TOOLS_SHOWN = 12
MCP_CLIENT = {"name": "gatepass doctor", "version": "1"}
MCP_META = {
    "io.modelcontextprotocol/protocolVersion": NEWEST_MCP,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": MCP_CLIENT,
}


@dataclass(frozen=True, slots=True, repr=False)
class McpReply(Hidden):
    """What a server answered. `message` is its JSON-RPC message; {} if it sent none."""

    status: int
    headers: Headers
    message: Message

    @property
    def result(self) -> Message:
        found = self.message.get("result")
        return found if isinstance(found, dict) else {}

    @property
    def error(self) -> str:
        """The text of its JSON-RPC error, or its status."""
        found = self.message.get("error")
        if isinstance(found, dict) and isinstance(found.get("message"), str):
            return f"HTTP {self.status}, {found['message'][:200]}"
        return f"HTTP {self.status}"


async def check_mcp(state: AppState, upstream: Upstream, begin: Begin) -> AsyncIterator[Step]:
    """Yield the steps `initialize` and `tools` of an MCP server."""
    hop, name = hop_of(upstream), upstream.name.removeprefix(MCP_UPSTREAM)

    own = ((b"accept", b"application/json, text/event-stream"), (b"content-type", b"application/json"))

    async def ask(method: str, params: Message, fields: Headers = (), number: int | None = 1) -> McpReply:
        """Send a message and return the answer. Raises the error that a client would get."""
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        body = json.dumps(message if number is None else {**message, "id": number}).encode()
        request = OutboundRequest("POST", state.config.mcp[name].url, (*own, *fields), body, upstream.timeouts)
        attempt = Attempt.begin(state, Target(upstream.name), Call("doctor", _MCP_POST, "doctor", "", body, ()))
        return await within(state, upstream, send_own_call(attempt, _send_mcp, request))

    begin(hop, what := "initialize")
    fields: Headers = ((b"mcp-protocol-version", NEWEST_MCP.encode()), (b"mcp-method", b"tools/list"))
    params: Message = {"_meta": MCP_META}
    try:
        opening = {"protocolVersion": HANDSHAKE_MCP, "capabilities": {}, "clientInfo": MCP_CLIENT}
        reply = await ask("initialize", opening)
        version = reply.result.get("protocolVersion")
        if isinstance(version, str):
            session = header(reply.headers, SESSION)
            named = ((b"mcp-protocol-version", version[:40].encode("ascii", "replace")),)
            fields, params = named if session is None else (*named, (SESSION, session)), {}
            await ask("notifications/initialized", {}, fields, None)
            yield found(hop, "initialize", StepOutcome.WORKS, "speaks_mcp", version=version[:40])
        else:  # as a server of the newest revision, which needs none
            yield found(hop, "initialize", StepOutcome.UNPROVEN, "no_handshake", error=reply.error)
        begin(hop, what := "tools")
        reply = await ask("tools/list", params, fields)
    except GatepassError as error:
        yield failed_step(error, what, "", credential=upstream.settings.credential or "")
        return
    listed = reply.result.get("tools")
    if not isinstance(listed, list):
        if params:
            yield found(hop, "tools", StepOutcome.FAILS, "no_mcp", error=reply.error, setting=f"mcp.{name}.url")
        else:
            yield found(hop, "tools", StepOutcome.UNPROVEN, "no_tools", error=reply.error)
        return
    names = [str(one.get("name")) for one in listed if isinstance(one, dict)]
    more = f" and {len(names) - TOOLS_SHOWN} more" if len(names) > TOOLS_SHOWN else ""
    listed = [name[:60] for name in names[:TOOLS_SHOWN]]
    tools = f"{counted(len(names), 'tool')}{': ' * bool(names)}{', '.join(listed)}{more}"
    zh = {"count": len(names), "names": "、".join(listed) or "–"}
    yield found(hop, "tools", StepOutcome.WORKS, "lists_tools", tools=tools, **zh)


_MCP_POST = next(row for row in OPERATIONS if row.name == "chat")


async def _send_mcp(attempt: Attempt, request: OutboundRequest) -> McpReply:
    """Return the answer: the whole body, or a stream up to the response."""
    response, message = await send(attempt, request), Message()
    try:
        if response.status != 200:
            await check_head(attempt, response)
        reply = await read_reply(attempt, response)
        if reply.error is not None and not reply.body:
            raise reply.error
        if reply.is_stream:
            framer, read = Framer(MCP_REPLY_BYTES), 0
            async for piece in response:
                read += len(piece)
                for block in split_events(framer.feed(piece)):
                    data = parse_event(block).data or b""
                    message = message or (_parsed(data) if read_message(data).kind == "response" else {})
                if message or read > MCP_REPLY_BYTES:
                    break
        else:
            body = reply.body
            if body is None:  # it did not arrive together with the head
                body = await read_body(attempt, response, attempt.limit_bytes)
            message = _parsed(body)
    except TransportFault as lost:
        raise connection_error(attempt, lost) from lost
    finally:
        await response.aclose()
    close_attempt(attempt, None)
    return McpReply(response.status, response.headers, message)


def _parsed(data: bytes) -> Message:
    with suppress(msgspec.DecodeError, RecursionError):
        return msgspec.json.decode(data, type=Message)
    return {}


CERTIFICATE_S = 4.0
"""The limit of a connection for a certificate: its hop has a longer one."""
ENDS_SOON_DAYS = 14
DAY_S = 86_400


class Peer(asyncio.Protocol):
    """Closes a connection once it is made, and keeps the server's certificate."""

    certificate: Mapping[str, Any] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.certificate = transport.get_extra_info("peercert") or {}
        transport.close()


async def check_certificates(state: AppState) -> Steps:
    """Connect once more to each server with TLS, and yield when its certificate ends; at the end the own one.

    A connection that fails is reported by the step of its hop.
    """
    hops = {"upstreams": "upstream:", "mcp": f"upstream:{MCP_UPSTREAM}", "credentials": "credential:"}
    tested = set[tuple[str, int]]()
    for path, settings in state.config.hops():
        hop = f"{hops[str(path[0])]}{path[1]}" if path[0] in hops else dotted(path)
        network = settings.network
        for url in filter(None, (str(getattr(settings, name, None) or "") for name in URLS)):
            with suppress(TransportFault, TimeoutError, OSError, ValueError):
                password = None if network.proxy_auth is None else network.proxy_auth.reveal()
                proxy = None if network.proxy is None else ProxyServer.of(network.proxy, password)
                server, peer = destination_of(url, proxy), Peer()
                if not server.secure or (server.host, server.port) in tested:
                    continue
                tested.add((server.host, server.port))
                await dial(server, state.tls_contexts.context_for(network, url), peer, CERTIFICATE_S)
                yield _certificate(hop, "certificate_ends", str(peer.certificate["notAfter"]), server.host, state)
    if (own := state.config.server.tls) is not None:
        try:
            end = end_of_certificate(own.cert_file, own.key_file)
        except ssl.SSLCertVerificationError as error:
            yield found("gatepass", "tls", StepOutcome.FAILS, "own_certificate_wrong", why=error.verify_message)
        else:
            yield _certificate("gatepass", "own_certificate_ends", end, "gatepass", state)


def _certificate(hop: str, case: str, end: str, host: str, state: AppState) -> Step:
    end_s = ssl.cert_time_to_seconds(end)
    days = int((end_s - state.clock.wall()) // DAY_S)
    texts = {"host": host, "end": time.strftime("%Y-%m-%d %H:%M", time.gmtime(end_s))}
    texts |= {"days": counted(days, "day"), "days_zh": f"{days} 天"}
    case = case if days < ENDS_SOON_DAYS else "certificate_valid"
    return structs.replace(found(hop, "tls", StepOutcome.WORKS, case, **texts), proves=False)
