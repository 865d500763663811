"""How the pieces of one value are put together: texts, lists, audio, and what nobody knows."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from gatepass.relay.chunk import Object

_BASE64_GROUP = 4


class Gather:
    """The members of one object that comes in pieces: texts are joined, lists are extended, of
    anything else the last value counts that says something."""

    __slots__ = ("_lists", "_texts", "_values")

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._lists: dict[str, list[Any]] = {}
        self._values: Object = {}

    def add(self, name: str, value: Any) -> None:
        """One piece of the member `name`; null says nothing."""
        if type(value) is str:
            texts = self._texts.get(name)
            if texts is None:
                self._texts[name] = [value]
            else:
                texts.append(value)
        elif type(value) is list:
            self._lists.setdefault(name, []).extend(value)
        elif value is not None:
            keep_last(self._values, name, value)

    def text(self, name: str) -> str | None:
        """The whole text, None where no piece of one came."""
        pieces = self._texts.get(name)
        return None if pieces is None else "".join(pieces)

    def whole(self) -> Object:
        """All members, whole. Where a member came in texts and in lists the texts are parts among its parts."""
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        parted = {
            name: [{"type": "text", "text": texts.pop(name)}, *parts] if texts.get(name) else parts
            for name, parts in self._lists.items()
        }
        return {**self._values, **texts, **parted}


def keep_last(said: Object, name: str, value: Any) -> None:
    """Remember `value` unless it says nothing and something was said before."""
    if value is not None and (value not in ({}, []) or name not in said):
        said[name] = value


def joined_base64(pieces: Sequence[str]) -> str:
    """One base64 text for what came in several: cut anywhere, or each encoded by itself with its padding."""
    joined = "".join(pieces)
    if "=" not in joined.rstrip("=") and len(joined) % _BASE64_GROUP == 0:
        return joined
    try:
        return base64.b64encode(b"".join(_decoded(piece) for piece in pieces)).decode()
    except (ValueError, binascii.Error):
        return joined


def _decoded(piece: str) -> bytes:
    bare = piece.rstrip("=")
    return base64.b64decode(bare + "=" * (-len(bare) % _BASE64_GROUP), validate=True)
