"""A row of the table of quirks: an upstream's behaviour, the request, and the expected result through gatepass."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.e2e.quirks.replies import TEXT, Serve

Mode = Literal["plain", "raw", "helper", "embed"]
"""How a client calls: a whole reply, a stream read event by event, a stream read by its helper, or embeddings."""
CHAT: tuple[Mode, ...] = ("plain", "raw", "helper")
STREAM: tuple[Mode, ...] = ("raw", "helper")
PLAIN: tuple[Mode, ...] = ("plain",)
EMBED: tuple[Mode, ...] = ("embed",)

Route = Literal["main", "renewed", "ragflow", "cumulative"]
"""The upstream of gatepass's configuration for the row: the default, one with a renewable token, or one
with its own dialect or setting."""

GREETING = ({"role": "user", "content": "What colour is the sky?"},)
DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """The expected reply: text, tool calls (name and arguments), and usage if the row tests it."""

    text: str = TEXT
    calls: tuple[tuple[str, str], ...] = ()
    finish: str = "stop"
    total_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The expected error: HTTP status, code, a part of the upstream's message, headers. None: any value."""

    statuses: tuple[int, ...] = ()
    code: str | None = None
    words: str | None = None
    message: str | None = None
    """The exact message, if gatepass must not change the upstream's message."""
    retry_after: str | None = None
    should_retry: str | None = None


@dataclass(frozen=True, slots=True)
class Vectors:
    """One right vector for each text, in order."""


Expected = Answer | Failure | Vectors


@dataclass(frozen=True, slots=True)
class Row:
    quirk: int
    """The same for all rows of one quirk. The table has the order of these numbers."""
    model: str
    description: str
    serve: Serve
    expected: Expected = Answer()
    modes: tuple[Mode, ...] = CHAT
    body: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, Any], ...] = GREETING
    texts: int = 3
    """The number of texts to embed."""
    route: Route = "main"
    repeats: int = 0
    """How many retries a client that reads `x-should-retry` may make. The default of these clients is two."""
    is_lasting: bool = True
    """Whether the learned rule holds for later requests. Otherwise each request causes another rejection."""

    def request_body(self, mode: Mode) -> dict[str, Any]:
        """Return the request body without the model."""
        if mode == "embed":
            return {"input": [text_of(number) for number in range(self.texts)], **self.body}
        return {"messages": [dict(message) for message in self.messages], **self.body}


def text_of(number: int) -> str:
    return f"text {number}"


def vector_of(text: str) -> list[float]:
    """Return the right embedding of `text`. Every number is exact in float32."""
    return [float(text.rsplit(" ", 1)[-1]), 0.5, -0.25, 1.0]
