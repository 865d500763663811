"""The steps of `gatepass doctor` at an MCP server: its handshake and its tools. The server executes no tool.

They send with the same code as a client's message.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from gatepass import errors
from gatepass.cli.probe import failed_step, hop_of, within
from gatepass.cli.step import Begin, Step, StepOutcome
from gatepass.mcp.message import name_settings, read_message
from gatepass.operations.table import OPERATIONS
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.attempt import close_attempt, send, send_own_call
from gatepass.proxy.context import Attempt
from gatepass.proxy.mcp import SESSION, check_head, read_reply
from gatepass.proxy.upstream_call import connection_error, read_body
from gatepass.sse.event import Framer, parse_event, split_events
from gatepass.types import MCP_UPSTREAM, Call, Headers, Hidden, OutboundRequest, Target, header

Message = dict[str, Any]

NEWEST = "2026-07-28"
"""The first revision without a handshake. Its requests name it in a header and in `_meta`."""
HANDSHAKE = "2025-11-25"
"""The last revision with a handshake."""
REPLY_BYTES = 4 * 1024 * 1024
TOOLS_SHOWN = 12
CLIENT = {"name": "gatepass doctor", "version": "1"}
META = {
    "io.modelcontextprotocol/protocolVersion": NEWEST,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": CLIENT,
}


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


async def check_mcp(state: AppState, upstream: Upstream, begin: Begin) -> AsyncIterator[Step]:
    """Yield the steps `initialize` and `tools` of an MCP server."""
    hop, name = hop_of(upstream), upstream.name.removeprefix(MCP_UPSTREAM)

    async def ask(method: str, params: Message, fields: Headers = (), number: int | None = 1) -> Reply:
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        body = json.dumps(message if number is None else {**message, "id": number}).encode()
        return await within(state, upstream, _asked(state, upstream, body, fields))

    begin(hop, what := "initialize")
    fields: Headers = ((b"mcp-protocol-version", NEWEST.encode()), (b"mcp-method", b"tools/list"))
    params: Message = {"_meta": META}
    try:
        reply = await ask("initialize", {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": CLIENT})
        version = reply.result.get("protocolVersion")
        if isinstance(version, str):
            session = header(reply.headers, SESSION)
            named = ((b"mcp-protocol-version", version[:40].encode("ascii", "replace")),)
            fields, params = named if session is None else (*named, (SESSION, session)), {}
            await ask("notifications/initialized", {}, fields, None)
            yield Step(hop, "initialize", StepOutcome.WORKS, f"speaks MCP {version[:40]}")
        else:  # as a server of the newest revision, which needs none
            yield Step(hop, "initialize", StepOutcome.UNPROVEN, f"has no handshake: {reply.error}")
        begin(hop, what := "tools")
        reply = await ask("tools/list", params, fields)
    except errors.GatepassError as error:
        name_settings(error, name)
        yield failed_step(error, what, "")
        return
    listed = reply.result.get("tools")
    if not isinstance(listed, list) and params:
        why = f"answers neither initialize nor tools/list ({reply.error})"
        yield Step(
            hop, "tools", StepOutcome.FAILS, why, f"Check that mcp.{name}.url is its endpoint for Streamable HTTP."
        )
    elif not isinstance(listed, list):
        why = f"tools/list: {reply.error}: it may offer prompts or resources only"
        yield Step(hop, "tools", StepOutcome.UNPROVEN, why)
    if not isinstance(listed, list):
        return
    names = [str(one.get("name")) for one in listed if isinstance(one, dict)]
    more = f" and {len(names) - TOOLS_SHOWN} more" if len(names) > TOOLS_SHOWN else ""
    shown = f": {', '.join(name[:60] for name in names[:TOOLS_SHOWN])}{more}" if names else ""
    yield Step(hop, "tools", StepOutcome.WORKS, f"lists {len(names)} tools{shown}")


_POST = next(row for row in OPERATIONS if row.name == "chat")


async def _asked(state: AppState, upstream: Upstream, body: bytes, fields: Headers) -> Reply:
    """Send a message and return the answer. Raises the error that a client would get."""
    own = ((b"accept", b"application/json, text/event-stream"), (b"content-type", b"application/json"))
    url = state.config.mcp[upstream.name.removeprefix(MCP_UPSTREAM)].url
    request = OutboundRequest("POST", url, (*own, *fields), body, upstream.timeouts)
    attempt = Attempt.begin(state, Target(upstream.name), Call("doctor", _POST, "doctor", "", body, ()))
    return await send_own_call(attempt, _send, request)


async def _send(attempt: Attempt, request: OutboundRequest) -> Reply:
    """Return the answer: the whole body, or a stream up to the response."""
    response, message = await send(attempt, request), Message()
    try:
        if response.status != 200:
            await check_head(attempt, response)
        reply = await read_reply(attempt, response)
        if reply.error is not None:
            raise reply.error
        if reply.is_stream:
            framer, read = Framer(REPLY_BYTES), 0
            async for piece in response:
                read += len(piece)
                for block in split_events(framer.feed(piece)):
                    data = parse_event(block).data or b""
                    message = message or (_parsed(data) if read_message(data).kind == "response" else {})
                if message or read > REPLY_BYTES:
                    break
        else:
            body = reply.body
            if body is None:  # it did not arrive together with the head
                body = await read_body(attempt, response, attempt.limit_bytes)
            message = _parsed(body)
    except errors.TransportFault as lost:
        raise connection_error(attempt, lost) from lost
    finally:
        await response.aclose()
    close_attempt(attempt, None)
    return Reply(response.status, response.headers, message)


def _parsed(data: bytes) -> Message:
    with suppress(msgspec.DecodeError, RecursionError):
        return msgspec.json.decode(data, type=Message)
    return {}
