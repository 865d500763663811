"""The kinds of a classified reply, and what classifying one needs."""

from __future__ import annotations

from functools import partial
from secrets import token_hex

import msgspec

from gatepass.config.profiles import Profile
from gatepass.proxy.app_state import Gate, Hop
from gatepass.proxy.context import Attempt
from gatepass.sse.chunk import Origin
from gatepass.sse.event_stream import EventStream
from gatepass.sse.usage import Usage
from gatepass.types import Call, Complaint, Headers, Response, Surface


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
    is_empty: bool = False
    """It is a chat's answer that says nothing, for all that its finish reason is `stop`."""


class Made(msgspec.Struct, frozen=True):
    """A stream made of a whole reply: all of its events, `[DONE]` with them; `body` is what they were made of."""

    headers: Headers
    events: bytes
    body: bytes
    adapted: tuple[str, ...] = ()
    is_empty: bool = False


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


NAME_BYTES = 12
"""Of chance, in twice as many digits: an id of a tool call may have 40 characters when it comes back to OpenAI or Azure
(Portkey-AI/gateway#1062)."""


class Ids:
    """Makes ids for one reply: each another one, for two tool calls of one id are one to a client.

    They are random and not the request's own id: a client may send one `x-request-id` for a whole conversation, in
    which the ids of every turn come back. Nothing is drawn for a reply that lacks none.
    """

    __slots__ = ("_made", "_name")

    def __init__(self) -> None:
        self._name = ""
        self._made = 0

    def __call__(self, prefix: str) -> str:
        self._name = self._name or token_hex(NAME_BYTES)
        self._made += 1
        return f"{prefix}{self._name}" if self._made == 1 else f"{prefix}{self._name}-{self._made}"


class Case(msgspec.Struct, frozen=True):
    """One reply, the client's own `call` that it shall answer, and what the client needs beyond that."""

    gate: Gate
    call: Call
    hop: Hop
    response: Response
    attempt: Attempt
    profile: Profile

    @property
    def is_chat(self) -> bool:
        return self.call.operation.surface is Surface.CHAT

    @property
    def is_response(self) -> bool:
        return self.call.operation.surface is Surface.RESPONSES

    @property
    def may_stream(self) -> bool:
        """Whether its answers come whole or as a stream, as the client asks, and each is made of the other."""
        surface = self.call.operation.surface
        return surface is Surface.CHAT or surface is Surface.RESPONSES

    def headers(self) -> Headers:
        """The reply's headers, as far as the client gets them."""
        return tuple(self.hop.response_headers.relayed(self.response.headers))

    def reader(self) -> partial[Complaint | None]:
        """Reads the complaint that an event may be, in the upstream's dialect."""
        return partial(self.hop.dialect.read_complaint, mask=self.gate.redactor.mask)

    def origin(self) -> Origin:
        """What chunks that gatepass makes itself say of where they come from."""
        return Origin(Ids(), int(self.gate.clock.wall()), self.call.model)
