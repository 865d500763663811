"""What a judged reply is: whole, made into a stream, a stream that has begun, or passed by its head."""

from __future__ import annotations

import msgspec

from gatepass.call import Headers, Response
from gatepass.gate import Hop
from gatepass.relay.stream import EventStream
from gatepass.relay.usage import Usage


class Whole(msgspec.Struct, frozen=True):
    """A plain reply, held whole and judged; `adapted` names what was done to it."""

    status: int
    headers: Headers
    body: bytes
    adapted: tuple[str, ...] = ()
    is_right: bool = False
    """Its vectors are all that the client's own call asked for, in order: nobody has to look again."""
    usage: Usage | None = None
    """As `usage_of` finds it in `body`; None: not known, ask that."""


class Made(msgspec.Struct, frozen=True):
    """A stream made of a whole reply: all of its events, `[DONE]` with them; `body` is what they were made of."""

    headers: Headers
    events: bytes
    body: bytes
    adapted: tuple[str, ...] = ()


class Begun(msgspec.Struct, frozen=True):
    """A stream whose first event was judged; the holder closes `response`.

    `ready` may be written now; `whole` says that the body has already ended.
    """

    hop: Hop
    response: Response
    events: EventStream
    ready: bytes
    whole: bool = False


class Passed(msgspec.Struct, frozen=True):
    """A reply of which only the head was judged; the holder closes `response`."""

    hop: Hop
    response: Response


Answer = Whole | Made | Begun | Passed
