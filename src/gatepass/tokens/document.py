"""Where in a JSON document the token and its life stand: by configured paths, else by their usual names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gatepass.config.credential.base import ReplyPaths
from gatepass.tokens.expiry import Life, Moment, announced

TOKEN_NAMES = ("access_token", "accessToken", "token", "jwt", "value")
LIFE_NAMES = ("expires_in", "expiresIn", "expire_in", "expireIn", "expires", "expire", "ttl", "expiresInSecs")
MOMENT_NAMES = (
    *("expires_on", "expiresOn", "expires_at", "expiresAt", "expire_at", "expireAt"),
    *("expiration", "expirationTime", "expireTime", "expire_time"),
    *("accessTokenExpiresAt", "expiry"),
)
ENVELOPES = ("data", "result", "response", "body", "token")
"""Where in-house gateways put the token, after the root itself."""
_ORDINARY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\Z")
_NAMES_SHOWN = 8


def at(document: Any, path: str) -> Any:
    """What stands at a dotted path (`data.token`, `items.0.token`), None where nothing does.

    A member whose name holds the dots itself comes first.
    """
    if isinstance(document, dict) and path in document:
        return document[path]
    head, _, rest = path.partition(".")
    child: Any = None
    if isinstance(document, dict):
        child = document.get(head)
    elif isinstance(document, list) and head.isdecimal() and len(head) < 6 and int(head) < len(document):
        child = document[int(head)]
    return at(child, rest) if rest and child is not None else child if not rest else None


def found_token(document: Any, paths: ReplyPaths, *, plain_text: bool) -> tuple[Any, Any]:
    """What stands where the token is looked for, and the object that it is a member of."""
    if (path := paths.token) is not None:
        return at(document, path), at(document, path.rpartition(".")[0]) if "." in path else document
    if not isinstance(document, dict):
        return (document if plain_text else None), None
    named = ((box[name], box) for box in _boxes(document) for name in TOKEN_NAMES if is_text(box.get(name)))
    return next(named, (None, None))


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def told_life(document: Any, home: Any, paths: ReplyPaths) -> Life | Moment | None:
    """What the document says of the life: at the configured path alone, else by the usual names, those of
    the token's own object (`home`) first.
    """
    if (configured := expiry_path(paths)) is not None:
        return announced(at(document, configured), paths.unit)
    boxes = (*([home] if isinstance(home, dict) else []), *_boxes(document))
    values = (box[name] for box in boxes for name in (*LIFE_NAMES, *MOMENT_NAMES) if name in box)
    return next((told for value in values if (told := announced(value, paths.unit)) is not None), None)


def expiry_path(paths: ReplyPaths) -> str | None:
    return paths.expires_in or paths.expires_at


def ordinary_names(document: Any) -> str:
    """The first names of an object, for people, with those of the objects in it: `code, data (token, ttl)`.

    Names that could be values are left out.
    """
    return ", ".join(f"{name}{_inner(document[name])}" for name in _ordinary(document))


def _inner(value: Any) -> str:
    names = ", ".join(_ordinary(value))
    return f" ({names})" if names else ""


def _ordinary(document: Any) -> list[str]:
    names = [name for name in document if _ORDINARY_NAME.match(name)] if isinstance(document, dict) else []
    return names[:_NAMES_SHOWN]


def _boxes(document: Any) -> Iterator[dict[Any, Any]]:
    """The objects in which names are looked for, in order: the root, then the envelopes."""
    if isinstance(document, dict):
        yield document
        yield from (box for name in ENVELOPES if isinstance(box := document.get(name), dict))
