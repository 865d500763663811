from __future__ import annotations

from gatepass.sse.event import TransformChain


class Letters:
    """Puts its letter behind each event, and gives one event at the end."""

    def __init__(self, letter: bytes) -> None:
        self._letter = letter
        self._has_ended = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return (f"letter={self._letter.decode()}", "letter")

    def feed(self, block: bytes) -> bytes:
        return block + self._letter

    def finish(self) -> bytes:
        return b"" if self._has_ended else b"end-" + self._letter


class Swallow:
    adapted = ()

    def feed(self, block: bytes) -> bytes:
        return b""

    def finish(self) -> bytes:
        return b"late"


def test_the_first_of_a_chain_receives_the_events_first():
    assert TransformChain([Letters(b"a"), Letters(b"b"), Letters(b"c")]).feed(b"event-") == b"event-abc"


def test_end_of_one_transform_passes_through_the_next():
    assert TransformChain([Letters(b"a"), Letters(b"b")]).finish() == b"end-ab" + b"end-b"


def test_held_events_do_not_reach_the_next_transform():
    chain = TransformChain([Swallow(), Letters(b"a")])
    assert (chain.feed(b"event"), chain.finish()) == (b"", b"latea" + b"end-a")


def test_chain_names_each_change_once_and_those_of_its_first_transform_first():
    assert TransformChain([Letters(b"a"), Letters(b"b")]).adapted == ("letter=a", "letter", "letter=b")
