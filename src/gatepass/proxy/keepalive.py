"""Signs of life for a stream that waits or pauses, in the forms that clients read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gatepass.config.profiles import Profile
from gatepass.sse.chunk import CHAT_CHUNK, LEGACY, Origin, event, silent_choice
from gatepass.types import Call, Surface

COMMENT = b": keep-alive\n\n"
"""A block by itself: clients that cut a stream at its blank lines throw it away alone (Dify, RAGFlow's Go client)."""
COMMENT_AFTER_ID = b": keep-alive\n"
"""Behind an `id:` line a blank line more is an empty event to openai-python, and it dies (its issues 2722, 3833)."""


class Events(Protocol):
    """The stream that a sign stands in, as far as it has gone out."""

    @property
    def has_ids(self) -> bool:
        """Whether an event with an `id:` has gone out."""
        ...

    @property
    def told(self) -> Mapping[str, Any]:
        """What its chunks say of themselves (`id`, `created`, `model`), as far as that is known."""
        ...

    @property
    def open_choice(self) -> int | None:
        """The first choice that may go on; None where each has had its finish reason."""
        ...


Sign = Callable[[Events | None], bytes]
"""The sign to write behind what has gone out of a stream, None where none has begun; b"" for none at this point."""


def sign_of(profile: Profile, call: Call, wall: Callable[[], float]) -> Sign | None:
    """What keeps the stream that answers `call` alive for a client of `profile`, None for nothing. `wall` gives seconds
    since the epoch.

    Where comments are not read, streams of responses get nothing. An event of theirs has a number of its own, so one
    that is put in between would have to change all that follow; and before `response.created`, where most of the wait
    is, openai-python takes no other (ResponseStreamState).
    """
    if profile.keep_alive == "comment":
        return comment
    if profile.keep_alive == "off" or call.operation.surface is not Surface.CHAT:
        return None
    origin = Origin(lambda prefix: f"{prefix}{call.id}", int(wall()), call.model)
    return EmptyDelta(origin, is_text=call.operation.name == "completions")


def comment(events: Events | None) -> bytes:
    return COMMENT_AFTER_ID if events is not None and events.has_ids else COMMENT


@dataclass(frozen=True, slots=True)
class EmptyDelta:
    """For parsers that stumble over comments: a chunk without text. It bears the stream's own name as soon as that is
    known, until then one of `origin`; behind a finish reason nothing may follow but the usage, and so no sign does.
    """

    origin: Origin
    is_text: bool = False

    def __call__(self, events: Events | None) -> bytes:
        index = 0 if events is None else events.open_choice
        if index is None:
            return b""
        told = {} if events is None else events.told
        return event({**self._head(), **told, "choices": [silent_choice(index, is_text=self.is_text)]})

    def _head(self) -> dict[str, Any]:
        kind, prefix = (LEGACY, "cmpl-") if self.is_text else (CHAT_CHUNK, "chatcmpl-")
        origin = self.origin
        return {"id": origin.new_id(prefix), "object": kind, "created": origin.created_s, "model": origin.model}
