"""The demo's printed voice, which can keep a secret."""

from __future__ import annotations

from collections.abc import Callable


class Voice:
    """Says a line at a time through `out`; whatever it was told to hide comes out as `(hidden)`."""

    def __init__(self, out: Callable[[str], object]) -> None:
        self._out = out
        self._hidden: set[str] = set()

    def hide(self, *secrets: str) -> None:
        self._hidden.update(secrets)

    def __call__(self, line: str) -> None:
        for secret in self._hidden:
            line = line.replace(secret, "(hidden)")
        self._out(line)
