"""What a shaper is: one pure change of the events of a stream on their way to the client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class EventTransform(Protocol):
    """Changes what passes: takes runs of whole events, gives runs of whole events. Comment lines may
    stand at the end of a run without a blank line, as the judge of a stream leaves them.

    `feed` returns the very same object where nothing changes. A shaper that holds something back
    gives it out before a `[DONE]`, before an error event, or by `finish` when neither comes; after
    that nothing is left in it. What it holds is bounded. It never makes a `[DONE]`: whether a
    stream is finished is for the judge of the stream to say.
    """

    @property
    def adapted(self) -> tuple[str, ...]:
        """The names of what was changed so far, in the order in which it first was."""
        ...

    def feed(self, block: bytes) -> bytes: ...

    def finish(self) -> bytes:
        """No more comes: what was still held, b"" if nothing."""
        ...


class TransformChain:
    """Several shapers as one. They are given in the order of adaptation and run in the reverse one:
    the rule that changed the request last was nearest to the upstream, and is to the reply too."""

    __slots__ = ("_shapers",)

    def __init__(self, shapers: Iterable[EventTransform]) -> None:
        self._shapers = tuple(shapers)[::-1]

    @property
    def adapted(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for transform in self._shapers for name in transform.adapted))

    def feed(self, block: bytes) -> bytes:
        for transform in self._shapers:
            if not block:
                return block
            block = transform.feed(block)
        return block

    def finish(self) -> bytes:
        block = b""
        for transform in self._shapers:
            fed = transform.feed(block) if block else b""
            block = fed + transform.finish()
        return block
