"""The file of a configuration: read within a bound, and parsed by its suffix."""

from __future__ import annotations

import errno
from pathlib import Path

from gatepass.config.document import Document
from gatepass.config.problem import ConfigError, Origin, Problem

LARGEST_BYTES = 1024 * 1024


def read_document(name: str) -> Document:
    """The file `name`, by its suffix; raises ConfigError where it cannot be read or parsed."""
    text = _text(name)
    match Path(name).suffix.lower():
        case ".yaml" | ".yml":
            from gatepass.config.yaml_file import parse_yaml

            document = parse_yaml(name, text)
        case ".json":
            from gatepass.config.json_file import parse_json

            document = parse_json(name, text)
        case _:
            raise _unusable(name, "expects a name that ends in .yaml, .yml or .json")
    if not isinstance(document.tree, dict):
        raise _unusable(name, "expects settings, as `name: value`")
    return document


def _text(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        reason = "does not exist" if error.errno == errno.ENOENT else f"cannot be read: {error.strerror}"
        raise _unusable(name, reason) from None
    if len(data) > LARGEST_BYTES:
        raise _unusable(name, f"is larger than {LARGEST_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _unusable(name, "is not UTF-8 text") from None


def _unusable(name: str, text: str) -> ConfigError:
    return ConfigError([Problem((), text, Origin(name))])
