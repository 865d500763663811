"""Write the entries of docs/reference/configuration.md and credentials.md, from the model of the configuration."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from docs.entries import Entry, joined, listed, sentence, unwrapped
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gatepass.auth.model_access import DESTINATIONS, MODELS
from gatepass.config.access import moment
from gatepass.config.block import (
    HASH,
    HEADER_NAME,
    NAME,
    ORIGIN,
    checked_base_url,
    checked_proxy_url,
    checked_url,
    field_docstrings,
)
from gatepass.config.credential.base import Credential, HttpReply
from gatepass.config.credential.kinds import KINDS, VARIABLE
from gatepass.config.model import Config, checked_store_url
from gatepass.config.network import FIELD_NAME, PARAMETER, Network, TimeoutSettings, TokenPlacement, header_template
from gatepass.config.routes import Capabilities, Rules
from gatepass.config.upstream import CODE
from gatepass.types import Secret

TWELVE = (
    "server.host",
    "upstreams.NAME.base_url",
    "upstreams.NAME.credential",
    "credentials.NAME.type",
    "credentials.NAME.token_url (oauth2)",
    "credentials.NAME.client_id (oauth2)",
    "credentials.NAME.client_secret (oauth2)",
    "credentials.NAME.scope (oauth2)",
    "network.ca_file",
    "models.NAME.name",
    "access.keys[].hash",
    "access.keys[].profile",
)
"""The settings that most files have, by their headings."""
SHARED: Mapping[str, type[BaseModel]] = {
    "reply": HttpReply,
    "token_placement": TokenPlacement,
    "network": Network,
    "timeouts": TimeoutSettings,
    "rules": Rules,
}
"""Blocks that several blocks contain. Each has its own section."""
OWN_SECTION = ("capabilities", "operations")
"""Blocks of a model with their own section."""
FIRST: Mapping[str, str] = {
    "limits": "access.keys[].limits",
    "tokens": "access.keys[].limits.requests",
    "rejection": "upstreams.NAME.rejection",
}
"""Blocks that several blocks contain, each with the one place at which its members are described."""
TYPES: Mapping[Any, str] = {
    checked_url: "URL",
    checked_proxy_url: "URL of a proxy",
    checked_base_url: "URL",
    checked_store_url: "URL of a store",
    NAME: "name",
    HASH: "`sha256:` and 64 hexadecimal digits",
    HEADER_NAME: "header name",
    FIELD_NAME: "header name",
    PARAMETER: "name of a query parameter",
    VARIABLE: "name of an environment variable",
    CODE: "error code",
    ORIGIN: "origin, or `*`",
    header_template: "text with `{token}`",
    moment: "date or RFC 3339 time",
    Secret: "secret text",
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Any: "JSON value",
}
"""A type in words, by its validator, its pattern or itself. A validator comes before the type that it checks."""


def type_text(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return the type in words, with the bounds of a number."""
    parts = [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
    keys = [getattr(part, "func", None) or getattr(part, "pattern", None) for part in parts]
    if found := next((TYPES[key] for key in keys if key in TYPES), ""):
        return found
    written = [getattr(part, "json_schema_input_type", None) for part in parts]
    # a setting with a shorter form
    annotation = next((given for given in written if get_origin(given) in (Union, UnionType)), annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0], arguments[1:])
    if origin is Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, UnionType):
        joint = " or " if all(get_origin(one) is None for one in arguments) else ", or "
        return joint.join(type_text(argument) for argument in arguments if argument is not NoneType)
    if origin is list:
        return f"list: {type_text(arguments[0])}"
    if origin is dict:
        return f"map: {type_text(arguments[0])} to {type_text(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "block"
    return TYPES[annotation] + "".join(bounds(parts))


def bounds(parts: Sequence[Any]) -> Iterator[str]:
    for name, words in (("gt", "above"), ("ge", "at least"), ("le", "at most")):
        values = [getattr(part, name) for part in parts if getattr(part, name, None) is not None]
        yield from (f", {words} {value:g}" for value in values)


@dataclass(frozen=True)
class FieldText:
    """The docstring of a field: paragraphs, of which some begin with `Unit:`, `Example:` or `Danger:`."""

    purpose: str
    unit: str
    example: str
    danger: str

    @classmethod
    def parse(cls, text: str) -> FieldText:
        labelled = dict.fromkeys(("Unit", "Example", "Danger"), "")
        purpose = []
        for paragraph in unwrapped(text).split("\n\n"):
            label, colon, rest = paragraph.partition(": ")
            if colon and label in labelled:
                labelled[label] = rest
            else:
                purpose.append(paragraph)
        return cls("\n\n".join(purpose), labelled["Unit"], labelled["Example"], labelled["Danger"])


def json_of(value: Any) -> str:
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value, ensure_ascii=False)


def setting_entry(title: str, field: FieldInfo, docstring: str, note: str) -> Entry:
    text = FieldText.parse(re.sub(r"\bNone\b", "`null`", docstring))
    name = title.rpartition(".")[2]
    kind = type_text(field.annotation, field.metadata)
    value = None if field.is_required() else field.default
    if isinstance(value, BaseModel):
        value = {}
    default = "none; the setting is required" if field.is_required() else f"`{json_of(value)}`"
    is_unset = not field.is_required() and (value is None or value in ({}, [], ()))
    example = text.example or derived_example(field.annotation, value)
    is_number = "number" in kind
    unit = next((unit for end, unit in SUFFIXES.items() if is_number and name.endswith(end)), text.unit)
    facts = {"Type": kind} if is_unset else {"Type": kind, "Default": default}
    if is_number:
        facts["Unit"] = unit
    facts["Example"] = f"`{name}: {example}`" if example else ""
    purpose, _, more = text.purpose.partition("\n\n")
    details = [
        introduced(more, "Values"),
        *(f"{words}\n\n{by_initial(names)}" for words, names in LISTS.get(title, ())),
    ]
    is_secret = is_of_secret(field.annotation) and "reference" not in text.purpose
    danger = text.danger or ("Write a reference, not the secret itself." if is_secret else "")
    return Entry(title, purpose, facts, danger, note, details="\n\n".join(filter(None, details)))


def is_of_secret(annotation: Any) -> bool:
    return annotation is Secret or (get_origin(annotation) is not dict and any(map(is_of_secret, get_args(annotation))))


def introduced(details: str, word: str) -> str:
    """Put `word` before a list, which would continue the list of facts otherwise."""
    return f"{word}:\n\n{details}" if details.startswith("- ") else details


LISTS: Mapping[str, Sequence[tuple[str, Iterable[str]]]] = {
    "access.keys[].models": [
        (
            "These members name models, as do each `model` in their objects and the `model` of each entry of `tools`:",
            MODELS,
        ),
        ("These members name a server or a credential, and are always rejected:", DESTINATIONS),
    ],
}
"""Lists of the code that belong to a setting, each with the words before it."""


def by_initial(names: Iterable[str]) -> str:
    """Return `names` as a list with an item for each initial letter."""
    groups = itertools.groupby(sorted(names), lambda name: name[0])
    return "\n".join(f"- {listed(group)}" for _, group in groups)


SUFFIXES: Mapping[str, str] = {"_bytes_per_s": "bytes per second", "_bytes": "bytes", "_s": "seconds"}


def derived_example(annotation: Any, default: Any) -> str:
    """Return a choice other than the default, or a number's default."""
    if isinstance(default, bool):
        return json_of(not default)
    if bool in get_args(annotation):  # without a default
        return json_of(True)
    choices = [argument for part in (annotation, *get_args(annotation)) for argument in get_args(part)]
    if isinstance(default, int | float) and not isinstance(default, bool):
        return json_of(default)
    return next((choice for choice in choices if isinstance(choice, str) and choice != default), "")


def blocks_in(annotation: Any, suffix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the blocks in a type, with `.NAME` for a map and `[]` for a list."""
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        yield suffix, annotation
    for argument in get_args(annotation):
        inner = {dict: ".NAME", list: "[]"}.get(get_origin(annotation) or annotation, "")
        yield from blocks_in(argument, suffix + inner)


def settings(block: type[BaseModel], prefix: str, note: str = "", without: Collection[str] = ()) -> Iterator[Entry]:
    """Yield an entry for each setting of `block`, and of the blocks in it without a section."""
    docstrings = field_docstrings(block)
    for field_name, field in block.model_fields.items():
        if field_name in without:
            continue
        name = field.alias or field_name
        inner = list(blocks_in(field.annotation))
        is_elsewhere = prefix and (name in OWN_SECTION or (name in SHARED and inner[0][1] in SHARED[name].__mro__))
        first = FIRST.get(name, f"{prefix}.{name}") if inner else f"{prefix}.{name}"
        is_elsewhere = is_elsewhere or first != f"{prefix}.{name}"
        entry = setting_entry(f"{prefix}.{name}", field, docstrings.get(field_name, ""), note)
        if inner and name in (*SHARED, *OWN_SECTION):
            link = "modelsnameoperationsname" if name == "operations" else name
            kind = f"[`{name}`](#{link})" + (" without `proxy`" * (prefix == "store"))
            entry = dataclasses.replace(entry, facts={**entry.facts, "Type": kind})
        elif inner and is_elsewhere:
            kind = f"as [`{first}`](#{anchor_of(first)})"
            kind += " with `minute` alone" * (f"{prefix}.{name}" == "access.keys[].end_users.limits")
            entry = dataclasses.replace(entry, facts={**entry.facts, "Type": kind})
        yield entry
        if not is_elsewhere:
            for suffix, nested in inner:
                yield from settings(nested, f"{prefix}.{name}{suffix}", note)


def section(title: str, text: str, entries: Iterable[Entry], example: str = "") -> list[Entry | str]:
    if not text:
        raise ValueError(f"the section {title} has no purpose: add it to the code")
    shown = f"\n```yaml\n{example}\n```\n" if example else ""
    words = re.sub(r"\bNone\b", "`null`", unwrapped(text))
    return [f"## `{title}`\n\n{words}\n{shown}", *entries]


def settings_table(entries: Iterable[Entry], page_of: Callable[[Entry], str]) -> str:
    """Return a table of settings: the name, the default, and the first sentence of the purpose."""
    lines = ["| setting | default | what it does |", "|---|---|---|"]
    for entry in entries:
        link = f"{page_of(entry)}#{anchor_of(heading_of(entry))}"
        default = entry.facts.get("Default", "–")
        default = "required" if "required" in default else default
        first = re.split(r"(?<=[.:]) |\n", entry.purpose)[0].rstrip(":").replace("|", "\\|")
        lines.append(f"| [`{entry.title}`]({link}) | {default} | {sentence(first)} |")
    return "\n".join(lines)


def heading_of(entry: Entry) -> str:
    return f"{entry.title} ({entry.note})" if entry.note else entry.title


def anchor_of(heading: str) -> str:
    """Return the anchor of a heading: lower case, without punctuation, hyphens for spaces."""
    return re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-")


def twelve() -> str:
    by_heading = {
        heading_of(entry): entry for page in setting_pages().values() for entry in page if isinstance(entry, Entry)
    }
    entries = [by_heading[heading] for heading in TWELVE]
    return settings_table(entries, page_of=lambda entry: "credentials.md" * entry.title.startswith("credentials"))


def all_settings() -> str:
    return joined(setting_pages()["configuration.md"])


def all_credentials() -> str:
    text = joined(setting_pages()["credentials.md"])
    return re.sub(r"\]\(#(token_placement|network|timeouts)\)", r"](configuration.md#\1)", text)


@functools.cache
def setting_pages() -> Mapping[str, Sequence[Entry | str]]:
    """Return the sections of the two pages of settings, by the page."""
    parts: list[Entry | str] = []
    credentials: list[Entry | str] = []
    docstrings = field_docstrings(Config)
    for name, field in Config.model_fields.items():
        inner = list(blocks_in(field.annotation))
        text = FieldText.parse(docstrings[name])
        if name == "credentials":
            credentials += credential_sections(text, [block for _, block in inner])
            credentials += shared_sections("reply")
            continue
        suffix, block = inner[0]
        path = f"{name}{suffix}"
        parts += section(path, text.purpose, settings(block, path), text.example)
        if name == "upstreams":
            parts += shared_sections("token_placement", "timeouts")
        if name == "models":
            path = "models.NAME.capabilities"
            parts += section("capabilities", Capabilities.__doc__ or "", settings(Capabilities, path))
            parts += shared_sections("rules")
    return {"configuration.md": parts, "credentials.md": credentials}


def overview() -> str:
    """Return a list of the blocks of a file, each with the first sentence of its purpose."""
    lines = []
    for name, field in Config.model_fields.items():
        suffix = "".join(suffix for suffix, _ in list(blocks_in(field.annotation))[:1])
        first = re.split(r"(?<=\.) ", FieldText.parse(field_docstrings(Config)[name]).purpose)[0]
        target = f"{'credentials.md' if name == 'credentials' else ''}#{anchor_of(name + suffix)}"
        lines.append(f"- [`{name}`]({target}): {first}")
    return "\n".join(lines)


def shared_sections(*names: str) -> Iterator[Entry | str]:
    for name in names:
        prefix = "credentials.NAME.reply" if name == "reply" else name
        yield from section(name, SHARED[name].__doc__ or "", settings(SHARED[name], prefix))


def credential_sections(text: FieldText, kinds: Iterable[type[BaseModel]]) -> Iterator[Entry | str]:
    kinds = list(kinds)
    common = setting_entry(
        "credentials.NAME.type",
        FieldInfo(annotation=Literal[KINDS]),  # type: ignore[arg-type]  # the choices are those of the union
        "The kind of token source. It decides which other settings exist.\n\nExample: oauth2",
        "",
    )
    entries = [common, *settings(Credential, "credentials.NAME", without=("type",))]
    yield from section("credentials.NAME", text.purpose, entries, text.example)
    for kind in kinds:
        name = get_args(kind.model_fields["type"].annotation)[0]
        without = Credential.model_fields
        yield from section(f"type: {name}", kind.__doc__ or "", settings(kind, "credentials.NAME", name, without))


@functools.cache
def setting_links() -> Mapping[str, str]:
    """Return the page and anchor of each setting that has one heading, by its name."""
    return {
        entry.title: f"{page}#{anchor_of(entry.title)}"
        for page, entries in setting_pages().items()
        for entry in entries
        if isinstance(entry, Entry) and not entry.note
    }
