"""A row of the table: what an upstream does, what it is asked, and what a client is to get through gatepass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.e2e.quirks.replies import TEXT, Serve

Mode = Literal["plain", "raw", "helper", "embed"]
"""A whole answer; a stream, event by event; a stream by the client's own helper; vectors."""
CHAT: tuple[Mode, ...] = ("plain", "raw", "helper")
STREAM: tuple[Mode, ...] = ("raw", "helper")
PLAIN: tuple[Mode, ...] = ("plain",)
EMBED: tuple[Mode, ...] = ("embed",)

Route = Literal["main", "opted", "renewed", "ragflow", "cumulative"]
"""Which of gatepass's upstreams serves the row: everything by default; with `learn_also`; with a token that can be
renewed; by a dialect or a setting of its own."""

GREETING = ({"role": "user", "content": "What colour is the sky?"},)
DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """The right answer: text, tool calls (name and arguments), and usage where the row is about it."""

    text: str = TEXT
    calls: tuple[tuple[str, str], ...] = ()
    finish: str = "stop"
    total_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The right error: an HTTP status, a code, words of the upstream, headers. What is None may be anything."""

    statuses: tuple[int, ...] = ()
    code: str | None = None
    words: str | None = None
    message: str | None = None
    """The whole message, where nobody may add to the upstream's words."""
    retry_after: str | None = None
    should_retry: str | None = None


@dataclass(frozen=True, slots=True)
class Vectors:
    """As many vectors as texts were sent, in order, each right."""


Expected = Answer | Failure | Vectors


@dataclass(frozen=True, slots=True)
class Row:
    quirk: int
    """The number in the list of quirks."""
    model: str
    description: str
    serve: Serve
    expected: Expected = Answer()
    streamed: Expected | None = None
    """Of the streams, where it differs."""
    modes: tuple[Mode, ...] = CHAT
    body: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, Any], ...] = GREETING
    texts: int = 3
    """To embed."""
    route: Route = "main"
    repeats: int = 0
    """How often a client that reads `x-should-retry` may repeat a refused request. Unasked, these clients do twice."""
    is_lasting: bool = True
    """Whether what gatepass learns of it holds for later requests; else each costs one more."""

    def expects(self, mode: Mode) -> Expected:
        return self.expected if mode in ("plain", "embed") or self.streamed is None else self.streamed

    def request_body(self, mode: Mode) -> dict[str, Any]:
        """The request's members beside its model."""
        if mode == "embed":
            return {"input": [text_of(number) for number in range(self.texts)], **self.body}
        return {"messages": [dict(message) for message in self.messages], **self.body}


def text_of(number: int) -> str:
    return f"text {number}"


def vector_of(text: str) -> list[float]:
    """What an honest upstream embeds `text` as; every number is a float32."""
    return [float(text.rsplit(" ", 1)[-1]), 0.5, -0.25, 1.0]
