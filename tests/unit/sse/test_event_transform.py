from __future__ import annotations

import pytest

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


def test_chain_runs_in_the_reverse_order_of_adaptation():
    assert TransformChain([Letters(b"a"), Letters(b"b"), Letters(b"c")]).feed(b"event-") == b"event-cba"


def test_end_of_one_shaper_passes_through_the_next():
    assert TransformChain([Letters(b"a"), Letters(b"b")]).finish() == b"end-ba" + b"end-a"


def test_what_is_held_back_does_not_reach_the_next_shaper():
    chain = TransformChain([Letters(b"a"), Swallow()])
    assert (chain.feed(b"event"), chain.finish()) == (b"", b"latea" + b"end-a")


def test_chain_names_each_change_once_and_the_nearest_to_the_upstream_first():
    assert TransformChain([Letters(b"a"), Letters(b"b")]).adapted == ("letter=b", "letter", "letter=a")


@pytest.mark.parametrize("block", [b"", b"data: 1\n\n"])
def test_empty_chain_gives_the_same_object_back(block):
    chain = TransformChain([])
    assert chain.feed(block) is block
    assert (chain.finish(), chain.adapted) == (b"", ())
