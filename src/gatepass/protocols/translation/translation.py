"""Define `Translation`: how chat completions serve a client protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from gatepass.config.access import Profile
from gatepass.errors import BodyTooComplex, InvalidJson, UpstreamInvalid
from gatepass.json_body import MOST_OPENED, SMALL_BYTES, UNCOUNTED_BYTES, TopLevel, has_more, places
from gatepass.protocols.translation.answer_blocks import AnswerBlocks, Early
from gatepass.protocols.translation.chat_request import About, Dropped, Members
from gatepass.protocols.translation.message_translation import MessageAnswer, chat_of_message
from gatepass.protocols.translation.response_translation import ResponseAnswer, chat_of_response
from gatepass.sse.chunk import EnvelopeDefaults, Object, json_text
from gatepass.sse.event import EventTransform, read_json
from gatepass.types import Call, Hidden, Operation


@dataclass(frozen=True, slots=True)
class Translation:
    """One client protocol over chat completions.

    `request` turns the body of a request into that of a chat. `answer` turns the chat's answer into the client's.
    """

    name: str
    request: Callable[[Members, Dropped], tuple[Object, About]]
    answer: type[AnswerBlocks]

    def chat_call(self, call: Call, chat: Operation) -> ChatCall:
        """Return the call of `chat` that serves `call`. Raises InvalidRequest for what a chat cannot express."""
        dropped = Dropped()
        if len(call.body) > UNCOUNTED_BYTES and has_more(call.body, b",[{", MOST_OPENED):  # a million takes 0.1 s
            raise BodyTooComplex(
                f"A body that becomes a chat may have {MOST_OPENED} commas and brackets. Send less in one request."
            )
        try:
            request = dict(call.opened().listed) | {"stream": msgspec.Raw(b"true" if call.stream else b"null")}
            chat_request, about = self.request(request, dropped)
            top = _opened(chat_request)
        except (ValueError, RecursionError):  # half a surrogate pair, a number of thousands of digits, many levels
            raise InvalidJson("The body has a number, a text or a depth that cannot be translated.") from None
        # the fields of one protocol, such as `anthropic-beta`, mean nothing to another one
        own = {name.encode() for name in call.operation.request_headers}
        headers = tuple(field for field in call.headers if field[0] not in own)
        adapted = (*call.adapted, f"translate={self.name}", *dropped.entries)
        translated = call.with_body(top.text, top, operation=chat, headers=headers, adapted=adapted)
        return ChatCall(translated, self.answer, about)


def _opened(chat: Object) -> TopLevel:
    """Return the body `chat` with its members, for the rules: to read them takes a turn's 1.1 million instructions."""
    try:
        texts = [(name, msgspec.Raw(msgspec.json.encode(value))) for name, value in chat.items()]
    except UnicodeEncodeError:  # half a surrogate pair
        return TopLevel(json_text(chat))
    view = memoryview(body := json_text(dict(texts)))
    found = [(name, msgspec.Raw(view[value:end])) for name, _, value, end in places(body, texts)]
    return TopLevel(body, found if len(body) > SMALL_BYTES else None)


class ChatCall(Hidden, msgspec.Struct, frozen=True):
    """A chat that serves a call of another protocol."""

    call: Call
    answer: type[AnswerBlocks]
    about: About


class TranslatedReply(Hidden, msgspec.Struct, frozen=True):
    """The last change of a chat's reply: into the form of another protocol. `ClientProtocol` has the same methods."""

    chat: ChatCall
    defaults: EnvelopeDefaults
    upstream: str
    early: Early | None = None

    def last_transform(self, profile: Profile) -> EventTransform:
        return self.chat.answer(self.defaults, self.upstream, self.chat.about, self.early)

    def last_change(self, body: bytes, profile: Profile, model: str) -> tuple[bytes, tuple[str, ...]]:
        """Return a whole reply, and the names of the changes beside the request's entry."""
        answer = self.chat.answer(self.defaults, self.upstream, self.chat.about, keeps_texts=True)
        try:
            return answer.whole(read_json(body)), answer.adapted
        except ValueError:
            reason = "The upstream's reply has too many choices, tool calls or values, such as `top_logprobs`."
            raise UpstreamInvalid(reason, upstream=self.upstream) from None


MESSAGES = Translation("messages", chat_of_message, MessageAnswer)
RESPONSES = Translation("responses", chat_of_response, ResponseAnswer)
