"""Write a story as a curl command for a POSIX shell. A paste of it controls no terminal and reads no file unasked."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from gatepass.observability.redaction import MASK

DELETE = 0x7F
"""The control character that `json.dumps` does not escape."""
DATA_OPTION_BYTES = 100_000
"""The longest body in an argument of curl. Linux accepts 128 KiB."""


def curl_command(story: Mapping[str, Any], root_url: str) -> str:
    """Return the command that sends the request of `story` again, perhaps after a line with a comment.

    `root_url` is the URL of gatepass's root, without a slash at its end. The command reads the key from
    `$GATEPASS_KEY`. Without a whole captured body in the story it reads the body from the file body.json.
    """
    whole = (one["text"] for one in story.get("bodies") or () if is_whole(one) and one["name"] == "request")
    body = next(whole, None)
    comment, before, data = "", "", []
    if body is not None:
        if MASK in body:
            comment = f"# {MASK} in the body stands for a secret.\n"
        quoted = shlex.quote("".join(map(_escaped, body)))
        if len(quoted.encode()) > DATA_OPTION_BYTES:
            before, data = f"printf %s {quoted} | ", ["--data-binary @-"]
        else:
            data = [f"--data-raw {quoted}"]
    elif story["method"] == "POST":
        if not story.get("captured"):
            reason = "The body was not captured (see `gatepass capture`)"
        elif "bodies" not in story:
            reason = "Only admins see the captured body"
        else:
            is_long = any(one["name"] == "request" and one["next"] for one in story["bodies"])
            reason = "The body is longer than what is shown" if is_long else "The body was not captured whole"
        comment = f"# {reason}: write it to body.json.\n"
        data = ["-d @body.json"]
    url, method = (
        shlex.quote("".join(char if char.isprintable() else quote(char, errors="replace") for char in text))
        for text in (f"{root_url}{story['path']}", story["method"])
    )
    parts = [f"{before}curl -sS -N -X {method} {url}", '-H "authorization: Bearer $GATEPASS_KEY"']
    parts += ["-H 'content-type: application/json'"] if data else []
    if str(story.get("operation", "")).startswith("mcp"):
        parts.append("-H 'accept: application/json, text/event-stream'")
        comment += "# The record has no MCP-Protocol-Version and no Mcp-Session-Id: add those of the client.\n"
        named = {"mcp-method": story.get("mcp_method"), "mcp-name": story.get("mcp_tool")}
        for name, text in named.items() if story["method"] == "POST" else ():
            # other texts are encoded in the header, and a server rejects one that differs from the body
            if text and text.isascii() and text.isprintable() and MASK not in text and text == text.strip():
                parts.append(f"-H {shlex.quote(f'{name}: {text}')}")
    return comment + " \\\n  ".join([*parts, *data])


def is_whole(body: Mapping[str, Any]) -> bool:
    """Return whether the text of a body in a story is all of it."""
    return body["next"] is None and not body["cut"]


def _escaped(char: str) -> str:
    """Return a character of a JSON text as the terminal may show it: a control character as JSON escapes it."""
    if char.isprintable() or char == "\n":
        return char
    return " " if char in "\r\t" else json.dumps(char)[1:-1] if ord(char) != DELETE else "\\u007f"
