"""A refresh token that a person puts into refresh_token_file: bare, where gatepass writes JSON."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from gatepass.call import Secret
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.watched import WatchedFile

_MARKS = 10_000


class Handwriting:
    """Notices it, so that a refused credential is tried again at once.

    What gatepass writes there itself, in this process or another, is no news: each use would lead to the next.
    """

    def __init__(self, path: str, wall: Callable[[], float]) -> None:
        self._file = WatchedFile(path, wall)
        self._last: str | None = None
        self._count = 0

    def mark(self) -> Secret:
        """How often it has been found: a text that is another one after each time, and too short to be masked."""
        return Secret(lambda: str(self._found() % _MARKS))

    def _found(self) -> int:
        with suppress(FetchFailure):
            text = self._file.read().text.strip()
            is_bare = bool(text) and not text.startswith("{")
            self._count += is_bare and text != self._last
            self._last = text if is_bare else None
        return self._count
