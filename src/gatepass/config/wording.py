"""List all settings, and translate pydantic's errors into sentences with "did you mean".

No sentence quotes a value that may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gatepass.config.block import BASE_PATH, HASH, HEADER_NAME, NAME, ORIGIN
from gatepass.config.credential.kinds import KINDS, VARIABLE
from gatepass.config.document import SettingPath, SettingPattern, lookup
from gatepass.config.model import HOST_NAME, Config
from gatepass.config.network import FIELD_NAME, PARAMETER
from gatepass.config.references import Reference
from gatepass.config.upstream import API_VERSION, CODE

NEAR = 0.7
"""The least similarity of a typing error. With difflib's 0.6, `refresh_before` would be `refresh_token`."""


def all_settings() -> Mapping[SettingPattern, frozenset[str]]:
    """Return the pattern of each setting, such as `("upstreams", "*", "base_url")`, with its types of credential.

    The types are those that have the setting. A setting outside of credentials has none.
    """
    found: dict[SettingPattern, frozenset[str]] = {}
    for pattern, member in _walk(Config, (), ""):
        found[pattern] = found.get(pattern, frozenset()) | ({member} if member else frozenset())
    return found


def _walk(block: type[BaseModel], prefix: SettingPattern, member: str) -> Iterator[tuple[SettingPattern, str]]:
    """Yield the pattern of each setting, with the credential type whose block it is in, or an empty text."""
    for name, field in block.model_fields.items():
        pattern = (*prefix, field.alias or name)
        yield pattern, member
        for suffix, inner in _blocks(field.annotation):
            type_field = inner.model_fields.get("type")  # the discriminator of the credentials' union
            inner_member = str(get_args(type_field.annotation)[0]) if type_field else member
            yield from _walk(inner, (*pattern, *suffix), inner_member)


def _blocks(annotation: Any) -> Iterator[tuple[SettingPattern, type[BaseModel]]]:
    """Yield the blocks inside a type with their paths: `dict[str, UpstreamConfig]` has `("*",)`."""
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


def unknown_setting(path: SettingPath, tree: Any) -> str:
    """Return the problem of an unknown name, with the nearest name of its block."""
    kind = lookup(tree, (*path[:2], "type"))  # of a credential
    siblings = [
        pattern[-1]
        for pattern, types in all_settings().items()
        if len(pattern) == len(path)
        and all(part in ("*", name) for part, name in zip(pattern[:-1], map(str, path), strict=False))
        and (not types or kind in types)
    ]
    return f"is not a setting{did_you_mean(str(path[-1]), siblings)}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the name of `known` that differs from `word` by its case or by a typing error."""
    same = [name for name in known if name.lower() == word.lower()]
    return next(iter(same or get_close_matches(word, known, n=1, cutoff=NEAR)), None)


def did_you_mean(word: str, known: list[str]) -> str:
    """Return `; did you mean X?`, or the list of known words if none is similar, or an empty text without any."""
    if near := nearest(word, known):
        return f"; did you mean {near}?"
    return f"; there is {', '.join(known)}" if known else ""


PATTERNS: Mapping[str, str] = {
    NAME: "a name is 1 to 63 letters, digits, dots, underscores or hyphens, the first a letter or digit",
    HASH: "expects sha256: and 64 hexadecimal digits in lower case, as `gatepass keys new` prints them",
    HEADER_NAME: "expects the name of a header: letters, digits and hyphens",
    FIELD_NAME: "expects the name of a header: letters, digits, hyphens and underscores",
    CODE: "expects a code as the upstream writes it: letters, digits and . _ : -",
    HOST_NAME: "expects the name of a host, without a port: gatepass.corp.example",
    PARAMETER: "expects the name of a query parameter: letters, digits and . _ ~ -",
    VARIABLE: "expects the name of an environment variable: letters, digits and underscores, no digit first",
    BASE_PATH: "expects segments that begin with a slash, none at the end: /llm",
    API_VERSION: "expects a version as Azure writes it, such as 2024-10-21: letters, digits and . _ -",
    ORIGIN: "expects an origin as browsers send it: https://chat.corp.example, in lower case, with a scheme, without"
    " underscores, a path or a slash at the end; or *",
}
"""The message for each pattern of the configuration's fields."""
_TYPES: Mapping[str, str] = {
    "int_type": "expects a whole number",
    "float_type": "expects a number",
    "bool_type": "expects true or false",
    "string_type": "expects a text",
    "list_type": "expects a list",
    "model_type": "expects a block of settings",
    "model_attributes_type": "expects a block of settings",
    "dict_type": "expects a block of names",
}
_OTHERS: Mapping[str, str] = {
    "finite_number": "expects a finite number",
    "missing": "is missing",
    "union_tag_not_found": f"is missing: {', '.join(KINDS)}",
    "string_too_short": "is empty",
    "too_short": "is empty: at least one is needed",
}
_BOUNDS: Mapping[str, str] = {
    # `g`, because pydantic has a float here: 0.0.
    "greater_than": "expects more than {gt:g}",
    "greater_than_equal": "expects {ge:g} or more",
    "less_than_equal": "expects {le:g} or less",
}
_UNITS: Mapping[str, str] = {"_s": " of seconds", "_bytes": " of bytes"}
_EMPTY = "is empty: set it, or remove the line"


def explained_errors(error: ValidationError, tree: Any) -> Iterator[tuple[SettingPath, str]]:
    """Yield each error of pydantic as the path in the file and a sentence."""
    for detail in error.errors(include_url=False, include_input=False):
        path = _path(detail)
        yield path, _sentence(detail, path, tree)


def unknown_paths(error: ValidationError) -> set[SettingPath]:
    """Return the paths of `error` at which no setting exists."""
    found = error.errors(include_url=False, include_input=False)
    return {_path(detail) for detail in found if detail["type"] == "extra_forbidden"}


def _path(detail: ErrorDetails) -> SettingPath:
    """Return the path as the file has it, without pydantic's union tag and its mark of a key."""
    loc = detail["loc"]
    if loc[-1:] == ("[key]",):
        loc = loc[:-1]
    if detail["type"].startswith("union_tag"):
        return (*loc, "type")
    return loc[:2] + loc[3:] if loc[:1] == ("credentials",) else loc


def _sentence(detail: ErrorDetails, path: SettingPath, tree: Any) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    value = lookup(tree, path)
    match kind:
        case "extra_forbidden":
            return unknown_setting(path, tree)
        case "missing" if path[-1] == "token_url" and lookup(tree, (*path[:-1], "issuer")) is not None:
            return "is missing: copy token_endpoint from ISSUER/.well-known/openid-configuration"
        case "value_error":
            return str(context["error"])
        case "literal_error":
            return _choice(value, path, detail, _listed(context["expected"]))
        case "union_tag_invalid":
            return _choice(value, path, detail, _listed(context["expected_tags"]))
        case "string_pattern_mismatch":
            return PATTERNS[context["pattern"]]
        case _ if kind in _BOUNDS:
            return _BOUNDS[kind].format(**context)
        case "model_type" if type(value) is str and path[:-1] in (("models",), ("operations",)):
            # another text than the name of an upstream may be a secret
            upstream = "NAME" if lookup(tree, ("upstreams", value)) is None else value
            return f"{_TYPES[kind]}, not a text: write {{upstream: {upstream}}}"
        case _ if kind not in _TYPES:
            return _OTHERS.get(kind, detail["msg"])
        case _ if value is None:
            return _EMPTY
    # nothing about a reference's value is revealed, not even its type
    is_number = kind in ("int_type", "float_type")
    unit = next((unit for end, unit in _UNITS.items() if is_number and str(path[-1]).endswith(end)), "")
    text = f"{_TYPES[kind]}{unit}"
    if isinstance(value, Reference):
        return f"{text}, but a reference is always a text: write the value itself"
    return f"{text}, not {_shape(value)}"


def _shape(value: Any) -> str:
    match value:
        case str():
            return "a text"
        case bool():
            return "true or false"
        case float():
            return "a number with a point or an exponent"
        case int():
            return "a number"
        case list():
            return "a list"
        case _:
            return "a block"


def _choice(value: Any, path: SettingPath, detail: ErrorDetails, expected: list[str]) -> str:
    is_key = detail["loc"][-1:] == ("[key]",)
    word = str(path[-1]) if is_key else value
    if word is None:
        return _EMPTY
    if isinstance(word, Reference):
        return f"expects {' or '.join(expected)}"
    if not isinstance(word, str):
        return f"expects {' or '.join(expected)}, not {_shape(word)}"
    return f"{word!r} is not known here{did_you_mean(word, expected)}"


def _listed(expected: str) -> list[str]:
    """Split pydantic's `'a', 'b' or 'c'` into names, of which some have a blank."""
    return re.findall(r"'([^']+)'", expected)
