"""Write the tables of docs/reference/http.md, from the operation table, the lists of headers and docs/texts/http.yaml.

tests/docs/test_http_reference.py compares them with gatepass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from docs.entries import listed, read, table

from gatepass.dialects.base import FORWARDED, NOT_RELAYED, RELAYED, RELAYED_PREFIXES
from gatepass.protocols.messages import REQUEST_HEADERS
from gatepass.protocols.operations import OPERATIONS, PREFIXES
from gatepass.server.admin import ROUTES
from gatepass.server.pages import PATHS
from gatepass.server.ui import routes as ui_routes  # noqa: F401  # imported because it adds the routes of the page to ROUTES
from gatepass.types import CREDENTIALS, HOP_BY_HOP, SET_BY_GATEPASS, Hidden

TEXTS: Mapping[str, Any] = read("texts/http.yaml")


def operations() -> str:
    rows = []
    for row in OPERATIONS:
        does = TEXTS["operations"].get(row.path)
        text = f"{row.summary}. {does}" if does else row.summary
        rows.append((f"`{row.method} {PREFIXES[0]}{row.path}`", f"`{row.opened_by}`", text))
    return table(("path", "operation", "what it does"), rows)


def own_pages() -> str:
    rows = ((f"`GET {path}`", TEXTS["pages"][path]["returns"], TEXTS["pages"][path]["key"]) for path in PATHS)
    return table(("path", "what it returns", "key"), rows)


PLACES: Mapping[str | None, str] = {None: "both", "socket": "control socket", "page": "page"}


def admin_routes() -> str:
    rows = []
    for row in ROUTES:
        named = f"{row.method} {row.path}"
        document = f"`{row.document.__name__}`" if row.document else "–"
        rows.append((f"`{row.method} /{row.path}`", TEXTS["admin"][named], document, row.role, PLACES[row.only]))
    return table(("route", "what it does", "document", "least role", "where"), rows)


def documents() -> str:
    """Return the members of each document of an admin route, and of the documents in them."""
    found: dict[str, tuple[str, str]] = {}
    wanted = [row.document for row in ROUTES if row.document]
    while wanted:
        kind = wanted.pop(0)
        if kind.__name__ in found:
            continue
        hints, base = get_type_hints(kind), next(one for one in kind.__mro__[1:] if one is not Hidden)
        wanted += [one for hint in hints.values() for one in _inside(hint) if issubclass(one, msgspec.Struct)]
        inherited = () if base is msgspec.Struct else get_type_hints(base)
        members = [_member(name, hint) for name, hint in hints.items() if name not in inherited]
        if inherited:
            wanted.append(base)
            members.insert(0, f"as `{base.__name__}`")
        found[kind.__name__] = f"`{kind.__name__}`", ", ".join(members)
    return table(("document", "members"), (found[name] for name in sorted(found)))


def _inside(hint: Any) -> Iterator[type]:
    """Yield the classes in a type."""
    if isinstance(hint, type) and not get_args(hint):
        yield hint
    for one in get_args(hint):
        yield from _inside(one)


def _member(name: str, hint: Any) -> str:
    """Name a member, with `?` if it may be null. The type is left out of a text, and of a number with its unit."""
    is_union = get_origin(hint) in (UnionType, Union)
    has_null = "?" if is_union and type(None) in get_args(hint) else ""
    words = _words(reduce(or_, (one for one in get_args(hint) if one is not type(None))) if has_null else hint)
    if words.startswith("list of "):
        name, words = f"{name}[]", words.removeprefix("list of ")
    is_known = words == "text" or (words == "number" and name.endswith(("_s", "_bytes")))
    return f"`{name}{has_null}`" if is_known else f"`{name}{has_null}` {words}"


WORDS: Mapping[Any, str] = {str: "text", bool: "boolean", int: "number", float: "number", type(None): "null"}


def _words(hint: Any) -> str:
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (list, tuple, Sequence):
        return f"list of {_words(inner[0])}"
    if kind is dict:
        return f"{_words(inner[1])} by name"
    if kind is Literal:
        return " or ".join(f"`{one}`" for one in inner)
    if inner:
        words = " or ".join(_words(one) for one in inner if one is not msgspec.UnsetType)
        return f"{words}, may be absent" if msgspec.UnsetType in inner else words
    return WORDS.get(hint) or f"`{hint.__name__}`"


def header_table(kind: str) -> str:
    """Return the table of the headers that gatepass adds to a reply (`added`) or reads (`read`)."""
    rows = []
    for name, texts in TEXTS[kind].items():
        request, response = texts.get("request"), texts.get("response")
        used = f"{response}; in a request: {request}" if request and response else request or response
        rows.append((f"`{name}`", texts["meaning"], used, f"`{texts['example']}`"))
    if kind == "read":
        return table(("header", "meaning", "in a request"), (row[:3] for row in rows))
    return table(("header", "meaning", "sent with", "example"), rows)


def forwarded() -> str:
    names = sorted(name.decode() for name in FORWARDED)
    rows = [(name, TEXTS["forwarded"][name]) for name in names]
    shown = table(("header", "meaning"), ((f"`{name}`", texts["meaning"]) for name, texts in rows))
    return f"""{shown}

Requests of the Messages API also keep {listed(REQUEST_HEADERS)}.

gatepass writes or removes these: {decoded(SET_BY_GATEPASS)}. It adds the headers of
`upstreams.NAME.headers` and of the credential.

No setting forwards these: {decoded(HOP_BY_HOP | CREDENTIALS)}."""


def relayed() -> str:
    names = {name.decode() for name in RELAYED} | {f"{prefix.decode()}*" for prefix in RELAYED_PREFIXES}
    rows = []
    for title, texts in TEXTS["groups"].items():  # the first pattern that matches decides
        own = {name for name in names if re.search(texts["pattern"], name)}
        names -= own
        rows.append((f"{title}: {texts['meaning']}", listed(own), f"`{texts['example']}`"))
    shown = table(("group", "headers", "example"), rows)
    return f"{shown}\n\nOf `content-*`, these are not relayed: {decoded(NOT_RELAYED)}."


def decoded(names: Iterable[bytes]) -> str:
    return listed(name.decode() for name in names)
