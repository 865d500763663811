"""Transforms: pure changes of an event stream. This is their contract, and a chain of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class EventTransform(Protocol):
    """Change the events of a stream on their way to the client. It takes and returns runs of whole events.

    Comment lines without a blank line may end a run, because the validation of a stream leaves them there.

    A transform may hold events back, but only a bounded number. It returns them before a `[DONE]`, before an error
    event, or from `finish` if neither arrives. It never adds a `[DONE]`, because EventStream decides whether a stream
    is complete.
    """

    @property
    def adapted(self) -> tuple[str, ...]:
        """The names of the changes so far, in the order in which each was first made."""
        ...

    def feed(self, block: bytes) -> bytes:
        """Return the changed run; the same object if nothing changed."""
        ...

    def finish(self) -> bytes:
        """End the stream, and return the events that were held back, or b""."""
        ...


class TransformChain:
    """Several transforms as one.

    The caller passes them in the order in which the request was adapted. They run in reverse order: the rule that
    changed the request last was nearest to the upstream, so its transform receives the reply first.
    """

    __slots__ = ("_transforms",)

    def __init__(self, transforms: Iterable[EventTransform]) -> None:
        self._transforms = tuple(transforms)[::-1]

    @property
    def adapted(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for transform in self._transforms for name in transform.adapted))

    def feed(self, block: bytes) -> bytes:
        for transform in self._transforms:
            if not block:
                return block
            block = transform.feed(block)
        return block

    def finish(self) -> bytes:
        block = b""
        for transform in self._transforms:
            fed = transform.feed(block) if block else b""
            block = fed + transform.finish()
        return block
