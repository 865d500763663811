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


def test_end_of_one_transform_passes_through_the_next():
    assert TransformChain([Letters(b"a"), Letters(b"b")]).finish() == b"end-ab" + b"end-b"


def test_chain_names_each_change_once_and_those_of_its_first_transform_first():
    assert TransformChain([Letters(b"a"), Letters(b"b")]).adapted == ("letter=a", "letter", "letter=b")
