"""The settings that versions of gatepass changed.

`load` accepts a setting that is gone for one minor version, and warns. `gatepass check --from` reports what concerns a
configuration, and docs/upgrade.md lists everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gatepass import __version__
from gatepass.config.document import (
    ConfigDocument,
    ConfigProblem,
    SettingPath,
    SettingPattern,
    ValueOrigin,
    children,
    dotted,
    lookup,
    matches,
)
from gatepass.config.references import PREFIX

Version = tuple[int, int, int]
_VERSION = re.compile(
    r"v?([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?"
    r"(?:(?:a|b|rc)[0-9]+)?(?:\.post[0-9]+)?(?:\.dev[0-9]+)?(?:\+[a-z0-9.]+)?"
)
"""With the suffixes of a version in its normal form (packaging.python.org, version specifiers)."""


def _variable(pattern: SettingPattern) -> str | None:
    """Return the variable of a limit, or that which the table names itself."""
    match pattern:
        case ("limits", name):
            return f"{PREFIX}LIMITS_{name.upper()}"
        case (name,) if name.startswith(PREFIX):
            return name
    return None


@dataclass(frozen=True, slots=True)
class SettingChange:
    """What one version changed about one setting.

    `text` is for the operator: the difference, and what to do. `replacement` is the new name of a renamed setting: it
    begins as `setting` does, up to the last star. The variable of a limit changes with the limit, which stays under
    `limits`. For another variable `setting` is its name alone: `("GATEPASS_PROXY",)`.

    Raises ValueError for a change that `load` could not apply to every configuration.
    """

    version: str
    kind: Literal["renamed", "removed", "default", "meaning", "new"]
    setting: SettingPattern
    text: str
    replacement: SettingPattern = ()

    def __post_init__(self) -> None:
        former, new = (".".join(pattern).rpartition("*")[0] for pattern in (self.setting, self.replacement))
        loses_variable = (_variable(self.setting) is None) is not (_variable(self.replacement) is None)
        # an item has no name, and an item of another list has another index
        if self.setting[-1] == "*" or (self.kind == "renamed" and (former != new or loses_variable)):
            raise ValueError(f"gatepass cannot apply a change of {self.setting} to {self.replacement}")

    @property
    def is_gone(self) -> bool:
        return self.kind in ("renamed", "removed")

    def target(self, path: SettingPath) -> SettingPath:
        """Return the new path of the setting at `path`; empty if it has none."""
        return tuple(path[index] if part == "*" else part for index, part in enumerate(self.replacement))


CHANGES: tuple[SettingChange, ...] = (
    SettingChange(
        "0.1.0",
        "meaning",
        ("server", "watch"),
        "A file that is rewritten in place gives no key more access and moves no upstream until `gatepass reload`.",
    ),
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
        "removed",
        ("log", "bodies"),
        "`gatepass capture` keeps whole bodies in memory for some minutes, and `gatepass show ID` shows them.",
    ),
)
"""By version, the oldest first. A test holds each `setting` that is not gone, and each `replacement`, against the
settings of this version. If a later version renames a `replacement` again, it becomes the newest name here too.
"""


def parsed_version(text: str) -> Version:
    """Return `1.2.3` as numbers. `1.2`, `1.2.0rc1` and `1.2.0.dev1` are `1.2.0`. Raises ValueError for another form."""
    found = _VERSION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a version such as {__version__}")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def is_accepted(change: SettingChange, version: str = __version__) -> bool:
    """Whether `version` still accepts the setting that is gone: until the next minor version."""
    return parsed_version(version)[:2] <= parsed_version(change.version)[:2]


def gone(change: SettingChange, new: str) -> str:
    """Return what became of the setting, whose new name is `new`: `was renamed to X in 0.2.0`."""
    if change.kind == "renamed":
        return f"was renamed to {new} in {change.version}"
    return f"was removed in {change.version}: {change.text}"


_LATER = "A later minor version rejects the former name."


def gone_setting(path: SettingPath, changes: Sequence[SettingChange] = CHANGES) -> str | None:
    """Return what became of the setting at `path`, if a version removed or renamed it."""
    for change in changes:
        is_meant = change.is_gone and len(change.setting) == len(path)
        if is_meant and all(given in ("*", str(part)) for given, part in zip(change.setting, path, strict=True)):
            return gone(change, dotted(change.target(path)))
    return None


def accept_former_names(
    document: ConfigDocument, changes: Sequence[SettingChange] = CHANGES, version: str = __version__
) -> None:
    """Move each setting with a former name to its new one, remove those without a new one, and warn of both."""
    for change in changes:
        if not change.is_gone or not is_accepted(change, version):
            continue
        for path, value in list(matches(document.tree, change.setting)):
            target = change.target(path)
            what = gone(change, dotted(target))
            if target and lookup(document.tree, target) is not None:
                document.add_problem(path, f"{what}, and {dotted(target)} is set too: remove it")
                continue
            place = f"{document.origin(path)}: {dotted(path)}"
            document.warnings.append(f"{place}: {what}. {_LATER}")
            document.move(path, target, value)


def with_new_variables(
    environment: Mapping[str, str], changes: Sequence[SettingChange] = CHANGES, version: str = __version__
) -> tuple[dict[str, str], list[str], list[ConfigProblem]]:
    """Return `environment` without former names, a warning for each, and a problem if the new name is set too."""
    found, warnings, problems = dict(environment), [], []
    for change in changes:
        former, new = _variable(change.setting), _variable(change.replacement)
        if former is None or not change.is_gone or not is_accepted(change, version):
            continue
        if not (value := found.pop(former, "")):
            continue  # an empty variable is unset
        what = gone(change, str(new))
        if new is not None and found.get(new):
            text = f"{what}, and {new} is set too: remove it"
            problems.append(ConfigProblem((), text, ValueOrigin(f"environment {former}")))
            continue
        warnings.append(f"{former}: {what}. {_LATER}")
        if new is not None:
            found[new] = value
    return found, warnings, problems


def since(
    version: str, tree: Any, changes: Sequence[SettingChange] = CHANGES
) -> Iterator[tuple[SettingPath, SettingChange]]:
    """Yield the changes after `version` that concern the configuration `tree`, each with the path of its setting.

    A new setting and a default concern those who do not set it, and a meaning those who do. `load` reports a setting
    that is gone.
    """
    for change in changes:
        if change.is_gone or parsed_version(change.version) <= parsed_version(version):
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
