"""What a dialect's replies need before anybody judges them: a shaper for its streams, a change of its documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from gatepass.sse import dialect_transforms as ragflow
from gatepass.sse.chunk import Origin
from gatepass.sse.transform import Shaper


class Shaping(Protocol):
    @property
    def is_plain(self) -> bool:
        """Whether nothing needs anything: then neither of the two is worth asking."""
        ...

    def stream(self, origin: Origin, *, wants_usage: bool) -> Shaper | None:
        """A new shaper for one stream, None where its events are judged as they come."""
        ...

    def document(self, body: bytes, origin: Origin) -> tuple[bytes, tuple[str, ...]]:
        """A whole reply, the same object where nothing changes, and the names of what did."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """OpenAI's own protocol, and Azure's: nothing."""

    is_plain: ClassVar[bool] = True

    def stream(self, origin: Origin, *, wants_usage: bool) -> Shaper | None:
        del origin, wants_usage
        return None

    def document(self, body: bytes, origin: Origin) -> tuple[bytes, tuple[str, ...]]:
        del origin
        return body, ()


@dataclass(frozen=True, slots=True)
class Ragflow:
    """See sse/dialect_transforms.py."""

    is_plain: ClassVar[bool] = False

    def stream(self, origin: Origin, *, wants_usage: bool) -> Shaper | None:
        return ragflow.RagflowStream(origin, wants_usage=wants_usage)

    def document(self, body: bytes, origin: Origin) -> tuple[bytes, tuple[str, ...]]:
        return ragflow.completion(body, origin)


def shaping_of(dialect: str) -> Shaping:
    return Ragflow() if dialect == "ragflow" else Plain()
