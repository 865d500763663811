"""Changes of single members, by their place: drop, rename, set, default, clamp.

Changes of whether the upstream streams: the client gets what it asked for in either case.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import msgspec

from gatepass.config.routes import MEMBER_PATH, NOT_A_MEMBER_PATH
from gatepass.normalize.json_editor import JsonEditor, JsonObjectEditor
from gatepass.types import ClientProtocol


@dataclass(frozen=True, slots=True)
class JsonMemberPath:
    """`temperature`, `stream_options.include_usage`, `messages[].tool_calls[].index`: `[]` is each object of a list."""

    steps: tuple[tuple[str, bool], ...]
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, with what is expected, for what is no such place."""
        if not cls.is_one(text):
            raise ValueError(NOT_A_MEMBER_PATH)
        *steps, name = text.split(".")
        return cls(tuple((step.removesuffix("[]"), step.endswith("[]")) for step in steps), name)

    @staticmethod
    def is_one(text: str) -> bool:
        """Whether `parse` takes it."""
        return MEMBER_PATH.match(text) is not None

    def __str__(self) -> str:
        return ".".join([*(f"{name}[]" if each else name for name, each in self.steps), self.name])

    def owners(self, editor: JsonEditor, *, make: bool = False) -> Iterator[JsonObjectEditor]:
        """The objects in which the last name stands or would stand; `make` adds plain ones that are missing."""
        return _descend(editor.top, self.steps, make=make)


def _descend(owner: JsonObjectEditor, steps: tuple[tuple[str, bool], ...], *, make: bool) -> Iterator[JsonObjectEditor]:
    if not steps:
        yield owner
        return
    (name, each), rest = steps[0], steps[1:]
    if make and not each and name not in owner:
        owner.set(name, b"{}")
    inner = owner.object(name)
    array = owner.array(name) if each else None
    found = array.objects() if array is not None else [inner] if inner is not None and not each else []
    for one in found:
        yield from _descend(one, rest, make=make)


_NUMBER = re.compile(rb"-?[0-9]")


@dataclass(frozen=True, slots=True)
class Drop:
    """The member goes; with `only`, where its value is one of these JSON texts. Entry `drop=PLACE`."""

    path: JsonMemberPath
    only: frozenset[bytes] = frozenset()

    @property
    def entry(self) -> str:
        return f"drop={self.path}"

    def apply_to(self, editor: JsonEditor) -> bool:
        owners = [owner for owner in self.path.owners(editor) if self._concerns(owner)]
        return sum(owner.drop(self.path.name) for owner in owners) > 0

    def _concerns(self, owner: JsonObjectEditor) -> bool:
        if not self.only:
            return self.path.name in owner
        text = owner.text(self.path.name)
        return text is not None and b"".join(text.split()) in self.only


@dataclass(frozen=True, slots=True)
class Rename:
    """The member gets the name `to`, its value as it is; where `to` is there too, that one stays alone.

    Entry `rename=PLACE>NAME`.
    """

    path: JsonMemberPath
    to: str

    @property
    def entry(self) -> str:
        return f"rename={self.path}>{self.to}"

    def apply_to(self, editor: JsonEditor) -> bool:
        return sum(owner.rename(self.path.name, self.to) for owner in self.path.owners(editor)) > 0


@dataclass(frozen=True, slots=True)
class Set:
    """The member's value is `text`, JSON; with `only_there`, where the member is. Entry `set=PLACE`, or
    `set=PLACE>VALUE` where the value `is_shown`: an operator's own may be nobody's to read. With `unstreamed`, where
    the upstream is not asked for a stream."""

    path: JsonMemberPath
    text: bytes
    only_there: bool = False
    is_shown: bool = False
    unstreamed: bool = False

    @property
    def entry(self) -> str:
        return f"set={self.path}>{self._shown}" if self.is_shown else f"set={self.path}"

    @property
    def _shown(self) -> str:
        return self.text.decode().strip('"')

    def apply_to(self, editor: JsonEditor) -> bool:
        if self.unstreamed and editor.stream:
            return False
        owners = list(self.path.owners(editor, make=not self.only_there))
        return sum(owner.set(self.path.name, self.text) for owner in owners if self._concerns(owner)) > 0

    def _concerns(self, owner: JsonObjectEditor) -> bool:
        return self.path.name in owner or not self.only_there


@dataclass(frozen=True, slots=True)
class Default:
    """The member is `text`, JSON, where the client sends none. Entry `default=PLACE`."""

    path: JsonMemberPath
    text: bytes

    @property
    def entry(self) -> str:
        return f"default={self.path}"

    def apply_to(self, editor: JsonEditor) -> bool:
        owners = [owner for owner in self.path.owners(editor, make=True) if self.path.name not in owner]
        return sum(owner.set(self.path.name, self.text) for owner in owners) > 0


@dataclass(frozen=True, slots=True)
class Clamp:
    """A number beyond `least` or `most` becomes that bound; what is no number stays. Entry `clamp=PLACE`."""

    path: JsonMemberPath
    least: float | None = None
    most: float | None = None

    @property
    def entry(self) -> str:
        return f"clamp={self.path}"

    def apply_to(self, editor: JsonEditor) -> bool:
        return sum(self._clamped(owner) for owner in self.path.owners(editor)) > 0

    def _clamped(self, owner: JsonObjectEditor) -> bool:
        text = owner.text(self.path.name)
        if text is None or _NUMBER.match(text) is None:
            return False
        number = float(text)
        bound = self.least if self.least is not None and number < self.least else number
        bound = self.most if self.most is not None and bound > self.most else bound
        return bound != number and owner.set(self.path.name, _written(bound))


def _written(number: float) -> bytes:
    return msgspec.json.encode(int(number) if math.isfinite(number) and number == int(number) else number)


STREAMED = (ClientProtocol.CHAT, ClientProtocol.RESPONSES)
"""Surfaces with answers that come whole or as a stream, and are made of each other (verdict/)."""


@dataclass(frozen=True, slots=True)
class Unstreamed:
    """Ask for one whole reply where the client wants a stream, which is then made of it. Entry `stream=synth`."""

    entry: str = "stream=synth"

    def apply_to(self, editor: JsonEditor) -> bool:
        if not editor.stream or editor.protocol not in STREAMED:
            return False
        editor.top.set("stream", b"false")
        editor.top.drop("stream_options")
        editor.stream = False
        return True


@dataclass(frozen=True, slots=True)
class Streamed:
    """Ask for a stream where the client wants a whole reply, which is then made of it. Entry `stream=aggregate`."""

    entry: str = "stream=aggregate"

    def apply_to(self, editor: JsonEditor) -> bool:
        if editor.stream or editor.protocol not in STREAMED:
            return False
        editor.top.set("stream", b"true")
        if editor.protocol is ClientProtocol.CHAT:  # a response's last event has its usage anyway
            editor.top.set("stream_options", b'{"include_usage":true}')
        editor.stream = True
        return True


@dataclass(frozen=True, slots=True)
class OrphanedOptions:
    """`stream_options` without a stream goes: OpenAI and vLLM refuse it. Entry `drop=stream_options`."""

    entry: str = "drop=stream_options"

    def apply_to(self, editor: JsonEditor) -> bool:
        return not editor.stream and editor.top.drop("stream_options")
