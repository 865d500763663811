"""The steps of `gatepass doctor` at an MCP server: its answer without a token, its revision, its tools, its keys.

They send with the same code as a client's request. The server executes no tool.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from gatepass import errors
from gatepass.cli.probe import failed_step, hop_of, within
from gatepass.cli.reach import Begin, Step, StepOutcome
from gatepass.dialects.reply_check import login_page
from gatepass.mcp.access import callable_tools, may_use, refusal_of
from gatepass.mcp.message import name_settings, read_message
from gatepass.operations.table import OPERATIONS
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.attempt import close_attempt, send, send_own_call
from gatepass.proxy.context import Attempt
from gatepass.proxy.upstream_call import connection_error, header_keys, received_reply, rejection_advice
from gatepass.sse.event import Framer, parse_event, split_events
from gatepass.types import MCP_UPSTREAM, Call, Headers, Hidden, OutboundRequest, Target, header

Message = dict[str, Any]

NEWEST = "2026-07-28"
"""The first revision without a handshake. Its requests name it in a header and in `_meta`."""
HANDSHAKE = "2025-11-25"
"""The last revision with a handshake."""
REPLY_BYTES = 4 * 1024 * 1024
TOOLS_SHOWN = 12
SESSION = b"mcp-session-id"
CLIENT = {"name": "gatepass doctor", "version": "1"}
META = {
    "io.modelcontextprotocol/protocolVersion": NEWEST,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": CLIENT,
}

SETTINGS = """\
An MCP client sets, for the server {name}:
  URL     {url}
  header  Authorization: Bearer gp-…, with a key of access.keys that may use the server

Claude Code and Codex, with the key in the variable LLM_API_KEY:
  claude mcp add --transport http {name} {url} --header 'Authorization: Bearer ${{LLM_API_KEY}}'
  claude mcp list
  claude -p "…" --allowedTools mcp__{name}

  [mcp_servers.{name}]    # in ~/.codex/config.toml
  url = "{url}"
  bearer_token_env_var = "LLM_API_KEY"
  default_tools_approval_mode = "approve"

Without the option and the last line, `claude -p` and `codex exec` refuse each tool.
"""


@dataclass(frozen=True, slots=True, repr=False)
class Reply(Hidden):
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

    @property
    def tools(self) -> list[str] | None:
        """The names of the tools that it lists; None if it has no list."""
        listed = self.result.get("tools")
        return [str(one.get("name")) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else None


@dataclass(slots=True, repr=False)
class Server(Hidden):
    """An MCP server while it is tested."""

    state: AppState
    upstream: Upstream
    session: Headers = ()
    """Sent with each request after a handshake. The newest revision has none."""

    @property
    def name(self) -> str:
        return self.upstream.name.removeprefix(MCP_UPSTREAM)

    @property
    def usable(self) -> list[int]:
        """The number of each key that may use the server."""
        return [number for number, key in enumerate(self.state.config.access.keys) if may_use(key, self.name)]

    def step(self, what: str, outcome: StepOutcome, why: str, advice: str = "", *, proves: bool = True) -> Step:
        return Step(hop_of(self.upstream), what, outcome, why, advice, proves=proves)

    def failed(self, what: str, error: errors.GatepassError) -> Step:
        name_settings(error, self.name)
        return failed_step(error, self.state.config, what, "")

    async def ask(self, method: str, params: Message | None = None) -> Reply:
        """Send a request: after a handshake, as a part of it with `params`, or with its revision in itself."""
        fields = self.session
        if params is None and not self.session:
            fields = ((b"mcp-protocol-version", NEWEST.encode()), (b"mcp-method", method.encode()))
            params = {"_meta": META}
        return await self.send({"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}, fields)

    async def send(self, message: Message | None, fields: Headers) -> Reply:
        """Send `message`, or a DELETE without one, and return the answer. Raises TokenUnavailable and UpstreamError."""
        body = b"" if message is None else json.dumps(message).encode()
        own = ((b"accept", b"application/json, text/event-stream"), (b"content-type", b"application/json"))
        url, method = self.state.config.mcp[self.name].url, "DELETE" if message is None else "POST"
        request = OutboundRequest(method, url, (*own, *fields), body, self.upstream.timeouts)
        call = Call("doctor", _POST, "doctor", "", body, ())
        attempt = Attempt.begin(self.state, Target(self.upstream.name), call)
        attempt.upstream = self.upstream
        return await send_own_call(attempt, _send, request)


async def check_mcp(state: AppState, upstream: Upstream, begin: Begin) -> AsyncIterator[Step]:
    """Yield the reply to a request without a token, the revision of MCP, the tools, and the keys that may use them."""
    server, hop = Server(state, upstream), hop_of(upstream)
    if upstream.holder is not None:
        begin(hop, "no token")
        yield await _without_token(Server(state, replace(upstream, holder=None)))
    begin(hop, "mcp")
    try:
        revision = await within(state, upstream, _revision(server))
    except errors.GatepassError as error:
        yield server.failed("mcp", error)
        return
    yield server.step("mcp", StepOutcome.WORKS, f"speaks MCP {revision}")
    begin(hop, "tools")
    try:
        yield await within(state, upstream, _tools(server))
    except errors.GatepassError as error:
        yield server.failed("tools", error)
    finally:
        if server.session[1:]:
            with suppress(errors.GatepassError):  # the server ends an unused session by itself
                await within(state, upstream, server.send(None, server.session[1:]))
    for step in _keys(server):
        yield step


def settings_of(name: str, base_url: str) -> str:
    """Return what an MCP client sets. `base_url` is that of gatepass, without `/v1`."""
    return SETTINGS.format(name=name, url=f"{base_url}/mcp/{name}")


async def _without_token(server: Server) -> Step:
    """Show how the server refuses a request: gatepass keeps that from clients, which would begin a login."""
    try:
        reply = await within(server.state, server.upstream, server.ask("server/discover"))
    except (errors.UpstreamHtml, errors.UpstreamRedirect) as error:
        shape = "an HTML page" if isinstance(error, errors.UpstreamHtml) else "a redirect"
        why = f"answers a request without the token with {shape}, as a login does; clients never receive it"
        return server.step("no token", StepOutcome.WORKS, why, proves=False)
    except errors.GatepassError as error:
        return server.failed("no token", error)
    if reply.status not in server.upstream.rejection_statuses:
        why = f"without the token it answers {reply.error}, so it is not proven that it accepts the token"
        return server.step("no token", StepOutcome.UNPROVEN, why)
    why = f"refuses a request without the token: {reply.status}; clients of gatepass never receive it"
    return server.step("no token", StepOutcome.WORKS, why, proves=False)


async def _revision(server: Server) -> str:
    """Make the handshake. Return the server's revision of MCP and the kind of handshake. Raises UpstreamError."""
    upstream = server.upstream
    first = await server.ask("server/discover")
    if first.status in upstream.rejection_statuses:
        token = None if upstream.holder is None else upstream.holder.current()
        is_key = token is not None and token.lifetime_s is None
        advice = rejection_advice(server.state, upstream, is_key=is_key)
        has_none = upstream.holder is None and not header_keys(upstream)
        sent = "the request" if has_none else "the credential that gatepass sends"
        reason = f"The server rejects {sent}: {first.error}. {advice}"
        raise errors.UpstreamErrorReply(reason, upstream=upstream.name, status=first.status)
    supported = first.result.get("supportedVersions")
    if isinstance(supported, list) and NEWEST in supported:
        return f"{NEWEST} in its headers"
    reply = await server.ask("initialize", {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": CLIENT})
    version = reply.result.get("protocolVersion")
    if not isinstance(version, str):
        raise errors.UpstreamInvalid(
            f"The server answers neither server/discover ({first.error}) nor initialize ({reply.error}): is"
            f" mcp.{server.name}.url its endpoint for Streamable HTTP?",
            upstream=upstream.name,
        )
    session = header(reply.headers, SESSION)
    named = ((b"mcp-protocol-version", version[:40].encode("ascii", "replace")),)
    server.session = named if session is None else (*named, (SESSION, session))
    await server.send({"jsonrpc": "2.0", "method": "notifications/initialized"}, server.session)
    return f"{version[:40]} by its handshake"


async def _tools(server: Server) -> Step:
    reply = await server.ask("tools/list")
    if (names := reply.tools) is None:
        why = f"tools/list: {reply.error}: it may offer prompts or resources only"
        return server.step("tools", StepOutcome.UNPROVEN, why)
    more = f" and {len(names) - TOOLS_SHOWN} more" if len(names) > TOOLS_SHOWN else ""
    more += "; more follow on further pages" if reply.result.get("nextCursor") else ""
    shown = f": {', '.join(name[:60] for name in names[:TOOLS_SHOWN])}{more}" if names else ""
    return server.step("tools", StepOutcome.WORKS, f"lists {len(names)} tools{shown}")


def _keys(server: Server) -> Iterator[Step]:
    """Yield which keys may use the server, and which may not without saying so."""
    keys, usable = server.state.config.access.keys, server.usable
    if keys and not usable:
        advice = f"Add {server.name} to access.keys[].mcp of a key."
        yield server.step("keys", StepOutcome.UNPROVEN, "no key may use the server", advice)
    elif keys:
        found = [(keys[number].name, callable_tools(keys[number], server.name)) for number in usable]
        names = dict.fromkeys(name + (" (limited)" if tools is not None else "") for name, tools in found)
        yield server.step("keys", StepOutcome.WORKS, f"may be used by {', '.join(names)}", proves=False)
    closed = dict[str, dict[str, None]]()
    for number, key in enumerate(keys):
        if key.mcp is None and key.role != "viewer" and number not in usable:
            closed.setdefault(refusal_of(key), {})[key.name] = None
    for reason, names in closed.items():
        why = f"may not be used by {', '.join(names)}, {reason}"
        advice = f"Add `mcp: [{server.name}]` to a key that needs it."
        yield server.step("keys", StepOutcome.WORKS, why, advice, proves=False)


_POST = next(row for row in OPERATIONS if row.name == "chat")


async def _send(attempt: Attempt, request: OutboundRequest) -> Reply:
    """Return the answer: the whole body, or a stream up to the response.

    Raises the error of a redirect and of an HTML page, as a request of a client has it.
    """
    response, upstream = await send(attempt, request), attempt.upstream
    status, headers, message, read, pieces = response.status, response.headers, Message(), 0, list[bytes]()
    is_stream = (header(headers, b"content-type") or b"").lower().startswith(b"text/event-stream")
    framer, mask = Framer(REPLY_BYTES), attempt.state.redactor.mask
    try:
        fault = upstream.dialect.classify_head(upstream.name, status, headers, host=upstream.host, mask=mask)
        if fault is not None:
            raise fault
        async for piece in response:
            read += len(piece)
            if read > REPLY_BYTES:
                break
            pieces.append(piece)
            for block in split_events(framer.feed(piece)) if is_stream else ():
                data = parse_event(block).data or b""
                if read_message(data).kind == "response":
                    message = _parsed(data)
            if message:
                break
        body = b"".join(pieces)
        if not is_stream:
            message = _parsed(body)
        if not message and (page := login_page(received_reply(attempt, response, body))) is not None:
            raise page
    except errors.TransportFault as lost:
        raise connection_error(attempt, lost) from lost
    finally:
        await response.aclose()
    close_attempt(attempt, None)
    return Reply(status, headers, message)


def _parsed(data: bytes) -> Message:
    with suppress(msgspec.DecodeError, RecursionError):
        return msgspec.json.decode(data, type=Message)
    return {}
