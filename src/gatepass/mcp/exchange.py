"""Relay MCP (Model Context Protocol) to the servers of `mcp`, with the caller's key exchanged for the server's token.

`handle` calls `serve_mcp` in place of the ten steps of a call. A message passes as bytes. What gatepass knows of the
protocol stands in `message` and `access`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import msgspec

from gatepass import errors
from gatepass.auth.cors import cors_headers, is_preflight, preflight, shown_origin
from gatepass.auth.model_access import may_use_server, usable_servers
from gatepass.config.access import PLAIN
from gatepass.config.block import MIB
from gatepass.dialects import reply_check
from gatepass.errors import GatepassError
from gatepass.mcp import message as messages
from gatepass.mcp.access import CALL_TOOL, callable_tools, check_call, refusal_of
from gatepass.mcp.message import READS, McpMessage, McpProtocol, request_headers
from gatepass.mcp.servers import McpRoute, McpServers
from gatepass.policy.limits import CONCURRENT, REQUESTS
from gatepass.protocols.client_protocol import COMMENT, COMMENT_AFTER_ID, RAW
from gatepass.protocols.error_objects import error_headers
from gatepass.protocols.request import check_plain
from gatepass.proxy import upstream_call
from gatepass.proxy.app_state import UNAUTHORIZED
from gatepass.proxy.attempt import send, send_with_retries, succeeded
from gatepass.proxy.client_response import EVERY_S, NO_CONTENT, ClientResponse, KeepAlive
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.in_flight import InFlightRequest
from gatepass.proxy.relay import relay
from gatepass.proxy.response import RawReply, StreamingReply
from gatepass.proxy.retry import COMPLETE, Outcome
from gatepass.replies.content import FIELDS, content_type, first_bytes
from gatepass.replies.error_body import is_error
from gatepass.replies.retry_after import challenge, rejects_token
from gatepass.sse.chunk import StreamSource, stream_closed
from gatepass.sse.event import parse_event, read_json, split_events
from gatepass.sse.event_stream import EventStream
from gatepass.types import OK, Call, Hidden, Operation, OutboundRequest, Response, header

MCP, IDLE_STREAM = "mcp", "mcp_stream"
"""`operation` in the access log and the metrics, of a message and of a stream that waits for events for hours."""

_OPERATIONS: Mapping[str, Operation] = {
    method: Operation(MCP, method, "", RAW.name, "Call an MCP server", names_model=False)
    for method in ("GET", "POST", "DELETE")
}
SESSION = b"mcp-session-id"
_EXPOSED = b", mcp-session-id, mcp-protocol-version"
"""Added to the response headers that a page may read."""
_NOT_READ = McpProtocol(messages.UNREADABLE)
FORBIDDEN, NOT_FOUND, METHOD_NOT_ALLOWED = 403, 404, 405
ERROR_S = 2.0
"""The longest wait for the text of an error, which may be an event stream: the idle timeout of a server is an hour."""
_EVENTS = (b"content-type", b"text/event-stream")
_ONE_LINE = bytes(32 if byte in b"\r\n" else byte for byte in range(256))
"""JSON has no raw line break inside a text."""
_WITHOUT_BODY = frozenset((202, 204, 205))
BODY_BYTES = 4 * MIB
"""Limit of a request body. A server of the TypeScript SDK accepts 4 MB too."""
TAIL_BYTES = 32 * 1024
LAST_EVENTS = 100
"""How much of its end a stream keeps, and how many events of that are read, to know whether it had its response."""


class _McpRequest(Hidden, msgspec.Struct, eq=False):
    server: McpRoute
    in_flight: InFlightRequest
    response: ClientResponse
    context: RequestContext
    tools: Sequence[str] | None
    """The tools that the key may call, as globs. None: all."""
    message: McpMessage = messages.UNREADABLE
    request: OutboundRequest = OutboundRequest("", "")


async def serve_mcp(name: str, servers: McpServers, in_flight_request: InFlightRequest) -> None:
    """Serve an admitted request to the server `name`, from its head to the last byte of its response.

    Raises every error that the client receives, and ClientGone.
    """
    client_response, context = in_flight_request.response, in_flight_request.response.context
    state, client_request, access = context.state, context.client_request, context.access
    access.operation, context.protocol = MCP, _NOT_READ
    server = servers.by_name.get(name)
    origins = () if server is None else server.allowed_origins
    if origins:
        context.cors_headers = tuple(
            (name, value + _EXPOSED if name == b"access-control-expose-headers" else value)
            for name, value in cors_headers(client_request.headers, origins)
        )
    if client_request.method == "OPTIONS" and is_preflight(client_request.method, client_request.headers):
        await _answer_preflight(name, client_response, origins)
        return

    if server is not None:  # also a refusal is listed with it
        access.upstream = server.target.upstream

    # Authenticate. The head alone decides, so that gatepass reads no body of an unknown client.
    if state.authenticator.tokens is not None:
        await in_flight_request.verify()
    caller = context.authenticate()
    if server is None or not may_use_server(caller, name):
        usable = usable_servers(caller, state.config)
        if server is not None:
            who = f"row {caller.name!r} of {caller.setting}" if caller.is_of_row else f"key of {caller.name!r}"
            what = f"The {who} may not use the MCP server {name!r}, {refusal_of(caller)}."
            names = {"mcp_setting": f"{caller.setting}.mcp"}
            raise errors.NotAllowed("mcp_server_not_allowed", f"{what}{usable}", names=names)
        what = f"There is no MCP server {name[:100]!r} here." if name else "The path of an MCP server is /mcp/NAME."
        raise errors.UnknownPath(f"{what}{usable}")
    state.authenticator.check_browser(client_request, origins, f"mcp.{name}.allowed_origins")
    method = client_request.method
    if method not in _OPERATIONS:
        raise errors.MethodNotAllowed(f"{method[:20]} is not possible for MCP; use POST.", allow=", ".join(_OPERATIONS))

    exchange = _McpRequest(server, in_flight_request, client_response, context, callable_tools(caller, name))
    in_flight_request.begin(caller)
    if method == "GET":
        access.operation = IDLE_STREAM
        in_flight_request.begin_idle_stream()
    await _read_message(exchange)
    listens = exchange.message.method == messages.LISTEN
    if state.admission is not None and method == "POST":
        units = (REQUESTS,) if listens else (REQUESTS, CONCURRENT)
        await state.admission.admit_message(context, units, is_readable=exchange.message.kind != "unreadable")
    if listens:
        access.operation = IDLE_STREAM
        in_flight_request.begin_idle_stream()
    session_id = header(client_request.headers, SESSION)
    if session_id is not None and servers.checks_sessions:
        await servers.sessions.check(name, session_id, caller.identity, is_only_caller=servers.has_one_caller)
    await _relay_message(exchange, servers, session_id)


async def _answer_preflight(name: str, client_response: ClientResponse, origins: tuple[str, ...]) -> None:
    """Answer a CORS preflight, for which a browser sends no key. Raises ForbiddenHost, ForbiddenOrigin."""
    context = client_response.context
    authenticator, client_request = context.state.authenticator, context.client_request
    authenticator.check_without_key(client_request)
    authenticator.check_browser(client_request, origins, f"mcp.{name}.allowed_origins")
    allowed = preflight(client_request.method, client_request.headers, origins)
    if allowed is None:
        origin = shown_origin(header(client_request.headers, b"origin") or b"")
        raise errors.ForbiddenOrigin(f"CORS: the origin {origin} is not in mcp.{name}.allowed_origins.")
    context.cors_headers = allowed
    await client_response.send(NO_CONTENT, (), b"")


async def _read_message(exchange: _McpRequest) -> None:
    """Read the body and, of a POST, its message. Raises the errors of `check_call` for a key with a list of tools."""
    context, server = exchange.context, exchange.server
    state, client_request = context.state, context.client_request
    if client_request.names_coding:
        check_plain(client_request.headers)
    memory = context.memory
    try:
        # also for a GET: under ASGI a disconnect is noticed only after the body was read
        body = await exchange.response.cycle.read_body(BODY_BYTES, None if memory is None else memory.claim)
    except errors.BodyTooLarge:
        raise errors.BodyTooLarge(f"The request body is larger than {BODY_BYTES} bytes, the limit for MCP.") from None
    context.access.bytes_in = len(body)
    context.body_s = state.clock.now() - client_request.arrived_s
    if client_request.method == "POST":
        exchange.message = message = messages.read_message(body)
        context.protocol = McpProtocol(message)
        context.access.mcp_method = message.method
        if message.method == CALL_TOOL:
            context.access.mcp_tool = message.tool
        if told := state.observers.request_body:
            state.observers.tell(told, context.access, body)
        if exchange.tools is not None:
            check_call(body, client_request.headers, exchange.tools, context.caller)
    else:
        if body:  # a server could read a call in it
            raise errors.InvalidRequest(f"A {client_request.method} of MCP has no body. Send a message with POST.")
        context.access.mcp_method = "DELETE" if client_request.method == "DELETE" else ""
    upstream = state.upstreams[server.target.upstream]
    headers = request_headers(client_request.headers, client_request.method)
    request_id = (b"x-request-id", client_request.id.encode("ascii", "replace"))
    exchange.request = OutboundRequest(
        client_request.method, server.url, (*headers, request_id), body, upstream.timeouts
    )


async def _relay_message(exchange: _McpRequest, servers: McpServers, asked: bytes | None) -> None:
    """Send the request of the session `asked`, with one more attempt where that is allowed, and relay the reply."""
    context, server, request = exchange.context, exchange.server, exchange.request
    state, client_request = context.state, context.client_request
    operation, caller = _OPERATIONS[client_request.method], context.caller.identity
    call = Call(client_request.id, operation, caller, "", request.body, client_request.headers)
    attempt = Attempt.begin(state, server.target, call, PLAIN, context.memory, context.access)
    attempt.repeats_stale = exchange.message.method in READS or request.method == "GET"
    try:
        reply = await send_with_retries(attempt, _try_message, exchange)
    except errors.McpSessionNotFound:
        await servers.sessions.forget(server.name, asked or b"")
        raise
    attempt, response = context.attempt or attempt, reply.response
    try:
        session_id = header(response.headers, SESSION)
        if session_id is not None and session_id != asked and state.authenticator.requires_key:
            await servers.sessions.bind(server.name, session_id, caller)
        is_ended = client_request.method == "DELETE" and not is_error(response.status)
        if asked is not None and (is_ended or response.status == NOT_FOUND):
            await servers.sessions.forget(server.name, asked)
        headers = attempt.upstream.response_headers.select(response.headers)
        is_named = 0 < len(exchange.message.tool) < messages.LONGEST_NAME_CHARS  # a longer name is cut
        if reply.is_stream:
            attempt.record.ran_tool = await _relay_stream(exchange, attempt, response, headers) and is_named
        elif reply.body is None:
            await relay(RawReply(response), attempt, exchange.response, KeepAlive(exchange.response))
        elif is_error(response.status):
            await _relay_error(exchange, attempt, reply, headers)
        else:
            body = reply.body
            if not body:
                headers = [field for field in headers if field[0] != b"content-type"]
                response.finish()  # a 202 may have a text, which no client reads
            attempt.end(COMPLETE)
            blocks = [body]
            if reply.message is None and first_bytes(body).startswith(FIELDS):  # events with the label of JSON
                blocks = [parse_event(block).data or b"" for block in split_events(body)[-LAST_EVENTS:]]
                headers = [*(field for field in headers if field[0] != b"content-type"), _EVENTS]
            is_named = is_named and len(body) <= MIB  # a larger one is not read
            has_run = (messages.has_run(block, exchange.message, reply.message) for block in blocks)
            attempt.record.ran_tool = is_named and any(has_run)
            await exchange.response.send(response.status, headers, body)
    except BaseException:  # a client that disconnects arrives here as a cancellation
        await response.aclose()
        raise


class McpReply(Hidden, msgspec.Struct, frozen=True):
    """A reply whose head was checked. `body` is the whole body, if it was read; `message` or `error`, what it says."""

    response: Response
    body: bytes | None = None
    is_stream: bool = False
    error: GatepassError | None = None
    message: McpMessage | None = None


async def _try_message(attempt: Attempt, exchange: _McpRequest) -> McpReply:
    """Send the request once, and check the head of the reply. Raises the error of a reply that is none of MCP."""
    exchange.context.attempt = attempt
    response = await send(attempt, exchange.request)
    try:
        if response.status != OK:
            await check_head(attempt, response, exchange)
        reply = await read_reply(attempt, response, exchange)
        if reply.error is not None:
            _check_session(attempt, reply.error, exchange, may_be_login=False)
    except BaseException:
        await response.aclose()
        raise
    if not is_error(response.status):
        succeeded(attempt)
    return reply


def _check_session(attempt: Attempt, error: GatepassError, exchange: _McpRequest | None, *, may_be_login: bool) -> None:
    """Raise McpSessionNotFound if `error` says that the server does not know the session of the request.

    Clients begin a new session after a 404 alone, and servers use other statuses, a 200 too.
    """
    body = error.error_body if isinstance(error, errors.UpstreamErrorReply) else None
    if body is None or exchange is None or header(exchange.request.headers, SESSION) is None:
        return
    if attempt.record.status != NOT_FOUND and messages.is_session_lost(body.message, may_be_login=may_be_login):
        attempt.end(Outcome.ERROR_REPLY, error)
        said = body.message[: messages.LONGEST_ERROR_CHARS]
        raise errors.McpSessionNotFound(
            f"The MCP server {exchange.server.name} does not know this session: {said!r}. Initialize a new one."
        )


async def check_head(attempt: Attempt, response: Response, exchange: _McpRequest | None = None) -> None:
    """Raise the error of a rejection, a redirect, and of a failure after which the call is repeated."""
    upstream, status = attempt.upstream, response.status
    # then the token is valid, and another one of the same credential would not help
    lacks_scope = status == FORBIDDEN and challenge(response.headers).get(b"error") == b"insufficient_scope"
    is_rejection = status in upstream.rejection_statuses or rejects_token(status, response.headers)
    if is_rejection and not lacks_scope:
        is_first = attempt.token is not None and not attempt.renewed
        if is_first or status == UNAUTHORIZED:  # a 401 would make the client begin a login
            within_s = upstream_call.REJECTION_S if is_first else ERROR_S
            rejection = await upstream_call.read_error(attempt, response, within_s=within_s)
            if b"error" not in challenge(response.headers):
                _check_session(attempt, rejection, exchange, may_be_login=is_first)
            attempt.is_rejected = is_first
            raise rejection
    mask = attempt.state.redactor.mask
    error = upstream.dialect.classify_head(upstream.name, status, response.headers, host=upstream.host, mask=mask)
    if error is not None:
        raise error


async def read_reply(attempt: Attempt, response: Response, exchange: _McpRequest | None = None) -> McpReply:
    """Return the reply, with its body if gatepass must read it. Raises the error of one that is not of MCP."""
    status, kind = response.status, content_type(response.headers)
    is_json, fails = kind.endswith("json"), is_error(status)
    if status == OK and kind == "text/event-stream":
        attempt.add_upstream_wait()
        return McpReply(response, is_stream=True)
    if status in _WITHOUT_BODY or header(response.headers, b"content-length") == b"0":
        attempt.add_upstream_wait()
        return _empty(attempt, response, exchange)
    dialect, message = attempt.upstream.dialect, messages.UNREADABLE if exchange is None else exchange.message
    if fails and not is_json:
        error = await upstream_call.read_error(attempt, response, within_s=ERROR_S)
        if isinstance(error, errors.UpstreamHtml):  # a login page
            raise error
        return McpReply(response, b"", error=error)
    rejection = attempt.upstream.settings.rejection
    reads_codes = bool(rejection.codes) and not attempt.renewed
    whole = None
    if is_json and not (fails or reads_codes):
        whole = response.take_whole(attempt.limit_bytes)
        attempt.add_upstream_wait()
        if whole is None and int(header(response.headers, b"content-length") or 0) > upstream_call.ERROR_BYTES:
            return McpReply(response)
        attempt.add(len(whole or b""))
    body = whole or await upstream_call.read_body(attempt, response, attempt.limit_bytes)
    if fails:
        received = upstream_call.received_reply(attempt, response, body)
        return McpReply(response, body, error=dialect.classify_error(received))
    start = first_bytes(body)
    is_json = is_json or start[:1] in (b"{", b"[") or start.startswith(FIELDS)
    # an object that is no response would leave the client waiting
    may_be_lie = message.kind != "unreadable" and start[:1] == b"{" and len(body) <= upstream_call.ERROR_BYTES
    answer = messages.read_message(body) if may_be_lie else None
    is_lie = answer is not None and answer.kind != "response"
    if body and (reads_codes or is_lie or not is_json):
        received = upstream_call.received_reply(attempt, response, body)
        found = dialect.classify_document(received, RAW)
        if isinstance(found, errors.UpstreamErrorReply) and (is_lie or found.upstream_code in rejection.codes):
            _check_session(attempt, found, exchange, may_be_login=False)
            raise upstream_call.as_rejection(found, rejection, received.status)
        if isinstance(found, GatepassError) and not is_json:
            raise found
        if is_lie and message.kind == "request":
            raise reply_check.invalid(received, "with JSON that is not a response of JSON-RPC")
    return McpReply(response, body, message=answer) if body else _empty(attempt, response, exchange)


def _empty(attempt: Attempt, response: Response, exchange: _McpRequest | None) -> McpReply:
    """Return the reply without a body. Raises UpstreamEmpty for one that leaves a request without its response."""
    if response.status == OK and exchange is not None and exchange.message.kind == "request":
        what = f"{upstream_call.received_reply(attempt, response, b'').answered} with an empty body."
        raise errors.UpstreamEmpty(what, upstream=attempt.upstream.name)
    return McpReply(response, b"")


async def _relay_error(
    exchange: _McpRequest, attempt: Attempt, reply: McpReply, headers: list[tuple[bytes, bytes]]
) -> None:
    """Relay an error of the server with its status: its JSON as bytes, otherwise a message that names the hop.

    A 405 for GET or DELETE is no failure: Streamable HTTP lets a server decline a stream, or the end of a session.
    """
    context, response, body = exchange.context, reply.response, reply.body
    status = response.status
    declines = status == METHOD_NOT_ALLOWED and exchange.request.method != "POST"
    error = reply.error or await upstream_call.read_error(attempt, response, within_s=ERROR_S)
    if body:
        if len(body) <= upstream_call.ERROR_BYTES:
            # itself unless it quotes a secret, such as the token that the server received
            text = body.decode("utf-8", "surrogateescape")
            if (masked := context.state.redactor.mask(text)) != text:
                body = masked.encode("utf-8", "surrogateescape")
        else:  # masking would occupy the event loop for too long
            body = context.protocol.error_body(error, context.client_request.id)
    else:
        told = challenge(response.headers)
        if shown := [name for name in (b"error", b"error_description", b"scope") if name in told]:
            quoted = ", ".join(f"{name.decode()}: {told[name].decode('latin-1')}" for name in shown)
            error.cause = f"{error.cause} The server states {context.state.redactor.mask(quoted)}."
        own = {name for name, _ in error_headers(error)}
        headers = [*error_headers(error), *(field for field in headers if field[0] not in own)]
        headers = [field for field in headers if field[0] != b"cache-control"]
        body = b"" if declines else context.protocol.error_body(error, context.client_request.id)
    if declines:
        what = "no stream offered" if exchange.request.method == "GET" else "end of session not offered"
        context.access.reason = attempt.record.reason = what
        attempt.end(COMPLETE)
    else:
        context.error = error
        attempt.end(Outcome.ERROR_REPLY, error)
    await exchange.response.send(status, headers, body)


async def _relay_stream(
    exchange: _McpRequest, attempt: Attempt, response: Response, headers: list[tuple[bytes, bytes]]
) -> bool:
    """Relay a stream as it arrives, and return whether the tool that was called ran without an error.

    Its head is sent at once: the first event of an idle one may take an hour.
    """
    context, client_response, upstream = exchange.context, exchange.response, attempt.upstream.name
    state, is_idle = context.state, context.access.operation == IDLE_STREAM
    request = None if is_idle else exchange.message
    mark_first_byte = client_response.mark_first_byte
    read_error = partial(attempt.upstream.dialect.read_error_body, mask=state.redactor.mask)
    source = StreamSource(upstream, state.limits.event_bytes, read_error)
    events = PassedEvents(source, begins=mark_first_byte, request=request)
    keep_alive = KeepAlive(client_response)
    context.access.stream = True
    try:
        client_response.begin_stream(OK, headers)
        await client_response.send_events(b"")
        keep_alive.start(_keep_alive, EVERY_S)
        stream = StreamingReply(response, events, b"")
        await relay(stream, attempt, client_response, keep_alive)
    except errors.UpstreamError as error:
        # A client that knows the id of an event resumes the stream, and an error would be the answer to its request.
        error.is_told = error.is_told or events.has_ids
        if not (error.is_told or events.is_between_events):  # otherwise the cut event would swallow the error
            await client_response.send_events(b"\n\n")
        raise
    except asyncio.CancelledError:
        reason = exchange.in_flight.reason
        if is_idle and isinstance(reason, errors.Draining):
            attempt.end(Outcome.DRAINED)
            await client_response.send_events(b"", last=True)
        elif not (isinstance(reason, errors.ClientGone) and (is_idle or events.ends_with(messages.is_response))):
            raise
        elif not attempt.record.outcome:  # the client ended a stream that it does not need any more
            attempt.end(COMPLETE)
    finally:
        keep_alive.stop()
    return events.ends_with(messages.has_run)


class PassedEvents(EventStream):
    """A stream that passes as it arrives, in pieces that may be cut anywhere.

    It knows whether the last byte ended an event, because only there a comment may follow. JSON with the label of a
    stream becomes its one event.
    """

    __slots__ = ("_begins", "_is_json", "_last", "_request", "_tail")

    def __init__(
        self,
        source: StreamSource,
        *,
        begins: Callable[[], None] | None = None,
        request: McpMessage | None = None,
    ) -> None:
        """`begins` is called when the first bytes pass. `request` is what the stream answers: None for an idle one."""
        super().__init__(source, done_is_required=False)
        self._begins = begins
        self._last = b"\n\n"
        self._request = request
        self._is_json: bool | None = None
        self._tail = b""

    @property
    def is_between_events(self) -> bool:
        return self._last.endswith((b"\n\n", b"\n\r\n", b"\r\r"))

    def ends_with(self, is_wanted: Callable[[bytes, McpMessage], bool]) -> bool:
        """Whether a response as wanted is among the last events. One above TAIL_BYTES is taken for any response."""
        if self._request is None or not self.is_between_events:
            return False
        blocks = split_events(self._tail)[-LAST_EVENTS:]
        if len(self._tail) > TAIL_BYTES and len(blocks) == 1:
            return is_wanted is messages.is_response
        return any(is_wanted(parse_event(block).data or b"", self._request) for block in blocks)

    def feed(self, piece: bytes = b"") -> bytes:
        if piece:
            if self._begins is not None:
                self._begins()
                self._begins = None
            if self._is_json is None and (start := first_bytes(piece)):
                self._is_json = start[:1] in (b"{", b"[")
                piece = b"data: " + piece.lstrip() if self._is_json else piece
            if self._is_json:
                piece = piece.translate(_ONE_LINE)
            if not self.has_ids:  # a line that begins with it: no text in JSON contains a line break
                begin = self._last + piece[:4]
                self.has_ids = any(mark in part for part in (begin, piece) for mark in (b"\nid:", b"\rid:"))
            if self._request is not None:
                self._tail = (self._tail + piece)[-TAIL_BYTES - 1 :]
            self._last = (self._last + piece)[-3:] if len(piece) < 3 else piece[-3:]
        return piece

    def finish(self) -> bytes:
        ended = b""
        if self._is_json:
            self._is_json = False
            ended = self.feed(b"\n\n")
        is_answered = self.has_ids or self.ends_with(messages.is_response)
        if self._request is not None and self._request.kind == "request" and not is_answered:
            error = stream_closed(self._source.upstream)
            for block in split_events(self._tail)[-LAST_EVENTS:]:
                with suppress(ValueError):
                    if (said := self._source.read_error(read_json(parse_event(block).data or b""))) is not None:
                        error.cause = f"The upstream ended its stream with an error of another form: {said.message}"
            self.fail(error)
        return ended


def _keep_alive(events: EventStream | None) -> bytes:
    if not (isinstance(events, PassedEvents) and events.is_between_events):
        return b""
    return COMMENT_AFTER_ID if events.has_ids else COMMENT
