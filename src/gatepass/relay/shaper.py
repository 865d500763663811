"""What a shaper is: one pure change of the events of a stream on their way to the client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol


class Shaper(Protocol):
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


class Mender(Shaper, Protocol):
    """A shaper that the judge of a stream asks event by event, with the data parsed already: then no
    event is parsed twice, and those that the judge's Template knows are not looked at at all.

    The judge learns an event by heart only where `is_idle` is true after it.
    """

    @property
    def is_idle(self) -> bool:
        """Whether an event that differs from the last one in its text alone needs no repair."""
        ...

    def shape(self, block: bytes, said: dict[str, Any]) -> bytes:
        """What goes on in the place of `block`, the event whose data is `said`; may change `said`.

        `block` itself comes back where nothing is to be repaired.
        """
        ...


class Chain:
    """Several shapers as one. They are given in the order of adaptation and run in the reverse one:
    the rule that changed the request last was nearest to the upstream, and is to the reply too."""

    __slots__ = ("_shapers",)

    def __init__(self, shapers: Iterable[Shaper]) -> None:
        self._shapers = tuple(shapers)[::-1]

    @property
    def adapted(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for shaper in self._shapers for name in shaper.adapted))

    def feed(self, block: bytes) -> bytes:
        for shaper in self._shapers:
            if not block:
                return block
            block = shaper.feed(block)
        return block

    def finish(self) -> bytes:
        block = b""
        for shaper in self._shapers:
            fed = shaper.feed(block) if block else b""
            block = fed + shaper.finish()
        return block
