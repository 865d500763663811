"""Find and read the configuration file, whose size is limited. yaml_file.py parses it."""

from __future__ import annotations

import errno
import os
import pathlib
import stat
from collections.abc import Mapping

from gatepass.config.document import ConfigDocument, ConfigError, ConfigProblem, ValueOrigin
from gatepass.config.references import open_regular
from gatepass.errors import documentation

LARGEST_BYTES = 1024 * 1024

DEFAULT_FILE = "gatepass.yaml"
OF_LITELLM = frozenset(("model_list", "litellm_settings"))


def configuration_file(path: str | None, own: Mapping[str, str]) -> str | None:
    """Return `path`, the file of GATEPASS_CONFIG, or ./gatepass.yaml; None if the environment configures gatepass.

    `own`: the GATEPASS_ variables without their prefix. Raises ConfigError if ./gatepass.yaml belongs to another
    user, or every user may write it: gatepass would run the programs that it names.
    """
    if path or "CONFIG" in own or "UPSTREAM_URL" in own:
        return path or own.get("CONFIG")
    try:
        found = os.lstat(DEFAULT_FILE), os.stat(DEFAULT_FILE)  # the owner of a link decides too
    except OSError:
        return None
    if any(status.st_uid not in (os.geteuid(), 0) for status in found) or found[1].st_mode & stat.S_IWOTH:
        text = "belongs to another user, or every user may write it: if you trust it, name it with --config"
        raise _unusable(DEFAULT_FILE, text)
    return DEFAULT_FILE


def read_document(name: str) -> ConfigDocument:
    """Parse a YAML or JSON file; raise ConfigError if it cannot be read or parsed."""
    try:
        with open_regular(name) as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        reason = "does not exist" if error.errno == errno.ENOENT else f"cannot be read: {error.strerror}"
        raise _unusable(name, reason) from None
    if len(content) > LARGEST_BYTES:
        raise _unusable(name, f"is larger than {LARGEST_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")  # editors of Windows write a byte order mark
    except UnicodeDecodeError:
        raise _unusable(name, "is not UTF-8 text") from None
    if pathlib.Path(name).suffix.lower() not in (".yaml", ".yml", ".json"):
        raise _unusable(name, "expects a name that ends in .yaml, .yml or .json")
    # imported here, because ruamel loads slowly and a health check with --host and --port reads no file
    from gatepass.config.yaml_file import parse_yaml

    document = parse_yaml(name, text)  # JSON is YAML (YAML 1.2.2, 1.2)
    if not isinstance(document.tree, dict):
        raise _unusable(name, "expects settings, as `name: value`")
    if not OF_LITELLM.isdisjoint(document.tree):
        guide = documentation("docs/guides/from_litellm.md", ", and {} translates it")
        raise _unusable(name, f"is a file of LiteLLM: `gatepass init` writes one of gatepass{guide}")
    document.content = content
    return document


def _unusable(name: str, text: str) -> ConfigError:
    return ConfigError([ConfigProblem((), text, ValueOrigin(name))])
