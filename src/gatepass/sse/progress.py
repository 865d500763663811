"""What the events of a stream said so far. Each protocol whose last event is not `[DONE]` has a class of its own."""

from __future__ import annotations

from typing import Any, ClassVar

from gatepass.sse.asked import NOTHING, Asked
from gatepass.sse.chunk import MAX_ENTRIES, ROLE_ALONE, ErrorOf, has_content
from gatepass.sse.fast_path import FastPath
from gatepass.sse.usage import Usage
from gatepass.types import StreamedResponse


class Progress:
    """The choices, finish reasons and usage of the events so far, in bounded memory."""

    __slots__ = (*("_finished", "_seen", "asked", "fault", "has_answer", "has_last_event", "streamed", "usage"),)

    requires_last_event: ClassVar[bool] = False
    """Only an event ends the stream. A `[DONE]` before it, or the end of the body, is a failure."""
    fails_by_event: ClassVar[bool] = False
    """An error event passes although no answer came before it. Otherwise such an error gets its HTTP status."""

    fast_path: type[FastPath] = FastPath
    """What recognizes events that need no parsing."""

    def __init__(self, asked: Asked = NOTHING) -> None:
        self.asked = asked
        self.has_answer = self.has_last_event = False
        self.fault: ErrorOf | None = None
        """The error of an answer whose last event does not tell it: a tool call is cut, without a limit, or missing."""
        self.streamed = StreamedResponse()
        self.usage: Usage | None = None
        self._seen = self._finished = 0  # a bit for each choice: two sets take 432 bytes of each silent stream

    @property
    def has_choices(self) -> bool:
        return bool(self._seen)

    def is_complete(self, choices: int) -> bool:
        """Whether at least `choices` choices were seen, and each of them has its finish reason.

        A protocol with a last event: whether nothing is missing before it. Otherwise it is not relayed.
        """
        return self._seen.bit_count() >= choices and self._seen == self._finished

    def note(self, fields: dict[str, Any], choices: list[Any]) -> bool:
        """Record one event. Return whether it has only output, so that another text would change nothing here."""
        usage = fields.get("usage")
        if isinstance(usage, dict):
            self.usage = Usage.read(usage)
        ends: list[str] = []
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            index = choice.get("index")
            if type(index) is not int:
                index = 0
            elif not 0 <= index < MAX_ENTRIES:
                index = MAX_ENTRIES  # they share one entry, so that ever new indices cost no memory
            self._seen |= 1 << index
            end = choice.get("finish_reason")
            if not isinstance(end, str):  # Ollama and SGLang send an empty one in chunks that do not end it
                end = ""
            ends.append(end)
            if end:
                self._finished |= 1 << index
            self.has_answer = self.has_answer or end != "" or has_content(choice, ROLE_ALONE)
        return bool(ends) and not usage and not any(ends)
