"""Read a configuration file of limited size and parse it by its suffix. YAML is parsed in yaml_file.py."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from gatepass.config.document import (
    DEEPEST,
    ConfigDocument,
    ConfigError,
    ConfigProblem,
    SettingPath,
    ValueOrigin,
    lookup,
)

LARGEST_BYTES = 1024 * 1024

_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\(?:u|U0000)[dD][89a-fA-F]")
"""JSON joins an escaped surrogate pair to one character, YAML does not."""


DEFAULT_FILE = "gatepass.yaml"
"""The configuration file in the current folder, unless another one or the environment configures gatepass."""


def configuration_file(path: str | None, own: Mapping[str, str]) -> str | None:
    """Return `path`, the file of GATEPASS_CONFIG, or ./gatepass.yaml; None if the environment configures gatepass.

    `own` are the GATEPASS_ variables without their prefix. Raises ConfigError if another user owns ./gatepass.yaml or
    may write to it.
    """
    if path or "CONFIG" in own or "UPSTREAM_URL" in own:
        return path or own.get("CONFIG")
    try:
        found = (os.lstat(DEFAULT_FILE), os.stat(DEFAULT_FILE))  # the owner of a link decides too
    except OSError:
        return None
    if any(status.st_uid not in (os.geteuid(), 0) for status in found):
        raise _unusable(DEFAULT_FILE, f"belongs to another user: {NAME_IT}")
    if found[-1].st_mode & stat.S_IWOTH:
        raise _unusable(
            DEFAULT_FILE, f"can be written by every user of this machine: run chmod o-w on it, or {NAME_IT}"
        )
    return DEFAULT_FILE


NAME_IT = "name the configuration file with --config"


def read_document(name: str) -> ConfigDocument:
    """Parse the file `name` by its suffix; raise ConfigError if it cannot be read or parsed."""
    text = _text(name)
    match pathlib.Path(name).suffix.lower():
        case ".yaml" | ".yml":
            from gatepass.config.yaml_file import parse_yaml

            document = parse_yaml(name, text)
        case ".json":
            document = parse_json(name, text)
        case _:
            raise _unusable(name, "expects a name that ends in .yaml, .yml or .json")
    if not isinstance(document.tree, dict):
        raise _unusable(name, "expects settings, as `name: value`")
    if _SURROGATE_ESCAPE.search(text):
        # a lone surrogate cannot be encoded, so that an error, log or header with it could not be written
        for path, origin in document.origins.items():
            for word in (*path[-1:], lookup(document.tree, path)):
                if isinstance(word, str) and _SURROGATE.search(word):
                    reason = "holds half of a surrogate pair: write the character itself, not an escape of it"
                    raise document.fault(origin.line, reason)
    return document


def _text(name: str) -> str:
    try:
        with open(name, "rb", opener=_open_without_wait) as file:
            # one byte more, to notice a larger file
            data = file.read(LARGEST_BYTES + 1) or b""
    except OSError as error:
        reason = "does not exist" if error.errno == errno.ENOENT else f"cannot be read: {error.strerror}"
        raise _unusable(name, reason) from None
    if len(data) > LARGEST_BYTES:
        raise _unusable(name, f"is larger than {LARGEST_BYTES} bytes")
    try:
        # Editors of Windows write a byte order mark.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _unusable(name, "is not UTF-8 text") from None


def _open_without_wait(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe without a writer would block forever


def _unusable(name: str, text: str) -> ConfigError:
    return ConfigError([ConfigProblem((), text, ValueOrigin(name))])


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\],:"]+')

Tokens = Iterator[tuple[str, int]]
"""Each token with its line."""


def parse_json(source: str, text: str) -> ConfigDocument:
    """Parse `text`; raise ConfigError with the line of the fault."""
    document = ConfigDocument(source)
    try:
        # json.loads accepts NaN and Infinity, which RFC 8259 (section 6) forbids.
        document.tree = json.loads(text, parse_constant=_no_constant)
        sign, line = next(tokens := _tokens(text))
        _walk(document, tokens, sign, line, ())
    except json.JSONDecodeError as error:
        raise document.fault(error.lineno, f"is not JSON: {error.msg}") from None
    except RecursionError:
        raise document.fault(1, f"is nested deeper than {DEEPEST} levels") from None
    except ValueError:  # NaN, Infinity, or a number with thousands of digits
        raise document.fault(1, "is not JSON: holds NaN, Infinity or a number that is too long") from None
    return document


def _no_constant(word: str) -> NoReturn:
    raise ValueError(word)


def _tokens(text: str) -> Tokens:
    line, end = 1, 0
    for sign in _TOKEN.finditer(text):
        line += text.count("\n", end, sign.start())
        end = sign.start()
        yield sign[0], line


def _walk(document: ConfigDocument, tokens: Tokens, opening: str, line: int, path: SettingPath) -> None:
    """Record the lines of the value that begins with `opening`. The JSON is valid: json.loads has parsed it."""
    document.note_line(path, line)
    if opening not in ("{", "["):
        return
    seen: set[str | int] = set()
    for sign, place in tokens:
        if sign in ("}", "]"):
            return
        if sign == ",":
            continue
        key = len(seen)
        if opening == "{":
            key = json.loads(sign)
            next(tokens)  # the colon
            sign = next(tokens)[0]
        if key in seen:
            document.duplicate_key((*path, key), place)
        seen.add(key)
        _walk(document, tokens, sign, place, (*path, key))


def value_of(text: str) -> Any:
    """Parse JSON without lines; raise ValueError with a reason that does not quote `text`."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except (ValueError, RecursionError):
        raise ValueError("is not JSON: holds NaN, Infinity or a number that is too long, or is too deep") from None
