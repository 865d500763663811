"""Complete pydantic's errors by names and patterns of settings, and "did you mean".

No sentence quotes a value that may be a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher, get_close_matches
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gatepass.config.block import BASE_PATH, HASH, HEADER_NAME, NAME, ORIGIN, Block
from gatepass.config.credential.kinds import BLOCKS, KINDS, VARIABLE
from gatepass.config.document import SettingPath, lookup
from gatepass.config.model import HOST_NAME, Config
from gatepass.config.network import FIELD_NAME, PARAMETER
from gatepass.config.upstream import API_VERSION, CODE
from gatepass.errors import documentation, retired

NEAR = 0.7
"""The least similarity of a typing error. With difflib's 0.6, `refresh_before` would be `refresh_token`."""

SHORT = 7
"""In a word of so many letters two other ones make another word: `bodies` is not `codes`."""


def _blocks(annotation: Any, path: SettingPath) -> Iterator[type[Block]]:
    """Yield the blocks of settings that may stand at `path` in a value of `annotation`."""
    if isinstance(annotation, type) and issubclass(annotation, Block):
        if not path:
            yield annotation
        for name, field in annotation.model_fields.items():
            if path[:1] == (field.alias or name,):
                yield from _blocks(field.annotation, path[1:])
        return
    for inner in get_args(annotation):
        yield from _blocks(inner, path[get_origin(annotation) in (dict, list) :])


def _names(path: SettingPath) -> Iterator[str]:
    """Yield the name of each setting in the block at `path`, in which pydantic puts the type of a credential."""
    root, rest = (BLOCKS[str(path[2])], path[3:]) if path[:1] == ("credentials",) else (Config, path)
    for block in _blocks(root, rest):
        yield from (field.alias or name for name, field in block.model_fields.items())


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the name of `known` that differs from `word` by its case or by a typing error."""
    same = [name for name in known if name.lower() == word.lower()]
    return next(iter(same or get_close_matches(word, known, n=1, cutoff=NEAR)), None)


def misspelt(word: str, known: Iterable[str]) -> str | None:
    """Return the `nearest` name if it has the same letters, or one or two other ones: other guesses would mislead."""
    near = nearest(word, known) or ""
    steps = SequenceMatcher(None, word.lower(), near.lower()).get_opcodes()  # of `word` alone if nothing is near
    differing = sum(max(i2 - i1, j2 - j1) for kind, i1, i2, j1, j2 in steps if kind != "equal")
    return near if differing <= 1 + (len(word) > SHORT) or sorted(word) == sorted(near) else None


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
BLOCK = "expects a block of settings"
KINDS_OF_ERROR: Mapping[str, str] = {
    "missing": "is missing",
    "string_type": "expects a text",
    "int_type": "expects a whole number",
    "float_type": "expects a number",
    "finite_number": "expects a number",
    "bool_type": "expects true or false",
    "list_type": "expects a list, such as [a, b]",
    "literal_error": "expects {expected}",
    "greater_than": "expects a number above {gt}",
    "greater_than_equal": "expects a number of at least {ge}",
    "less_than_equal": "expects a number of at most {le}",
    "too_short": "is empty: at least one is needed",
    "string_too_short": "is an empty text",
}
"""The message for each kind of pydantic's errors that has no other."""


GONE = {
    "extra_forbidden": "is gone",
    "list_type": "has a form that is gone",
    "literal_error": "has a value that is gone",
    "union_tag_invalid": "has a value that is gone",
}
"""What an error means if an earlier version accepted the setting, its form or its value."""


def explained_errors(error: ValidationError, tree: Any) -> Iterator[tuple[SettingPath, str]]:
    """Yield each error of pydantic as the path in the file and a sentence."""
    for detail in error.errors(include_url=False, include_input=False):
        # as the file has it, without pydantic's mark of a key and its union tag
        path = detail["loc"][:-1] if detail["loc"][-1:] == ("[key]",) else detail["loc"]
        if detail["type"].startswith("union_tag"):
            path = (*path, "type")
        elif path[:1] == ("credentials",):
            path = path[:2] + path[3:]
        gone = GONE.get(detail["type"], "")
        said = _gone(path, lookup(tree, path)) if gone else ""
        yield path, f"{gone}. {said}" if said else _sentence(detail, path, tree)


def _gone(path: SettingPath, value: Any) -> str:
    """Return what to do in place of a setting or a value that an earlier version had, "" for another."""
    place = ".".join("[]" if type(part) is int else str(part) for part in path).replace(".[]", "[]")
    setting = next((part for part in reversed(path) if type(part) is str), "")
    inside = [f"{place}.{name}" for name in value] if isinstance(value, dict) else []
    return retired(place, f"{setting}: {value}", *inside)


def _sentence(detail: ErrorDetails, path: SettingPath, tree: Any) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), lookup(tree, path)
    is_key = detail["loc"][-1:] == ("[key]",)
    match kind:
        case "extra_forbidden":
            near = misspelt(str(path[-1]), [*_names(detail["loc"][:-1])])
            lists_all = documentation("docs/reference/configuration.md", ": {} lists all")
            return f"is not a setting{f'; did you mean {near}?' if near else lists_all}"
        case "missing" if path[-1] == "token_url" and lookup(tree, (*path[:-1], "issuer")) is not None:
            return "is missing: copy token_endpoint from ISSUER/.well-known/openid-configuration"
        case "missing" if path[:2] == ("access", "jwt") and path[-1] == "name":
            group = lookup(tree, (*path[:-1], "group"))
            return f"is missing: metrics name the callers of this row by it{f'; write name: {group}' if group else ''}"
        case "value_error":
            return str(context["error"])
        case "string_pattern_mismatch":
            return PATTERNS[context["pattern"]]
        case _ if value is None and not is_key and kind not in ("missing", "union_tag_not_found"):
            return "is empty: set it, or remove the line"
        case "union_tag_invalid" | "union_tag_not_found":  # pydantic's text quotes the value, which may be a secret
            return f"expects one of {', '.join(KINDS)}"
        case "model_type" if type(value) is str and path[:-1] in (("models",), ("operations",)):
            # another text than the name of an upstream may be a secret
            upstream = "NAME" if lookup(tree, ("upstreams", value)) is None else value
            return f"{BLOCK}, not a text: write {{upstream: {upstream}}}"
        case "model_type" | "model_attributes_type" | "dict_type":  # pydantic's text names the class
            return BLOCK
        case "string_type" if isinstance(value, int | float):
            return "expects a text: put quotes around it"
        case "string_type" if isinstance(value, list):
            return "expects one text, not a list"
    bounds = {name: f"{bound:.12g}" if isinstance(bound, float) else bound for name, bound in context.items()}
    return KINDS_OF_ERROR[kind].format_map(bounds) if kind in KINDS_OF_ERROR else detail["msg"]
