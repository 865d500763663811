"""A client's profile, as far as its replies are concerned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gatepass.config.profiles import Profile
from gatepass.relay.chunk import CHAT, LEGACY, Object, json_text
from gatepass.relay.empty_choice import EmptyChoice
from gatepass.relay.only_chunks import OnlyChunks
from gatepass.relay.plain_events import PlainEvents
from gatepass.relay.shaper import Chain, Shaper
from gatepass.relay.short_lines import ShortLines
from gatepass.relay.silenced import WithoutComments
from gatepass.relay.whole_usage import USAGE, WholeUsage, counted, is_same

CONTENT = "repair=content"
ENVELOPE = "repair=envelope"

_TOP: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SPOKEN = ("tool_calls", "function_call", "refusal", "audio")
_UNNAMED = (msgspec.Raw(b"null"), msgspec.Raw(b'""'))


def after_of(profile: Profile, *, is_chat: bool = True) -> Shaper | None:
    """A new shaper for one stream, to stand behind the repair of it: None for most clients.

    `is_chat`: the stream is one of chunks; of others only the framing is changed.
    """
    shapers = list(_of_chunks(profile)) if is_chat else []
    if profile.keep_alive != "comment":
        shapers.append(WithoutComments())
    return Chain(shapers) if shapers else None


def _of_chunks(profile: Profile) -> Iterator[Shaper]:
    """In the order of adaptation: the last one comes first."""
    if profile.plain_events:
        yield PlainEvents()
    if profile.line_bytes is not None:
        yield ShortLines(profile.line_bytes)
    if profile.fills_choices:
        yield EmptyChoice()
    if profile.whole_numbers:
        yield WholeUsage()
    if profile.only_chunks:
        yield OnlyChunks()


def mended_reply(body: bytes, profile: Profile, model: str = "") -> tuple[bytes, tuple[str, ...]]:
    """A plain reply as the client needs it, and what was repaired; the same object where nothing was.

    `body` is JSON that was judged, `model` the client's name for who wrote it, "" where that is not known. What is
    not repaired keeps its bytes, vectors above all.
    """
    is_touched = profile.whole_numbers or profile.content_text or profile.envelope
    if not is_touched or body.lstrip().startswith(b"["):
        return body, ()
    try:
        return _mended(body, profile, model)
    except (ValueError, RecursionError):
        return body, ()  # JSON as Python reads it: NaN, half a surrogate pair


def _mended(body: bytes, profile: Profile, model: str) -> tuple[bytes, tuple[str, ...]]:
    top: dict[str, Any] = {**_TOP.decode(body)}
    adapted = [name for name, mend in ((USAGE, _mend_usage), (CONTENT, _mend_choices)) if mend(top, profile)]
    if profile.envelope and _name(top, model):
        adapted.append(ENVELOPE)
    return (msgspec.json.encode(top), tuple(adapted)) if adapted else (body, ())


def _name(top: dict[str, Any], model: str) -> bool:
    """Put in what the reply is and who wrote it where it does not say so; whether it did not."""
    kind = "list" if "data" in top else _kind(top)
    told = {"object": kind, "model": model} if kind else {}
    lacking = {name: value for name, value in told.items() if value and top.get(name) in (None, *_UNNAMED)}
    top.update(lacking)
    return bool(lacking)


def _kind(top: dict[str, Any]) -> str:
    """Of a reply with choices: a chat's have messages, a text's have texts."""
    choices: Any = msgspec.json.decode(top.get("choices", b"null"))
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return ""
    return CHAT if "message" in first else LEGACY


def _mend_usage(top: dict[str, Any], profile: Profile) -> bool:
    if not profile.whole_numbers or not ("choices" in top or "data" in top):
        return False
    said: Any = msgspec.json.decode(top["usage"]) if "usage" in top else None
    whole = counted(said if isinstance(said, dict) else {}, is_chat="choices" in top)
    if is_same(whole, said):
        return False
    top["usage"] = whole
    return True


def _mend_choices(top: dict[str, Any], profile: Profile) -> bool:
    choices: Any = msgspec.json.decode(top["choices"]) if profile.content_text and "choices" in top else None
    if not isinstance(choices, list):
        return False
    silent = [message for message in map(_message, choices) if message is not None]
    for message in silent:
        message["content"] = ""
    if silent:
        top["choices"] = msgspec.Raw(json_text(choices))
    return bool(silent)


def _message(choice: Any) -> Object | None:
    """The message of a choice that says nothing and calls nothing."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict) or message.get("content") is not None:
        return None
    return None if any(message.get(name) for name in _SPOKEN) else message
