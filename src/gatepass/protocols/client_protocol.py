"""Define `ClientProtocol`: everything that gatepass does differently for one format that clients speak."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from gatepass.config.access import Profile
from gatepass.config.upstream import UpstreamConfig
from gatepass.dialects.base import PARAMETERS
from gatepass.draft import Rule
from gatepass.errors import GatepassError
from gatepass.normalize.rules import STRAY_PARAMS
from gatepass.protocols.error_objects import error_body, error_headers, stream_error
from gatepass.protocols.request import call_without_body, decode
from gatepass.protocols.translation.translation import TranslatedReply, Translation
from gatepass.replies.error_body import Mask
from gatepass.sse.aggregate import StreamAggregator
from gatepass.sse.asked import Asked
from gatepass.sse.chunk import EnvelopeDefaults, Object, StreamSource
from gatepass.sse.client_transforms import WithoutComments
from gatepass.sse.dialect_transforms import RagflowTransforms
from gatepass.sse.event import EventTransform
from gatepass.sse.event_stream import EventStream
from gatepass.sse.progress import Progress
from gatepass.sse.repair import EventRepair
from gatepass.sse.whole_reply import GoodReply
from gatepass.types import Call, ClientRequest, Headers, Hidden, Operation, StreamedResponse

COMMENT = b": keep-alive\n\n"
"""With its own blank line, so that clients that split a stream at blank lines discard the comment alone (Dify)."""
COMMENT_AFTER_ID = b": keep-alive\n"
"""After an event with an `id:` line, openai-python parses one more blank line as an empty event and raises (its issues
2722 and 3833)."""
KeepAliveEncoder = Callable[[EventStream | None], bytes]
"""Return the keep-alive to write after the sent part of a stream; b"" if none is allowed there. The argument is None
before the stream has begun."""
Parse = Callable[[ClientRequest, Operation, bytes, str], Call]
"""The arguments are those of `decode`: the head, the operation, the body, and the caller's name."""
Ranking = Callable[[bytes, str], bytes]
"""Return the body of a whole reply, from the upstream of that name, as the client requested it."""

SAMPLE_TOKENS = 16
"""Room for the thoughts of a reasoning model, and for a few events, so that the gaps between them can be measured."""

Repair = Callable[[bytes, Callable[[], EnvelopeDefaults], str], tuple[bytes, tuple[str, ...], bool]]
"""Return the body of a whole reply as SDKs require it, the names of the repairs, and whether the answer is empty. The
other arguments are a function that is called if the reply lacks an id, a time or a model, and the upstream's name."""


class ReplyContext(Hidden, msgspec.Struct, frozen=True):
    """What a client protocol needs to read the reply to `call`: values of its profile and of the upstream."""

    call: Call
    """The client's own call, or the call of chats into which it was translated."""
    sent: Call
    """The same as the upstream received it."""
    profile: Profile
    last: ClientProtocol | TranslatedReply | None
    """What makes the last change of the reply; None for no change."""
    upstream_name: str
    dialect: str
    transforms: RagflowTransforms | None
    """What converts the replies of the dialect; None for nothing."""
    is_cumulative: bool
    """The events repeat the text before them (`repair.cumulative`)."""


class ClientProtocol:
    """One format that clients speak. A subclass overrides what differs, and its one instance has no state.

    This class is the protocol of an operation whose replies are whole JSON objects or lists; any other reply is a 502.
    They pass unchanged. With `members = frozenset()` no built-in rule changes a request; otherwise the stray members
    are left out. gatepass reads a stream only with `stream` in `members`, and relays one unread with `is_raw`. The text
    of an attribute or method ends with what this class does.
    """

    __slots__ = ()

    name: str = "json"
    """The key in PROTOCOLS, and the name that rows of the operation table have."""
    family: str = ""
    """The value of `protocols` without which an upstream does not have it; "" for one that each may have."""
    translation: Translation | None = None
    """How chat completions serve it: not at all."""

    # --- the request ---

    fits_answers = True
    """gatepass may shorten an answer that does not fit beside its prompt. Some clients do it themselves."""
    members: frozenset[str] = frozenset(STRAY_PARAMS)
    """Members of a request that rules may change, apart from those that an operator names: the stray ones.

    `stream` is one of them if `synthesize` and `aggregate` or `aggregator` are overridden: an upstream may answer with
    a whole reply although the client requests a stream, and with a stream although it requests a whole reply.
    """
    generates: bool = False
    """Its answers have tokens beside those of the request."""
    uses_tokens: bool = True
    """The usage of its replies is what the request itself used."""
    requires_model: bool = False
    """A call without a model, which no default names either, is rejected."""
    prefers_one_target: bool = False
    """The requests of one conversation prefer one target, unless `policy` is `order`: its cache of prompts is warm, and
    only the upstream that encrypted a part of a conversation can read it."""
    stores: bool = False
    """The upstream stores the answer of a request that does not say `store: false`."""
    names_stored: bool = False
    """Members of its requests may name objects that the upstream stores (`auth.model_access.stored_member`)."""
    is_answered_here: bool = False
    """gatepass answers its requests itself, from the catalog of models."""
    is_raw: bool = False
    """The content type goes upstream too, and the reply may be of any content type."""
    request_headers: tuple[str, ...] = ()
    """Fields of a request that are forwarded beyond those of every protocol: none."""
    parameters: frozenset[bytes] = frozenset()
    """Query parameters of a request that are forwarded: none."""
    has_parts: bool = False
    """A call may be sent as several requests, whose replies are joined (proxy/batches.py)."""
    sample: Mapping[str, Any] = {"messages": [{"role": "user", "content": "ping"}], "max_tokens": SAMPLE_TOKENS}
    """The body of a request of one word for a short answer, without a model."""

    sample_headers: Headers = ()
    """Fields that this request needs: none."""

    parse: Parse = staticmethod(decode)
    """Return the call in a body. Raises the errors of `decode`."""
    own_rules: Callable[[UpstreamConfig, str | None], tuple[Rule, ...]] | None = None
    """Return rules that come before all others, for the upstream's settings and the name of the model: none."""
    ranking: Callable[[bytes], Ranking] | None = None
    """Read the client's own body, and return the last change of a whole reply: none. Raises InvalidRequest."""

    # --- errors and keep-alives ---

    def error_body(self, error: GatepassError, request_id: str) -> bytes:
        """Return the body of an error response: OpenAI's error object."""
        return error_body(error, request_id)

    def error_headers(self, error: GatepassError) -> list[tuple[bytes, bytes]]:
        """Return the header fields of an error response: those of `error_headers` (protocols/error_objects.py)."""
        return error_headers(error)

    def error_status(self, error: GatepassError) -> int:
        """Return the status of an error response: that of the error."""
        return error.http_status

    def own_error(self, body: bytes, mask: Mask) -> bytes:
        """Return the body of an upstream's error, or the data of its event, that the client receives unchanged.

        b"" for none. `mask` hides secrets. A body with a secret is not returned.
        """
        return b""

    def overflow_mark(self, message: str, room: tuple[int, int, int] | None) -> str:
        """Return what clients search for in an error about too long a context, if `message` lacks it: "".

        `room`: the tokens of the prompt, the answer and the context if the prompt alone fits.
        """
        return ""

    def stream_error(self, error: GatepassError, streamed: StreamedResponse, *, rewords: bool) -> bytes:
        """Return the last events of a stream that fails after `streamed`: one with the error object.

        `rewords`: as in `stream_error` (protocols/error_objects.py).
        """
        return stream_error(error, streamed.request_id, rewords=rewords)

    def keep_alive(self, profile: Profile, call: Call, events: EventStream | None) -> bytes:
        """Return what to send in a silence of `events`, None before they begin: a comment."""
        del profile, call
        return comment_keep_alive(events)

    # --- a whole reply ---

    entries: str = ""
    """The member with the list of answers; "" if a reply is any JSON."""
    entry: str = ""
    """What a reply with an empty list of answers lacks, for its error; "" if it may be empty."""
    is_text: bool = False
    """Choices have a text instead of a message or a delta."""
    takes_transforms: bool = False
    """Dialects may have a conversion of its replies."""
    read_good: Callable[[bytes], GoodReply | None] | None = None
    """Recognize a reply that needs neither a check nor a repair; None if each reply is checked."""

    def error_places(self, document: Any) -> Iterable[Any]:
        """Yield each part of a reply that is an error or contains one: the document."""
        return (document,)

    def fault(self, document: Any, mask: Mask) -> str | None:
        """Describe why a document without an error is not an answer; None if it is one: an object or a list.

        `mask` hides secrets in texts of the document.
        """
        return None if isinstance(document, dict | list) else "with JSON that is neither an object nor a list"

    def may_be_empty(self, operation: Operation, status: int, headers: Headers) -> bool:
        """Whether a reply without a body is a success: no."""
        return False

    def usage_of_valid(self, call: Call, body: bytes) -> bytes:
        """Return `body` with its usage alone if a fast check shows that it is the answer to `call`, else b""."""
        return b""

    repair: Repair | None = None
    """The repair of replies: none."""

    def last_change(self, body: bytes, profile: Profile, model: str) -> tuple[bytes, tuple[str, ...]]:
        """Return a valid reply as the client and its profile require it, and the names of the changes: unchanged."""
        return body, ()

    # --- a stream ---

    end_mark: bytes = b"[DONE]"
    """What only a complete stream contains."""
    progress: type[Progress] = Progress
    """What is recorded of the events of a stream. A subclass decides which event ends it."""

    event_repair: Callable[[Any], EventRepair] | None = None
    """Return the repair of the events, for their `progress`: none."""

    def last_transform(self, profile: Profile) -> EventTransform | None:
        """Return the last change of a stream: comments are left out if the profile does not accept them."""
        return WithoutComments() if profile.drops_comments else None

    def event_stream(self, source: StreamSource, defaults: EnvelopeDefaults, reply: ReplyContext) -> EventStream:
        """Return the validation of a stream, which requires no `[DONE]`. `defaults`: of chunks that it generates."""
        transform = None if reply.last is None else reply.last.last_transform(reply.profile)
        progress = self.progress(defaults.asked)
        repair = None if self.event_repair is None else self.event_repair(progress)
        return EventStream(source, done_is_required=False, progress=progress, repair=repair, client_transform=transform)

    # --- with `is_answered_here` ---

    lists_entries: bool = True
    """The list has the models of the catalog."""

    def of_request(self, client_request: ClientRequest) -> ClientProtocol:
        """Return the protocol that the head of a request selects: itself."""
        return self

    def model_list(self, entries: Sequence[Object]) -> bytes:
        """Return the body of GET /models."""
        raise NotImplementedError  # called only with `is_answered_here`

    def model(self, entry: Object) -> bytes:
        """Return the body of GET /models/{id}."""
        raise NotImplementedError  # called only with `is_answered_here`

    # --- with `stream` in `members` ---

    aggregate: Callable[[StreamSource, int, Asked], StreamAggregator]
    """What makes a whole reply of the events of a stream. The arguments: the source, `event_bytes`, and the request."""

    def synthesize(self, document: Object, defaults: EnvelopeDefaults, reply: ReplyContext) -> Iterable[bytes]:
        """Yield the events of a stream with the content of `document`. Raises UpstreamInvalid and ValueError."""
        raise NotImplementedError  # called only with `stream` in `members`

    def aggregator(
        self, source: StreamSource, event_bytes: int, defaults: EnvelopeDefaults, reply: ReplyContext
    ) -> StreamAggregator:
        """Return what makes a whole reply of a stream: `aggregate`. `event_bytes` limits one event."""
        return self.aggregate(source, event_bytes, defaults.asked)


def comment_keep_alive(events: EventStream | None) -> bytes:
    return COMMENT_AFTER_ID if events is not None and events.has_ids else COMMENT


ACCEPTED = 202
"""The status of a success that needs no body (RFC 9110 section 15.3.3)."""


class Raw(ClientProtocol):
    """A body and a reply of any content type."""

    __slots__ = ()

    name = "raw"
    is_raw = True
    parameters = PARAMETERS

    def parse(self, client_request: ClientRequest, operation: Operation, body: bytes, caller: str) -> Call:
        # GET and DELETE have no body, and `POST /batches/{id}/cancel` needs none
        if not body or operation.method != "POST":
            return call_without_body(client_request, operation, caller, "")
        return decode(client_request, operation, body, caller)

    def may_be_empty(self, operation: Operation, status: int, headers: Headers) -> bool:
        """Whether a reply without a body is a success: a 202, and a deletion whose reply states where its body ends."""
        is_framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)
        return status == ACCEPTED or (operation.method == "DELETE" and is_framed)


RAW = Raw()
