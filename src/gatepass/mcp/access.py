"""The tools of an MCP server that a key may call. `auth.model_access.may_use_server` decides about the server.

Only calls are checked. A key with a list of tools sees the whole `tools/list`, and may use prompts and resources.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from gatepass.auth.caller import Caller
from gatepass.errors import InvalidJson, InvalidRequest, McpNotAllowed
from gatepass.json_body import folded, members, string
from gatepass.types import Headers

CALL_TOOL = "tools/call"
LONGEST_TOOL_CHARS = 200
"""A longer name is no tool's. The time to match a glob with many stars grows with the name."""
_LIKE_CALL_TOOL = re.compile("".join(f"[^a-z]*+{letter}" for letter in "toolscall") + "[^a-z]*+", re.IGNORECASE)
"""Matches each spelling of CALL_TOOL for a server that ignores case, blanks or marks."""


def callable_tools(caller: Caller, server: str) -> Sequence[str] | None:
    """Return the globs of the tools that `caller` may call at `server`, which it may use. None: all."""
    return None if caller.mcp is None else caller.mcp[server]


def refusal_of(caller: Caller) -> str:
    """Return why `caller` may not use a server, as a clause about its key or row."""
    if caller.role == "viewer":
        return "because its role is viewer"
    if caller.mcp is None:
        limits = " and ".join(f"`{name}`" for name in ("models", "operations") if getattr(caller, name) is not None)
        return f"because it has {limits} and no `mcp`"
    return "because its `mcp` does not list it"


def check_call(body: bytes, headers: Headers, tools: Collection[str], caller: Caller) -> None:
    """Raise McpNotAllowed if the message in `body` calls a tool that no glob of `tools` of `caller` matches.

    Raises InvalidRequest for a message that a server could read as another call than gatepass does. Such a message is a
    batch, has a name twice, spells CALL_TOOL in another way, or has a header that differs from the body (revision
    2026-07-28).
    """
    top = _members(body, "The body", ("method", "params"))
    method = _text(top.get("method", b'""'), "method")
    stated = {b"mcp-method": method}
    if method == CALL_TOOL:
        params = _members(top.get("params", b"{}"), "`params`", ("name",))
        stated[b"mcp-name"] = tool = _text(params.get("name", b""), "params.name")
        if len(tool) > LONGEST_TOOL_CHARS or not any(fnmatchcase(tool, glob) for glob in tools):
            who, remedy = "key", "Use another key, or add the tool to access.keys[].mcp."
            if caller.is_of_row:
                who, remedy = "caller", f"Add the tool to {caller.setting}.mcp of the row {caller.name!r}."
            refusal = f"This {who} may not call the tool {tool[:LONGEST_TOOL_CHARS]!r}. {remedy}"
            raise McpNotAllowed(refusal, names={"mcp_setting": f"{caller.setting}.mcp"})
    elif _LIKE_CALL_TOOL.fullmatch(method):
        raise InvalidRequest(f"The method is another spelling of {CALL_TOOL!r}. Send {CALL_TOOL!r}.", param="method")
    for field, value in headers:
        text = stated.get(field, "").encode()
        if field in stated and value not in (text, b"=?base64?%b?=" % base64.b64encode(text)):
            raise InvalidRequest(f"The header {field.decode()} differs from the body. Send the same in both.")


def _members(text: bytes, where: str, known: Collection[str]) -> dict[str, bytes]:
    """Return the values of `known` in the object `text`. Each stands once, for parsers that ignore case too."""
    try:
        listed = members(text)
    except (ValueError, InvalidJson):
        raise InvalidRequest(
            f"{where} is not one object in JSON. A key with a list of tools cannot send a batch."
        ) from None
    found = dict[str, bytes]()
    for written, value in listed:
        name = folded(written)
        if name in known:
            if name in found or name != written:
                raise InvalidRequest(f"{where} has two members {name!r}, or one in another case.")
            found[name] = bytes(value)
    return found


def _text(value: bytes, where: str) -> str:
    try:
        return string(value)
    except ValueError:
        raise InvalidRequest(f"{where} is not a text.", param=where) from None
