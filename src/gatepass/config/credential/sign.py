"""`sign`: a request that proves itself by an HMAC over a text of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from gatepass.config.block import Block, SecretText

SIGNATURE = "signature"
MOMENTS = ("timestamp", "timestamp_ms", "time", "nonce")
"""Values of one request: epoch seconds, epoch milliseconds, ISO 8601 in UTC, and 32 random hexadecimal digits."""
BODIES = ("body", "body_sha256")
ABOUT = ("method", "path", *BODIES)
"""Of the request itself; in `sign.text` alone."""
_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
_NUMBER = re.compile(r"\{(timestamp|timestamp_ms):number\}\Z")
"""A whole text of a JSON body that becomes a number: there are issuers that take no text for a time."""


class Sign(Block):
    algorithm: Literal["sha256", "sha1", "sha512"] = "sha256"
    """The hash inside the HMAC (RFC 2104)."""
    secret: SecretText
    """The key, best by reference."""
    encoding: Literal["hex", "base64"] = "hex"
    """How the signature is written."""
    text: Annotated[str, Field(min_length=1)]
    """What is signed: `"{app_id}\\n{timestamp}\\n{nonce}"`."""


def names_in(text: str) -> list[str]:
    """The `{name}`s of a template, in order."""
    return _PLACE.findall(text)


def is_place(text: str) -> bool:
    """Whether something else always stands for `text` as a whole, so that it may be shown."""
    place = _NUMBER.match(text) or _PLACE.fullmatch(text)
    return place is not None and place[1] in (*MOMENTS, SIGNATURE)


def with_values(text: str, values: Mapping[str, str]) -> str:
    """`text`, each `{name}` that `values` have replaced; what they put in is not searched again."""
    return _PLACE.sub(lambda place: values.get(place[1], place[0]), text)


def with_values_in(document: Any, values: Mapping[str, str], reveal: Callable[[Any], str]) -> Any:
    """A JSON document, each text in it `reveal`ed and filled; a whole `{timestamp:number}` becomes a number."""
    if isinstance(document, str):
        text = reveal(document)
        number = _NUMBER.match(text)
        return int(values[number[1]]) if number and number[1] in values else with_values(text, values)
    if isinstance(document, Mapping):
        return {key: with_values_in(child, values, reveal) for key, child in document.items()}
    if isinstance(document, list | tuple):
        return [with_values_in(child, values, reveal) for child in document]
    return document


def unsigned(sign: Sign, members: Iterable[str], signed: Iterable[str], bodies: Iterable[str]) -> Iterator[str]:
    """Why `sign` cannot work: `members` are the names that its text may use beside the built-in ones,
    `signed` all texts of the request, `bodies` those of its body.
    """
    names = names_in(sign.text)
    known = {*MOMENTS, *ABOUT, *members}
    for name in dict.fromkeys(names):
        if name == SIGNATURE:
            yield "holds {signature}, which is made from it"
        elif name not in known:
            yield f"knows no {{{name}}}: no member of query, form, json or headers, and none of {_listed(known)}"
    if not any(SIGNATURE in names_in(text) for text in signed):
        yield "is signed for nothing: put {signature} into headers, query, form or json"
    elif any(name in BODIES for name in names) and any(SIGNATURE in names_in(text) for text in bodies):
        yield "signs a body that holds {signature}: let it go into headers or query"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names))
