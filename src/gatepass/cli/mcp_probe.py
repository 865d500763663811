"""The steps of `gatepass doctor` at an MCP server: its answer without a token, its revision, its tools, its keys.

They send with the same code as a client's request. The server executes no tool.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from gatepass.cli.probe import failed_step, hop_of, within
from gatepass.cli.reach import Begin, Step, StepOutcome
from gatepass.config.wording import did_you_mean
from gatepass.dialects.reply_check import login_page
from gatepass.errors import (
    GatepassError,
    TransportFault,
    UpstreamError,
    UpstreamErrorReply,
    UpstreamHtml,
    UpstreamInvalid,
    UpstreamRedirect,
)
from gatepass.mcp.access import Kind, McpAllowed, allowed_of, refusal_of
from gatepass.mcp.errors import name_settings
from gatepass.operations.table import OPERATIONS
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.attempt import close_attempt, send, send_with_retries
from gatepass.proxy.context import Attempt
from gatepass.proxy.upstream_call import connection_error, received_reply
from gatepass.sse.event import Framer, parse_event, split_events
from gatepass.types import MCP_UPSTREAM, Call, Headers, Hidden, OutboundRequest, Response, Target, header

Message = dict[str, Any]

NEWEST = "2026-07-28"
"""The first revision without a handshake. Its requests name it in a header and in `_meta`."""
HANDSHAKE = "2025-11-25"
"""The last revision with a handshake."""
REPLY_BYTES = 4 * 1024 * 1024
TOOLS_SHOWN = 12
SESSION = b"mcp-session-id"

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
    """What a server answered. `message` is its JSON-RPC message; None if it sent none."""

    status: int
    headers: Headers
    message: Message | None

    @property
    def result(self) -> Message | None:
        found = None if self.message is None else self.message.get("result")
        return found if isinstance(found, dict) else None

    @property
    def error(self) -> str:
        """The text of its JSON-RPC error, or its status."""
        found = None if self.message is None else self.message.get("error")
        if isinstance(found, dict) and isinstance(found.get("message"), str):
            return f"HTTP {self.status}, {found['message'][:200]}"
        return f"HTTP {self.status}"


async def check_mcp(state: AppState, upstream: Upstream, begin: Begin) -> AsyncIterator[Step]:
    """Yield what the server says without a token, its revision of MCP, its tools, and the keys that may use it."""
    hop = hop_of(upstream)
    if upstream.holder is not None:
        begin(hop, "no token")
        yield await _without_token(state, upstream)
    begin(hop, "mcp")
    try:
        version, fields = await within(state, upstream, _version(state, upstream))
    except GatepassError as error:
        yield _failed(error, state, "mcp")
        return
    where = "in its headers" if version == NEWEST else "by its handshake"
    yield Step(hop, "mcp", StepOutcome.WORKS, f"speaks MCP {version} {where}")
    begin(hop, "tools")
    offered = dict[Kind, list[str]]()
    try:
        yield await within(state, upstream, _tools(state, upstream, version, fields, offered))
        if any(lists.prompts for _, lists in _lists(state, upstream)):
            await within(state, upstream, _list(state, upstream, version, fields, "prompts", offered))
    except GatepassError as error:
        yield _failed(error, state, "tools")
    finally:
        if (session := header(fields, SESSION)) is not None:
            await _end_session(state, upstream, session)
    for step in _keys(state, upstream, offered):
        yield step


def settings_of(name: str, base_url: str) -> str:
    """Return what an MCP client sets. `base_url` is that of gatepass, without `/v1`."""
    return SETTINGS.format(name=name, url=f"{base_url}/mcp/{name}")


async def _without_token(state: AppState, upstream: Upstream) -> Step:
    """Show how the server refuses a request: gatepass keeps that from clients, which would begin a login."""
    hop = hop_of(upstream)
    try:
        work = _ask(state, replace(upstream, holder=None), _discover(), _fields_of(NEWEST, "server/discover"))
        reply = await within(state, upstream, work)
    except (UpstreamHtml, UpstreamRedirect) as error:
        shape = "an HTML page" if isinstance(error, UpstreamHtml) else "a redirect"
        why = f"answers a request without the token with {shape}, as a login does; clients never receive it"
        return Step(hop, "no token", StepOutcome.WORKS, why, proves=False)
    except GatepassError as error:
        return _failed(error, state, "no token")
    if reply.status not in upstream.rejection_statuses:
        why = f"without the token it answers {reply.error}, so it is not proven that it accepts the token"
        return Step(hop, "no token", StepOutcome.UNPROVEN, why)
    challenge = header(reply.headers, b"www-authenticate")
    shape = "no WWW-Authenticate"
    if challenge is not None:
        begins_login = b"resource_metadata" in challenge.lower()
        shape = "WWW-Authenticate with resource_metadata" if begins_login else "WWW-Authenticate"
    why = f"refuses a request without the token: {reply.status}, {shape}; clients of gatepass receive neither"
    return Step(hop, "no token", StepOutcome.WORKS, why, proves=False)


async def _version(state: AppState, upstream: Upstream) -> tuple[str, Headers]:
    """Return the revision of the server, and the fields of further requests. Raises UpstreamError."""
    reply = await _ask(state, upstream, _discover(), _fields_of(NEWEST, "server/discover"))
    if reply.status in upstream.rejection_statuses:
        raise _rejected(upstream, reply)
    if reply.result is not None and NEWEST in _texts(reply.result.get("supportedVersions")):
        return NEWEST, ()
    first = reply
    client = {"name": "gatepass doctor", "version": "1"}
    params = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": client}
    reply = await _ask(state, upstream, _request("initialize", params))
    version = None if reply.result is None else reply.result.get("protocolVersion")
    if not isinstance(version, str):
        raise UpstreamInvalid(
            f"The server answers neither server/discover ({first.error}) nor initialize ({reply.error}): is"
            f" mcp.{upstream.name.removeprefix(MCP_UPSTREAM)}.url its endpoint for Streamable HTTP?",
            upstream=upstream.name,
        )
    fields: Headers = ((b"mcp-protocol-version", version[:40].encode("ascii", "replace")),)
    if (session := header(reply.headers, SESSION)) is not None:
        fields += ((SESSION, session),)
    await _ask(state, upstream, {"jsonrpc": "2.0", "method": "notifications/initialized"}, fields)
    return version[:40], fields


async def _tools(
    state: AppState,
    upstream: Upstream,
    version: str,
    fields: Headers,
    offered: dict[Kind, list[str]],
) -> Step:
    """Return the step of the tools, and add them to `offered`."""
    hop = hop_of(upstream)
    reply = await _list(state, upstream, version, fields, "tools", offered)
    names = _names(reply, "tools")
    if names is None:
        why = f"tools/list: {reply.error}: it may offer prompts or resources only"
        return Step(hop, "tools", StepOutcome.UNPROVEN, why)
    more = f" and {len(names) - TOOLS_SHOWN} more" if len(names) > TOOLS_SHOWN else ""
    more += "" if "tools" in offered else "; more follow on further pages"
    shown = f": {', '.join(name[:60] for name in names[:TOOLS_SHOWN])}{more}" if names else ""
    return Step(hop, "tools", StepOutcome.WORKS, f"lists {len(names)} tools{shown}")


async def _list(
    state: AppState,
    upstream: Upstream,
    version: str,
    fields: Headers,
    kind: Kind,
    offered: dict[Kind, list[str]],
) -> Reply:
    """Return the reply with the first page of a list. Add its names to `offered` if there is no other page."""
    method, is_newest = f"{kind}/list", version == NEWEST
    message = _request(method, {"_meta": _meta()} if is_newest else {})
    reply = await _ask(state, upstream, message, _fields_of(NEWEST, method) if is_newest else fields)
    names = _names(reply, kind)
    if names is not None and reply.result is not None and not reply.result.get("nextCursor"):
        offered[kind] = names
    return reply


def _names(reply: Reply, kind: Kind) -> list[str] | None:
    """Return the names of the tools or prompts in a reply; None if it has no list."""
    listed = None if reply.result is None else reply.result.get(kind)
    return [str(one.get("name")) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else None


def _lists(state: AppState, upstream: Upstream) -> Iterator[tuple[int, McpAllowed]]:
    """Yield the number of each key that may use the server, with what it may use of it."""
    server = upstream.name.removeprefix(MCP_UPSTREAM)
    for number, key in enumerate(state.config.access.keys):
        if (allowed := allowed_of(key, server)) is not None:
            yield number, allowed


def _keys(state: AppState, upstream: Upstream, offered: Mapping[Kind, list[str]]) -> Iterator[Step]:
    """Yield which keys may use the server, which may not without saying so, and listed names that it does not offer."""
    hop, server, keys = hop_of(upstream), upstream.name.removeprefix(MCP_UPSTREAM), state.config.access.keys
    usable = list(_lists(state, upstream))
    if keys and not usable:
        why, advice = "no key may use the server", f"Add {server} to access.keys[].mcp of a key."
        yield Step(hop, "keys", StepOutcome.UNPROVEN, why, advice)
    elif keys:
        names = dict.fromkeys(keys[number].name + (" (limited)" if one.is_limited else "") for number, one in usable)
        yield Step(hop, "keys", StepOutcome.WORKS, f"may be used by {', '.join(names)}", proves=False)
    closed = dict[str, dict[str, None]]()
    for key in keys:
        if key.mcp is None and key.role != "viewer" and allowed_of(key, server) is None:
            closed.setdefault(refusal_of(key), {})[key.name] = None
    for reason, names in closed.items():
        why = f"may not be used by {', '.join(names)}, {reason}"
        yield Step(hop, "keys", StepOutcome.UNPROVEN, why, f"Add `mcp: [{server}]` to a key that needs it.")
    for number, allowed in usable:
        for kind, known in offered.items():
            globs = (allowed.tools if kind == "tools" else allowed.prompts) or ()
            unused = [glob for glob in globs if not any(McpAllowed((glob,)).allows("tools", name) for name in known)]
            if unused:
                hint = did_you_mean(", ".join(unused), known[:TOOLS_SHOWN])
                why = f"access.keys[{number}].mcp.{server}.{kind}: the server lists no {', '.join(unused)}{hint}"
                yield Step(hop, "keys", StepOutcome.UNPROVEN, why, f"Correct the list of {keys[number].name}.")


async def _end_session(state: AppState, upstream: Upstream, session: bytes) -> None:
    try:
        await within(state, upstream, _ask(state, upstream, None, ((SESSION, session),)))
    except GatepassError:
        return  # the server ends an unused session by itself


def _request(method: str, params: Mapping[str, object]) -> Message:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def _discover() -> Message:
    return _request("server/discover", {"_meta": _meta()})


def _meta() -> Message:
    return {
        "io.modelcontextprotocol/protocolVersion": NEWEST,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "gatepass doctor", "version": "1"},
    }


def _fields_of(version: str, method: str) -> Headers:
    return ((b"mcp-protocol-version", version.encode()), (b"mcp-method", method.encode()))


def _texts(value: object) -> Sequence[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


_POST = next(row for row in OPERATIONS if row.name == "chat")


async def _ask(state: AppState, upstream: Upstream, message: Message | None, fields: Headers = ()) -> Reply:
    """Send `message`, or a DELETE without one, and return the answer. Raises TokenUnavailable and UpstreamError."""
    body = b"" if message is None else json.dumps(message).encode()
    own = ((b"accept", b"application/json, text/event-stream"), (b"content-type", b"application/json"))
    url = state.config.mcp[upstream.name.removeprefix(MCP_UPSTREAM)].url
    method = "DELETE" if message is None else "POST"
    request = OutboundRequest(method, url, (*own, *fields), body, upstream.timeouts)
    call = Call("doctor", _POST, "doctor", "", body, ())
    attempt = Attempt.begin(state, (Target(upstream.name),), call)
    attempt.upstream = upstream
    last = attempt

    async def once(tried: Attempt) -> Reply:
        nonlocal last
        last = tried
        response = await send(tried, request)
        try:
            return await _answer(tried, response)
        finally:
            await response.aclose()

    try:
        reply = await send_with_retries(attempt, once)
    except BaseException as error:
        close_attempt(last, error)
        raise
    close_attempt(last, None)
    return reply


async def _answer(attempt: Attempt, response: Response) -> Reply:
    """Read the answer: the whole body, or a stream up to the message with the id of the request.

    Raises the error of a redirect and of an HTML page, as a request of a client has it.
    """
    upstream, mask = attempt.upstream, attempt.state.redactor.mask
    fault = upstream.dialect.classify_head(
        upstream.name, response.status, response.headers, host=upstream.host, mask=mask
    )
    if fault is not None:
        raise fault
    kind = (header(response.headers, b"content-type") or b"").lower()
    is_stream, read, pieces = kind.startswith(b"text/event-stream"), 0, list[bytes]()
    framer = Framer(REPLY_BYTES)
    try:
        async for piece in response:
            read += len(piece)
            if read > REPLY_BYTES:
                break
            pieces.append(piece)
            for block in split_events(framer.feed(piece)) if is_stream else ():
                message = _parsed(parse_event(block).data or b"")
                if message is not None and "id" in message and "method" not in message:
                    return Reply(response.status, response.headers, message)
    except TransportFault as lost:
        raise connection_error(attempt, lost) from lost
    body = b"".join(pieces)
    if (page := login_page(received_reply(attempt, response, body))) is not None:
        raise page
    return Reply(response.status, response.headers, None if is_stream else _parsed(body))


def _parsed(data: bytes) -> Message | None:
    try:
        message = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _rejected(upstream: Upstream, reply: Reply) -> UpstreamError:
    name = upstream.name.removeprefix(MCP_UPSTREAM)
    reason = f"The server rejects the token: {reply.error}."
    if upstream.holder is None:
        reason += f" Set mcp.{name}.credential."
    else:
        reason += f" Check the audience and the scopes of the credential {upstream.credential}."
    return UpstreamErrorReply(reason, upstream=upstream.name, status=reply.status)


def _failed(error: GatepassError, state: AppState, what: str) -> Step:
    name = error.hop.removeprefix(f"upstream:{MCP_UPSTREAM}")
    name_settings(error, name)
    error.message = error.message.removesuffix(f" `gatepass doctor --mcp {name}` tries it.")
    return failed_step(error, state.config, what, "")
