"""What an event looks like in the log: its name first, its fields as data, and every line masked on its way out."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from math import floor
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from gatepass.observe.redaction import Redactor

Fields = dict[str, Any] | msgspec.Struct
"""A struct leaves out what is None by itself (`omit_defaults`)."""

ROOT = "gatepass"
_LEVELS = MappingProxyType({logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"})

_MILLISECONDS = tuple(f".{ms:03d}Z" for ms in range(1000))
"""How a time ends: to format a number takes half a microsecond, a tenth of its line."""
_JSON = msgspec.json.Encoder(enc_hook=str)


class _Style(NamedTuple):
    """How a line is written: its opening, its time, then its head, then the rest."""

    opening: str
    head: Callable[[str, str, int | None], str]
    rest: Callable[[Fields], str]


def _json_head(level: str, event: str, worker: int | None) -> str:
    try:
        quoted = _JSON.encode(event).decode()
    except UnicodeEncodeError:
        quoted = json.dumps(event)
    return f'","level":"{level}","event":{quoted}' + ("" if worker is None else f',"worker":{worker}')


def _json_rest(fields: Fields) -> str:
    try:
        told = _JSON.encode(fields).decode()
    except UnicodeEncodeError:  # half a surrogate pair, which clients do send
        told = json.dumps(listed(fields), separators=(",", ":"), default=str)
    return "," + told[1:] if told != "{}" else "}"


def _text_head(level: str, event: str, worker: int | None) -> str:
    return f" {level:<7} {event}" + ("" if worker is None else f" worker={worker}")


def _text_rest(fields: Fields, within: str = "") -> str:
    """A field that holds others comes as each of them, `usage.total_tokens=3`; no name can fake one of ours."""
    named = {f"{within}{_plain(name)}": value for name, value in listed(fields).items()}
    return "".join(
        _text_rest(value, f"{name}.") if isinstance(value, dict) else f" {name}={_plain(value)}"
        for name, value in named.items()
    )


_IN_JSON = _Style('{"ts":"', _json_head, _json_rest)
_IN_TEXT = _Style("", _text_head, _text_rest)


class Line(logging.Formatter):
    """One record as one line: `{"ts", "level", "event", …fields}` or `time level event key=value …`.

    `worker` is the number of this process where it is one of several: it stands in each line, before the fields.
    """

    def __init__(self, redactor: Redactor, style: str, worker: int | None = None) -> None:
        super().__init__()
        self._redactor = redactor
        self._worker = worker
        self._opening, self._words_head, self._words_rest = _IN_JSON if style == "json" else _IN_TEXT
        self._second, self._said = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {} if record.name.startswith(ROOT) else {"logger": record.name}
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return self.told(record.created, self.head(record.levelno, record.getMessage()), fields)

    def masked(self, text: str) -> str:
        """`text` of somebody else's, with no secret in it that is known."""
        return self._redactor.mask(text)

    def head(self, level: int, event: str) -> str:
        """What stands between a line's time and its fields."""
        named = _LEVELS.get(level) or logging.getLevelName(level).lower()
        return self._words_head(named, event, self._worker)

    def told(self, created_s: float, head: str, fields: Fields) -> str:
        """One event as its line."""
        return self._redactor.mask(f"{self._time(created_s)}{head}{self._words_rest(fields)}")

    def _time(self, created_s: float) -> str:
        """Lines come many to a second, and a second is put into words once."""
        past_s = created_s - self._second
        if not 0 <= past_s < 1:
            self._second = second = int(created_s)
            self._said = self._opening + time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            past_s = created_s - second
        return self._said + _MILLISECONDS[floor(past_s * 1000)]


def listed(fields: Fields) -> dict[str, Any]:
    """`fields` without those that say nothing, as a dict; a struct that one of them holds likewise."""
    named = msgspec.structs.asdict(fields) if isinstance(fields, msgspec.Struct) else fields
    told = {name: value for name, value in named.items() if value is not None}
    return {name: listed(value) if isinstance(value, msgspec.Struct) else value for name, value in told.items()}


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if text.isprintable():
        return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ' "=') else text
    return json.dumps(text)  # in ASCII: a path may hold what a terminal obeys
