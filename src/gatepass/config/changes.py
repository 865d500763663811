"""The settings that versions of gatepass changed.

`load` ignores a removed setting for one minor version, and warns. `gatepass check --from` reports what concerns a
configuration, and docs/upgrade.md lists everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gatepass import __version__
from gatepass.config.document import ConfigDocument, SettingPath, SettingPattern, children, dotted, lookup, matches

Version = tuple[int, int, int]
_VERSION = re.compile(
    r"v?([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?"
    r"(?:(?:a|b|rc)[0-9]+)?(?:\.post[0-9]+)?(?:\.dev[0-9]+)?(?:\+[a-z0-9.]+)?"
)
"""With the suffixes of a version in its normal form (packaging.python.org, version specifiers)."""


@dataclass(frozen=True, slots=True)
class SettingChange:
    """What one version changed about one setting. `text` is for the operator: the difference, and what to do."""

    version: str
    kind: Literal["removed", "default", "meaning", "new"]
    setting: SettingPattern
    text: str


PRESET = "credentials.*.preset"
"""Rejected at once: a login without its preset has no request."""
REMOVED: Mapping[str, str] = {
    "log.bodies": "`gatepass capture` keeps whole bodies in memory for a while, and `gatepass show ID` shows them.",
    "credentials.*.sign": "Write a program (`type: exec`) that signs the login. The page Tokens has one for an HMAC.",
    PRESET: "Write the request itself: the page Tokens has the recipe of each former preset.",
    "credentials.*.apikey": "It was a part of `preset`.",
    "credentials.*.domain": "It was a part of `preset`.",
    "credentials.*.project": "It was a part of `preset`.",
    "credentials.*.exec_credential": "Set `KUBERNETES_EXEC_INFO` in `env`, as the page Tokens shows.",
    "credentials.*.assertion_type": "Set `client_assertion_type` in `extra`, as the page Tokens shows.",
    "credentials.*.role_session_name": "It is `gatepass`.",
    "credentials.*.inherit": 'Write each variable into `env`: `env: {NAME: "${NAME}"}`.',
    "credentials.*.subject_token_type": "Set `subject_token_type` in `extra`, as a URI.",
    "limits.unauthenticated_connections": "It is a quarter of `limits.connections`.",
    "upstreams.*.rejection.login_hosts": "A redirect to another host, or to a path such as `login`, rejects the token.",
    "upstreams.*.rejection.login_page": "A login page always rejects the token.",
    "upstreams.*.repair.one_id": "Chunks keep their ids.",
    "upstreams.*.repair.without_choices": "Members of chunks without choices move into the next chunk with choices.",
    "models.*.suggest": "`context_fallback` sends a request that is too long to another model.",
    "tracing.service_name": "The variable `OTEL_SERVICE_NAME` sets it.",
    "mcp.*.rejection.login_page": "A login page always rejects the token.",
    "mcp.*.rejection.login_hosts": "A redirect to another host, or to a path such as `login`, rejects the token.",
}
"""The settings that 0.2.0 removed, and what to do instead."""

CHANGES: tuple[SettingChange, ...] = (
    SettingChange(
        "0.1.0",
        "new",
        ("access", "keys", "*", "operations"),
        "If you have two callers, or the key has `models`, files, batches and stored responses are closed to it. List"
        " the operations of the key to open them. `[files]` alone closes chats.",
    ),
    SettingChange(
        "0.1.0",
        "default",
        ("limits", "held_bytes"),
        "It limits all bytes that gatepass holds for clients. In a container the default is half of the memory limit,"
        " divided by the workers, or what fits. Set it to keep another value.",
    ),
    SettingChange(
        "0.1.0",
        "new",
        ("limits", "body_values"),
        "A JSON body with more than 500,000 commas and brackets outside of its texts gets 413. Raise the limit if a"
        " client sends more.",
    ),
    SettingChange(
        "0.2.0",
        "meaning",
        ("server", "watch"),
        "A file that is edited in place waits for `gatepass reload`. A file that replaces it applies by itself.",
    ),
    SettingChange(
        "0.2.0",
        "meaning",
        ("access", "keys", "*", "max_concurrent"),
        "It counts the requests in all workers together, and with `store` in all replicas. Raise it if you have"
        " several.",
    ),
    *(SettingChange("0.2.0", "removed", tuple(setting.split(".")), text) for setting, text in REMOVED.items()),
)
"""By version, the oldest first. A test holds each `setting` that was not removed against those of this version."""


def parsed_version(text: str) -> Version:
    """Return `1.2.3` as numbers. `1.2`, `1.2.0rc1` and `1.2.0.dev1` are `1.2.0`. Raises ValueError for another form."""
    found = _VERSION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a version such as {__version__}")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def removal(change: SettingChange) -> str:
    return f"was removed in {change.version}: {change.text}"


def drop_removed(
    document: ConfigDocument, changes: Sequence[SettingChange] = CHANGES, version: str = __version__
) -> None:
    """Drop each setting that this minor version removed, and warn of it. A later one rejects it."""
    for change in changes:
        is_over = parsed_version(version)[:2] > parsed_version(change.version)[:2]
        if change.kind != "removed" or is_over or change.setting == tuple(PRESET.split(".")):
            continue
        for path, _ in list(matches(document.tree, change.setting)):
            place = f"{document.origin(path)}: {dotted(path)}"
            document.warnings.append(f"{place}: {removal(change)} A later minor version rejects it.")
            del lookup(document.tree, path[:-1])[path[-1]]


def since(
    version: str, tree: Any, changes: Sequence[SettingChange] = CHANGES
) -> Iterator[tuple[SettingPath, SettingChange]]:
    """Yield the changes after `version` that concern the configuration `tree`, each with the path of its setting.

    A new setting and a default concern those who do not set it, and a meaning those who do. `load` reports a setting
    that was removed.
    """
    for change in changes:
        if change.kind == "removed" or parsed_version(change.version) <= parsed_version(version):
            continue
        *block, name = change.setting
        if change.kind == "meaning":
            yield from ((path, change) for path, _ in matches(tree, change.setting))
        elif "*" not in block:
            if lookup(tree, change.setting) is None:
                yield change.setting, change
        else:
            blocks = matches(tree, tuple(block))
            yield from (((*path, name), change) for path, found in blocks if name not in dict(children(found)))
