"""How far an answer has come: which choices were seen, which are finished, what it cost."""

from __future__ import annotations

from typing import Any

from gatepass.relay.chunk import finish_reason, says
from gatepass.relay.usage import Usage

_MAX_INDEX = 1023
"""Indices beyond share one entry: an upstream that counts up for ever costs no memory."""


class Progress:
    """What the events of one stream have told so far, of bounded size."""

    __slots__ = ("_finished", "_has_deltas", "_seen", "has_answer", "usage")

    def __init__(self) -> None:
        self.has_answer = False
        """Whether any choice has said something, be it that it is finished: a role alone is no answer."""
        self.usage: Usage | None = None
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._has_deltas = False

    @property
    def has_choices(self) -> bool:
        return bool(self._seen)

    def is_complete(self, choices: int) -> bool:
        """Whether `choices` were seen at least, and each that was seen has its finish reason."""
        return len(self._seen) >= choices and self._seen <= self._finished

    def open_choice(self, choices: int) -> int | None:
        """The first of `choices` that is not finished, None where all are."""
        return next((index for index in range(choices) if index not in self._finished), None)

    def is_strange(self, choices: list[Any]) -> bool:
        """Whether these are the choices of a plain reply (`message` in place of `delta`) and no piece
        of a stream has come before. Stream clients crash on them or read them as empty (seen with
        openai-python 3.51 and openai-node 6.49); after real pieces they are a mere extra."""
        return not self._has_deltas and all(
            isinstance(choice, dict) and "message" in choice and "delta" not in choice for choice in choices
        )

    def note(self, fields: dict[str, Any], choices: list[Any]) -> bool:
        """Remember what one event tells. True if it is a piece of text and no more: then an event
        that differs from it only in its text would leave everything as it is now."""
        usage = fields.get("usage")
        if isinstance(usage, dict):
            self.usage = Usage.read(usage)
        ends = [self._note_choice(choice) for choice in choices if isinstance(choice, dict)]
        return bool(ends) and not usage and not any(ends)

    def _note_choice(self, choice: dict[str, Any]) -> bool:
        """Whether this ends the choice. An empty finish reason does not (Ollama, SGLang send it)."""
        index = choice.get("index")
        if type(index) is not int:
            index = 0
        elif not 0 <= index <= _MAX_INDEX:
            index = -1
        self._seen.add(index)
        self._has_deltas = self._has_deltas or "delta" in choice
        self.has_answer = self.has_answer or says(choice)
        if finish_reason(choice):
            self._finished.add(index)
            return True
        return False
