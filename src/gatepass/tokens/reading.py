"""From an issuer's reply to a token and its life, or to the reason why there is none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gatepass.config.credential.http_json import ReplyPaths
from gatepass.tokens.bearer import bearer
from gatepass.tokens.expiry import Life, Moment, announced, certain_s, date_of, is_jwt, jwt_life_s
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.life import Kind, ToldBy
from gatepass.tokens.objection import denial, denies, refusal
from gatepass.tokens.reply import Mask, NotJson, Reply, document_of, folded, is_html, page_title

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


@dataclass(frozen=True, slots=True)
class Terms:
    """How the replies of one issuer are read. `issuer` is its name for people: a host."""

    issuer: str
    default_ttl_s: float
    max_ttl_s: float
    paths: ReplyPaths = field(default_factory=ReplyPaths)
    plain_text: bool = False


@dataclass(frozen=True, slots=True)
class Minted:
    """What a good reply holds. `life_s` counts from the start of the fetch and is above zero.

    `no_expiry_at` is the configured path that told no expiry where nothing else told one either.
    """

    text: str = field(repr=False)
    life_s: float
    kind: Kind
    told_by: ToldBy
    no_expiry_at: str | None = None


def read(reply: Reply, terms: Terms, wall_s: float, mask: Mask) -> Minted:
    """The token of `reply`; raises FetchFailure with the issuer's own words.

    `wall_s` is Clock.wall at the start of the fetch. A 2xx reply is never quoted beyond the
    members of an error object: it might hold a token in a place where nobody looks for one.
    """
    if not 200 <= reply.status < 300:
        raise refusal(reply, wall_s, terms.issuer, mask)
    if not reply.body.strip():
        raise FetchFailure(f"{terms.issuer} answered {reply.status} with an empty body")
    document = _document(reply, terms, mask)
    if denies(document) and (failure := denial(document, reply, wall_s, terms.issuer, mask)):
        raise failure
    found, home = _found_token(document, terms)
    if found is None or not (isinstance(found, str) and found.strip()):
        failure = denial(document, reply, wall_s, terms.issuer, mask)
        raise failure or FetchFailure(_no_token(document, found, terms))
    text = bearer(found, terms.issuer)
    told = _announced(document, home, terms.paths)
    life_s, told_by = _life(text, told, reply, terms, wall_s)
    unheard = _expiry_path(terms.paths) if told is None and told_by is ToldBy.DEFAULT else None
    return Minted(text, life_s, Kind.JWT if is_jwt(text) else Kind.OPAQUE, told_by, unheard)


def _document(reply: Reply, terms: Terms, mask: Mask) -> Any:
    """The JSON document, or the whole text where a plain one is a token."""
    text = reply.text
    says_json = "json" in reply.content_type
    if says_json or text.lstrip()[:1] in ("{", "[", '"'):
        try:
            return document_of(text)
        except NotJson:
            raise FetchFailure(f"{terms.issuer} answered {reply.status} with a body that is not JSON") from None
    if is_html(reply):
        title = page_title(text)
        named = f" ({folded(title, mask)})" if title else ""
        raise FetchFailure(f"{terms.issuer} answered {reply.status} with an HTML page{named} instead of a token")
    if not terms.plain_text:
        raise FetchFailure(f"{terms.issuer} answered {reply.status} with a body that is not JSON")
    return text


def _found_token(document: Any, terms: Terms) -> tuple[Any, Any]:
    """What stands where the token is looked for, and the object that it is a member of."""
    if (path := terms.paths.token) is not None:
        return at(document, path), at(document, path.rpartition(".")[0]) if "." in path else document
    if not isinstance(document, dict):
        return (document if terms.plain_text else None), None
    named = ((box[name], box) for box in _boxes(document) for name in TOKEN_NAMES if _is_text(box.get(name)))
    return next(named, (None, None))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _no_token(document: Any, found: Any, terms: Terms) -> str:
    where = f" at {terms.paths.token}" if terms.paths.token else ""
    if found is not None and not isinstance(found, str | dict | list):
        return f"{terms.issuer} answered with a token{where} that is not text"
    names = [name for name in document if _ORDINARY_NAME.match(name)] if isinstance(document, dict) else []
    seen = f"; the reply has {', '.join(names[:_NAMES_SHOWN])}" if names else ""
    return f"{terms.issuer} answered without a token{where}{seen}"


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


def _boxes(document: Any) -> Iterator[dict[Any, Any]]:
    """The objects in which names are looked for, in order: the root, then the envelopes."""
    if isinstance(document, dict):
        yield document
        yield from (box for name in ENVELOPES if isinstance(box := document.get(name), dict))


def _life(text: str, told: Life | Moment | None, reply: Reply, terms: Terms, wall_s: float) -> tuple[float, ToldBy]:
    """How long the token lives and who says so.

    A JWT's own word beats the reply's. The reply's is believed up to `max_ttl_s`: a life of
    five minutes that is announced as 300000 must not become three days. A moment that has passed
    on a token just made means that the clocks differ: then the default holds, and a 401 corrects.
    Where the issuer's `Date` frees a moment from that difference, only what is certain counts.
    """
    date_s = date_of(reply.headers)
    if isinstance(told, Life) and told.seconds <= 0:
        raise FetchFailure(
            f"{terms.issuer} gave a token that has expired already (its life is {told.seconds:g} s)", quick=False
        )
    own_s = jwt_life_s(text, date_s, wall_s)
    if own_s is not None:
        return own_s, ToldBy.JWT
    if isinstance(told, Moment):
        told = Life(told.epoch_s - wall_s if date_s is None else certain_s(told.epoch_s, date_s))
    if told is None or told.seconds <= 0:
        return terms.default_ttl_s, ToldBy.DEFAULT
    return min(told.seconds, terms.max_ttl_s), ToldBy.REPLY


def _announced(document: Any, home: Any, paths: ReplyPaths) -> Life | Moment | None:
    """What the reply says of the life: at the configured path alone, else by the usual names, the token's
    own object first.
    """
    if (configured := _expiry_path(paths)) is not None:
        return announced(at(document, configured), paths.unit)
    boxes = (*([home] if isinstance(home, dict) else []), *_boxes(document))
    values = (box[name] for box in boxes for name in (*LIFE_NAMES, *MOMENT_NAMES) if name in box)
    return next((told for value in values if (told := announced(value, paths.unit)) is not None), None)


def _expiry_path(paths: ReplyPaths) -> str | None:
    return paths.expires_in or paths.expires_at
