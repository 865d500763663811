"""Split bytes at random positions."""

from collections.abc import Iterator
from random import Random


def pieces(body: bytes, random: Random) -> Iterator[bytes]:
    """Yield `body` in pieces of random sizes."""
    sizes = random.choice([(1, 3), (1, 64), (64, 4096)])
    at = 0
    while at < len(body):
        size = random.randint(*sizes)
        yield body[at : at + size]
        at += size
