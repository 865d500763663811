"""A whole completion as the types of OpenAI's SDKs have it, by the same names as a stream's repairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gatepass.errors import InvalidRequest
from gatepass.jsontext import Edit, Walk, edited
from gatepass.relay.chunk import CHAT, LEGACY, Origin, envelope
from gatepass.relay.reason import NATIVE, chat_reason, native_of, text_reason
from gatepass.relay.repair.tools import Note
from gatepass.relay.repair.wishes import ENVELOPE, FINISH, INDEX, MESSAGE, ROLE, USAGE
from gatepass.relay.whole.calls import call_edits, calls_of, function_edits, function_of
from gatepass.relay.whole.fields import Fields
from gatepass.relay.whole.strict import is_strict
from gatepass.relay.whole_usage import counted

_REQUIRED = ("id", "object", "created", "model")
MOST_STEPS = 100_000
"""Some 25 ms of a blocked loop: a reply of more values, such as the logprobs of a long answer, stays as it came."""
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def mended_whole(body: bytes, origin: Callable[[], Origin]) -> tuple[bytes, tuple[str, ...]]:
    """The completion `body`, which is JSON that was judged, as clients read it; and what was repaired.

    The same object where nothing was. Elsewhere all keeps its bytes but what is mended. What would take too long to
    walk through, or to write, stays as it came. `origin` is asked for only where something may be mended.
    """
    if is_strict(body):
        return body, ()
    found: list[str] = []
    try:
        edits = list(_Mending(origin(), found.append).edits(Walk(body, MOST_STEPS)))
    except (InvalidRequest, ValueError, IndexError):
        return body, ()  # made of too many small values, nested too deep, or JSON that only its judge reads
    return (edited(body, edits), tuple(dict.fromkeys(found))) if edits else (body, ())


class _Mending:
    """The edits of one reply; `note` is told the name of each repair."""

    __slots__ = ("_note", "_origin")

    def __init__(self, origin: Origin, note: Note) -> None:
        self._origin = origin
        self._note = note

    def edits(self, walk: Walk) -> Iterator[Edit]:
        start = len(walk.text) - len(walk.text.lstrip())  # DeepSeek sends empty lines before a reply that takes time
        top = Fields.at(walk, start)
        choices = [] if top is None else top.objects("choices")
        if top is None or not choices:
            return
        is_text = "text" in choices[0] and "message" not in choices[0]
        for place, choice in enumerate(choices):
            if is_text:
                said = choice.value("finish_reason")
                self._end(choice, said, text_reason(said), is_text=True)
            else:
                yield from self._chat(choice)
            if type(choice.value("index")) is not int:
                choice.put("index", place)
                self._note(INDEX)
            yield from choice.edits()
        self._mend_envelope(top, LEGACY if is_text else CHAT, "cmpl-" if is_text else "chatcmpl-")
        self._mend_usage(top)
        yield from top.edits()

    def _chat(self, choice: Fields) -> Iterator[Edit]:
        name = "message" if "message" in choice else "delta"
        message = choice.object(name)
        if message is None:
            return
        if name == "delta":
            choice.rename(name, "message")
            self._note(MESSAGE)
        if message.value("role") != "assistant":
            message.put("role", "assistant")
            self._note(ROLE)
        calls, function = calls_of(message), function_of(message)
        yield from message.edits()
        yield from call_edits(calls, self._origin, self._note)
        yield from function_edits(function, self._note)
        said = choice.value("finish_reason")
        reason = chat_reason(said, has_tools=bool(calls), has_function=function is not None)
        self._end(choice, said, reason, is_text=False)

    def _end(self, choice: Fields, said: object, reason: str, *, is_text: bool) -> None:
        if said == reason:
            return
        choice.put("finish_reason", reason)
        self._note(FINISH)
        if (native := native_of(said, is_text=is_text)) is not None and NATIVE not in choice:
            choice.put(NATIVE, native)

    def _mend_envelope(self, top: Fields, kind: str, id_prefix: str) -> None:
        told = {name: top.value(name) for name in _REQUIRED}
        for name, value in envelope(told, self._origin, kind, id_prefix).items():
            if (type(told[name]), told[name]) != (type(value), value):
                top.put(name, value)
                self._note(ENVELOPE)

    def _mend_usage(self, top: Fields) -> None:
        """Counts that are none are zero, or the sum of the rest; a usage that tells nothing is null."""
        said = top.value("usage")
        if said is None or (isinstance(said, dict) and all(type(said.get(name)) is int for name in _COUNTS)):
            return
        top.put("usage", counted(said, is_chat=True) if isinstance(said, dict) and said else None)
        self._note(USAGE)
