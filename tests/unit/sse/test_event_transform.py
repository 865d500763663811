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


def test_a_chain_passes_events_on_from_the_first_and_names_each_change_once():
    chain = TransformChain([Letters(b"a"), Letters(b"b")])
    assert (chain.feed(b"event-"), chain.finish()) == (b"event-ab", b"end-ab" + b"end-b")
    assert chain.adapted == ("letter=a", "letter", "letter=b")


def test_held_events_do_not_reach_the_next_transform():
    chain = TransformChain([Swallow(), Letters(b"a")])
    assert (chain.feed(b"event"), chain.finish()) == (b"", b"latea" + b"end-a")
