"""Every setting there is, read off the model: for "did you mean" and the documentation's test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from gatepass.config.document import Pattern, lookup
from gatepass.config.model import Config
from gatepass.config.problem import Path, dotted

OTHERWISE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("url", "uri", "api_base", "openai_api_base", "endpoint", "host"), ("base_url", "token_url")),
        **dict.fromkeys(("token_endpoint", "token_uri"), ("token_url",)),
        **dict.fromkeys(("api_key", "key", "token"), ("key", "token", "credential")),
        **dict.fromkeys(("secret",), ("client_secret", "key", "token")),
    }
)
"""What clients, other gateways and other blocks call something: our names of it, the first one that is known there."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One name of the file. `members`: the `type`s of credential that have it; empty is all."""

    pattern: Pattern
    required: bool
    default: Any
    is_block: bool
    members: frozenset[str] = frozenset()


def all_settings() -> Mapping[Pattern, Setting]:
    """Every setting by its pattern: `("upstreams", "*", "base_url")`."""
    found: dict[Pattern, Setting] = {}
    for setting in _walk(Config, (), ""):
        known = found.get(setting.pattern)
        members = setting.members | (known.members if known else frozenset())
        found[setting.pattern] = Setting(setting.pattern, setting.required, setting.default, setting.is_block, members)
    return found


def _walk(block: type[BaseModel], prefix: Pattern, member: str) -> Iterator[Setting]:
    for name, field in block.model_fields.items():
        pattern = (*prefix, field.alias or name)
        blocks = list(_blocks(field.annotation))
        members = frozenset({member} if member else ())
        yield Setting(pattern, field.is_required(), field.default, bool(blocks), members)
        for suffix, inner in blocks:
            yield from _walk(inner, (*pattern, *suffix), _member(inner) or member)


def _blocks(annotation: Any) -> Iterator[tuple[Pattern, type[BaseModel]]]:
    """The blocks inside a type, each with the way to it: `dict[str, Upstream]` has `("*",)`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and origin is None and issubclass(annotation, BaseModel):
        yield (), annotation
    elif origin is Annotated:
        yield from _blocks(arguments[0])
    elif origin in (Union, UnionType):
        for argument in arguments:
            yield from _blocks(argument)
    elif origin in (dict, list):
        for suffix, block in _blocks(arguments[-1]):
            yield ("*", *suffix), block


def _member(block: type[BaseModel]) -> str:
    """The `type` that a member of a union answers to."""
    field = block.model_fields.get("type")
    return str(get_args(field.annotation)[0]) if field else ""


def pattern_of(path: Path, known: Mapping[Pattern, Setting]) -> Pattern:
    """`path` with `*` where the model has a name of the user's choice or an index."""
    prefixes = {pattern[:length] for pattern in known for length in range(len(pattern) + 1)}
    found: Pattern = ()
    for part in path:
        is_free = (*found, str(part)) not in prefixes and (*found, "*") in prefixes
        found = (*found, "*" if is_free else str(part))
    return found


def unknown_setting(path: Path, tree: Any) -> str:
    """What to tell somebody who wrote a name that this block does not have: its nearest one, or where that name is."""
    known = all_settings()
    *block, name = pattern_of(path, known)
    kind = _kind_around(path, tree)
    siblings = {p[-1]: s for p, s in known.items() if p[:-1] == tuple(block)}
    usable = [sibling for sibling, s in siblings.items() if not s.members or kind in s.members]
    near = _nearest(name, usable)
    if name in siblings:
        meant = f"; did you mean {near}?" if near in OTHERWISE.get(name, ()) else ""
        return f"belongs to type {' or '.join(sorted(siblings[name].members))}, not to {kind}{meant}"
    if near is not None:
        return f"is not a setting; did you mean {near}?"
    there = [p for p in known if p[-1] == name]
    inside = [p for p in there if p[: len(block)] == tuple(block) and "*" not in p[len(block) :]]
    if len(found := inside or there) == 1:
        place = found[0][len(block) :] if inside else found[0]
        return f"is not a setting here; did you mean {dotted(named(place))}?"
    return f"is not a setting; {_here(usable)}"


def _nearest(name: str, usable: list[str]) -> str | None:
    """The one of `usable` that `name` stands for elsewhere, that is spelled nearly so, or that alone has it in it."""
    if meant := [other for other in OTHERWISE.get(name, ()) if other in usable]:
        return meant[0]
    if near := get_close_matches(name, usable, n=1):
        return near[0]
    parts = [sibling for sibling in usable if name in sibling.split("_")]
    return parts[0] if len(parts) == 1 else None


def named(pattern: Pattern) -> Pattern:
    """As people write it: `NAME` where the model has a name of the user's choice."""
    return tuple("NAME" if part == "*" else part for part in pattern)


def _kind_around(path: Path, tree: Any) -> str | None:
    """The `type` of the outermost block around `path` that has one: the blocks inside it belong to it too."""
    stated = (lookup(tree, (*path[:length], "type")) for length in range(1, len(path)))
    return next((kind for kind in stated if isinstance(kind, str)), None)


def _here(names: list[str]) -> str:
    return f"known here: {', '.join(names)}"


def did_you_mean(word: str, known: list[str]) -> str:
    """`; did you mean X?`, or the whole list where nothing is near, or nothing where there is none."""
    if near := get_close_matches(word, known, n=1):
        return f"; did you mean {near[0]}?"
    return f"; there is {', '.join(known)}" if known else ""
