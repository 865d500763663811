"""The chunks that a stream of completions is made of: their envelope, and how one is written.

The errors that a stream may end with.

No word in these texts may make RAGFlow begin the whole answer again, tools included (openai_error.REPLAYED).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import msgspec

from gatepass.errors import GatepassError, UpstreamClosed, UpstreamEmpty, UpstreamErrorReply, UpstreamInvalid
from gatepass.types import UpstreamErrorBody

Object = dict[str, Any]

CHAT, CHAT_CHUNK, LEGACY = "chat.completion", "chat.completion.chunk", "text_completion"
"""The `object` of a chat's plain reply, of its chunks, and of both for `/v1/completions`."""

ENVELOPE = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
"""The members that every chunk of a stream repeats."""


@dataclass(frozen=True, slots=True)
class EnvelopeDefaults:
    """What stands in for what an upstream left out. `new_id("call_")` makes an id with that prefix, another one
    each time and in each reply: clients send those of tool calls back with the conversation. `created_s` is
    seconds since the epoch, `model` the name that the client asked for."""

    new_id: Callable[[str], str]
    created_s: int
    model: str


def encode_event(payload: Any) -> bytes:
    """`payload` as one event of one data line; raises ValueError as `json_text` does."""
    return b"data: %b\n\n" % json_text(payload)


def json_text(payload: Any) -> bytes:
    """Compact JSON in UTF-8 on one line; raises ValueError for what is nested too deep.

    Half a surrogate pair, which upstreams send where their tokens cut a character in two, stays the
    escape that it was: clients put the halves together.
    """
    try:
        return msgspec.json.encode(payload)
    except UnicodeEncodeError:
        return json.dumps(payload, separators=(",", ":")).encode()
    except RecursionError:
        raise ValueError("nested too deep") from None


def complete_envelope(payload: Object, defaults: EnvelopeDefaults, object_name: str, id_prefix: str) -> Object:
    """The envelope of the answer `payload`, complete: what SDKs require is filled in by `defaults`."""
    created = payload.get("created")
    is_time = isinstance(created, int | float) and not isinstance(created, bool) and abs(created) < 1e15
    told = {name: payload[name] for name in ENVELOPE[4:] if name in payload}
    return {
        "id": text_of_id(payload.get("id")) or defaults.new_id(id_prefix),
        "object": object_name,
        "created": int(created) if is_time and created else defaults.created_s,
        "model": payload["model"] if isinstance(payload.get("model"), str) and payload["model"] else defaults.model,
        **told,
    }


def text_of_id(value: Any) -> str:
    """An id as text; "" for what is none. Some upstreams count with numbers."""
    if type(value) is int:
        return str(value)
    return value if isinstance(value, str) else ""


def unwrap(payload: Object) -> Object:
    """The chunk or completion inside `{"code": 0, "data": {…}}`, the form of corporate gateways; `payload`
    itself where there is none."""
    if not payload.get("choices"):
        inside = payload.get("data")
        if isinstance(inside, dict) and "choices" in inside:
            return inside
    return payload


def error_of(choices: Any) -> Any:
    """The error in the choices of a chunk, where OpenRouter puts a provider's; None where one of them has none."""
    if not isinstance(choices, list) or not choices:
        return None
    first = choices[0]
    if not isinstance(first, dict) or not first.get("error"):  # nearly always
        return None
    if not all(isinstance(choice, dict) and choice.get("error") for choice in choices):
        return None
    return first["error"]


MOST_PIECES = 1024
SMALLEST_PIECES_BYTES = 2 * MOST_PIECES
"""A text of fewer bytes cannot hold more."""


def has_too_many_entries(choices: Any) -> bool:
    """Whether choices and their tool calls are more than MOST_PIECES: each takes up to 40 µs to relay."""
    if not isinstance(choices, list):
        return False
    pieces = len(choices)
    if pieces > MOST_PIECES:
        return True
    for choice in choices:
        for name in ("delta", "message"):
            payload = choice.get(name) if isinstance(choice, dict) else None
            calls = payload.get("tool_calls") if isinstance(payload, dict) else None
            pieces += len(calls) if isinstance(calls, list) else 0
    return pieces > MOST_PIECES


def finish_reason(choice: Object) -> str:
    """Why a choice ends with this piece; "" where it does not: with null, an empty reason (Ollama, SGLang send
    it), or what is no text."""
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) else ""


def has_output(choice: Object) -> bool:
    """Whether a piece of a choice says something, be it that the choice is finished: a role alone does not.

    Nor does a number: it is no text, and one too large for a float (`1e400`) would be null in what is written anew.
    """
    if finish_reason(choice) or _is_said(choice.get("text")):
        return True
    return _has_said(choice.get("delta") or choice.get("message"), _ROLE)


_SAID = (str, list, dict)
"""A tuple, because `str | list | dict` makes a new object each time."""


def _is_said(value: Any) -> bool:
    return bool(value) and isinstance(value, _SAID)


_ROLE = frozenset({"role"})
THOUGHTS = frozenset({"role", "reasoning_content", "reasoning", "reasoning_details"})
"""The members of a delta that are no content: a choice that has nothing else has not answered yet."""


def has_content(choice: Object) -> bool:
    """Whether a piece of a choice holds content, a refusal, audio or a call: thoughts alone are no answer."""
    if _is_said(choice.get("text")):
        return True
    return _has_said(choice.get("delta") or choice.get("message"), THOUGHTS)


def _has_said(piece: Any, but: Container[str]) -> bool:
    """Whether a delta or a message says something in a member other than those of `but`."""
    if isinstance(piece, dict):
        for name, value in piece.items():
            if value and name not in but and isinstance(value, _SAID):
                return True
    return False


def is_chunk(payload: Object) -> bool:
    """Whether this is a chunk, choices or not."""
    name = payload.get("object")
    is_named = isinstance(name, str) and name.startswith((CHAT, LEGACY))
    return is_named or "choices" in payload or isinstance(payload.get("usage"), dict)


def empty_choice(index: int, *, is_text: bool) -> dict[str, Any]:
    """A choice of a chunk that says nothing; `is_text`: in a stream of `/v1/completions`."""
    payload: dict[str, Any] = {"text": "", "logprobs": None} if is_text else {"delta": {"content": ""}}
    return {"index": index, **payload, "finish_reason": None}


UNREADABLE = UpstreamErrorBody("The upstream sent an error event without a text.")


def stream_closed(upstream: str) -> GatepassError:
    return UpstreamClosed("The upstream ended its stream before the answer was complete.", upstream=upstream)


def stream_empty(upstream: str) -> GatepassError:
    return UpstreamEmpty("The upstream's stream ended without an answer.", upstream=upstream)


def event_too_large(upstream: str) -> GatepassError:
    """Without the figure: its digits may read like a status."""
    return UpstreamInvalid(
        "The upstream sent an event that is larger than limits.event_bytes, or that has too many lines.",
        upstream=upstream,
    )


def idle(upstream: str) -> GatepassError:
    """Without the figure, as `event_too_large`."""
    return UpstreamInvalid(
        "The upstream sent more comments and blank lines than limits.event_bytes, and no event.", upstream=upstream
    )


def too_many_choices(upstream: str) -> GatepassError:
    return UpstreamInvalid(
        "The upstream's answer has more choices and tool calls than any request asks for.", upstream=upstream
    )


def event_not_json(upstream: str) -> GatepassError:
    return UpstreamInvalid("The upstream sent an event that is not JSON.", upstream=upstream)


def strange(upstream: str) -> GatepassError:
    return UpstreamInvalid(
        "The upstream put a whole completion into its stream, in place of the pieces of one.", upstream=upstream
    )


def upstream_error_event(upstream: str, error_body: UpstreamErrorBody) -> GatepassError:
    """The upstream's own error, in its own words."""
    return UpstreamErrorReply(
        error_body.message,
        upstream=upstream,
        status=error_body.status or UpstreamErrorReply.status,
        kind=error_body.kind,
        upstream_code=error_body.code,
        param=error_body.param,
        raw=error_body.raw,
        error_body=error_body,
    )
