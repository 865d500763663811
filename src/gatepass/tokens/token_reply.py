"""From an issuer's reply, or a text on this machine, to a token and its lifetime, or to the reason for its absence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from gatepass.config.credential.base import ReplyPaths
from gatepass.tokens.failure import FetchFailure, setting, setting_hint, token_path_hint
from gatepass.tokens.issuer_error import (
    REFUSED,
    WRONG_PROXY_AUTH,
    WRONG_URL_STATUSES,
    Mask,
    NotJson,
    TokenResponse,
    embedded_error_failure,
    error_response_failure,
    is_error_reply,
    is_html,
    mask_token_like,
    one_line,
    page_title,
    parse_json_object,
    quoted,
    token_error_body,
)
from gatepass.tokens.lifetime import (
    ExpiresAt,
    ExpiresIn,
    LifetimeSource,
    Token,
    TokenKind,
    at_least_left_s,
    claims_of,
    is_jwt,
    issuer_time,
    jwt_lifetime_s,
    jwt_margin_s,
    jwt_remaining_s,
    jwt_times,
    parse_expiry,
)
from gatepass.types import Secret, header

_SCHEME = re.compile(r"bearer(\s+|\Z)", re.IGNORECASE)
_B64TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*\Z")
"""RFC 6750 2.1."""
BOUND_TYPES = frozenset({"mac", "dpop", "pop"})
"""Each request needs a proof of a key beside such a token (RFC 9449, draft-ietf-oauth-v2-http-mac, RFC 7800)."""
TYPE_NAMES = ("token_type", "tokenType")
_NOTHING = frozenset({"null", "none", "nil", "undefined", "true", "false", "error"})


def strip_bearer(text: str) -> str:
    """`text` without white space around it and without `Bearer` before it."""
    text = text.strip()
    scheme = _SCHEME.match(text)
    return text[scheme.end() :] if scheme else text


def checked_token(found: str, issuer: str) -> str:
    """The bare token; raises FetchFailure where it is none by RFC 6750 2.1: a line break in it would
    write headers of its own."""
    text = strip_bearer(found)
    if text.lower() in _NOTHING:
        raise FetchFailure(f"{issuer} gave {text!r} where a token is expected")
    if not _B64TOKEN.match(text):
        raise FetchFailure(f"{issuer} gave a token with characters that no bearer token may hold (RFC 6750 2.1)")
    return text


@dataclass(frozen=True, slots=True)
class TokenReplyFormat:
    """How the replies of one issuer are read. `issuer` is its name for people: a host, a program, a file.

    `header` names the response header that holds the token, where the body does not. `credential` and
    `address` name the settings to look at: the block under `credentials`, and that of the URL in it, where the
    URL is the configuration's own. `by_login`: the reply is a login's, which says no in any words. `audience` is the
    configured one, which a JWT must name if it names any.
    """

    issuer: str
    default_ttl_s: float
    max_ttl_s: float
    paths: ReplyPaths = field(default_factory=ReplyPaths)
    plain_text: bool = False
    header: str | None = None
    credential: str = ""
    url_setting: str | None = None
    is_login: bool = False
    audience: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedToken:
    """What a good reply holds. `lifetime_s` counts from the start of the fetch and is above zero; None is a
    key that does not expire.

    `no_expiry_at` is the configured path that told no expiry where nothing else told one either. `doubted_s` is the
    lifetime that was told, where it is implausible and `lifetime_s` is another one. `unusual_type` is a `token_type`
    other than Bearer.
    """

    text: str = field(repr=False)
    lifetime_s: float | None
    kind: TokenKind
    lifetime_source: LifetimeSource
    missing_expiry_path: str | None = None
    implausible_lifetime_s: float | None = None
    unexpected_type: str | None = None

    def token(self, requested_s: float) -> Token:
        """Return it as the token of a fetch that began at `requested_s` (Clock.now)."""
        return Token(
            Secret(self.text),
            requested_s,
            self.lifetime_s,
            self.kind,
            self.lifetime_source,
            self.missing_expiry_path,
            implausible_lifetime_s=self.implausible_lifetime_s,
            unexpected_type=self.unexpected_type,
        )


def parse_token_response(
    reply: TokenResponse, reply_format: TokenReplyFormat, wall_s: float, mask: Mask
) -> ParsedToken:
    """The token of `reply`; raises FetchFailure with the issuer's own words.

    `wall_s` is Clock.wall at the start of the fetch. A 2xx reply is never quoted beyond the
    members of an error object: it might hold a token in a place where nobody looks for one.
    """
    if not 200 <= reply.status < 300:
        raise _status_failure(reply, reply_format, wall_s, mask)
    found, document, home = _found(reply, reply_format, mask)
    if is_error_reply(document) and (
        failure := embedded_error_failure(document, reply, wall_s, reply_format.issuer, mask)
    ):
        raise failure
    if not is_text(found):
        failure = embedded_error_failure(document, reply, wall_s, reply_format.issuer, mask)
        raise failure or FetchFailure(_no_token_message(document, found, reply_format), unclear=reply_format.is_login)
    unusual_type = _unexpected_type(document, home, reply_format, mask)
    text = checked_token(found, reply_format.issuer)
    _check_audience(text, reply_format, mask)
    told = find_expiry(document, home, reply_format.paths)
    life_s, told_by, doubted_s = _lifetime(text, told, reply, reply_format, wall_s)
    unheard = expiry_path(reply_format.paths) if told is None and told_by is LifetimeSource.DEFAULT else None
    return ParsedToken(
        text, life_s, TokenKind.JWT if is_jwt(text) else TokenKind.OPAQUE, told_by, unheard, doubted_s, unusual_type
    )


def _unexpected_type(document: Any, home: Any, reply_format: TokenReplyFormat, mask: Mask) -> str | None:
    """Return the token's type if it is unusual; None for `Bearer` and where none is told.

    Raises:
        FetchFailure: if each request would need a proof beside the token.
    """
    boxes = [box for box in (home, document) if isinstance(box, dict)]
    told = next((box[name] for box in boxes for name in TYPE_NAMES if is_text(box.get(name))), "bearer").strip()
    if told.lower() in BOUND_TYPES:
        raise FetchFailure(
            f"{reply_format.issuer} returned a token of type {told}, which needs a signed proof with each request. "
            f"gatepass sends bearer tokens: configure this client at the issuer for Bearer tokens",
            definite=True,
        )
    return None if told.lower() == "bearer" else one_line(mask_token_like(mask(told)), mask)


def _check_audience(text: str, reply_format: TokenReplyFormat, mask: Mask) -> None:
    """Raise FetchFailure if `text` is a JWT whose `aud` (RFC 7519 4.1.3) leaves the configured audience out."""
    if reply_format.audience is None:
        return
    told = (claims_of(text) or {}).get("aud")
    named = [told] if isinstance(told, str) else told if isinstance(told, list) else []
    named = [name for name in named if isinstance(name, str)]
    if named and reply_format.audience not in named:
        raise FetchFailure(
            f"{reply_format.issuer} returned a token for the audience {one_line(', '.join(named), mask)}, and "
            f"{setting(reply_format.credential, 'audience')} is {reply_format.audience}. Set it to the audience "
            f"that the upstream requires, or remove it",
            definite=True,
        )


def _status_failure(reply: TokenResponse, reply_format: TokenReplyFormat, wall_s: float, mask: Mask) -> FetchFailure:
    """Beyond 2xx: a URL of the configuration that nobody knows there will not be known a second later."""
    is_wrong_url = reply_format.url_setting is not None and reply.status in WRONG_URL_STATUSES
    failure = error_response_failure(
        reply, wall_s, reply_format.issuer, mask, is_wrong_url=is_wrong_url, by_login=reply_format.is_login
    )
    if reply.status == WRONG_PROXY_AUTH and reply_format.credential:
        return failure.with_reason(f"{failure.reason}{setting_hint(reply_format.credential, 'network.proxy_auth')}")
    if not is_wrong_url and not is_html(reply):
        return failure
    return failure.with_reason(f"{failure.reason}{setting_hint(reply_format.credential, reply_format.url_setting)}")


def _found(reply: TokenResponse, reply_format: TokenReplyFormat, mask: Mask) -> tuple[Any, Any, Any]:
    """What stands where the token is looked for, the document, and the object that the token is a member of."""
    if (
        reply_format.header is not None
        and (value := header(reply.headers, reply_format.header.lower().encode())) is not None
    ):
        try:
            return value.decode("latin-1"), parse_json_object(reply.text), None
        except NotJson:  # beside a token in a header the body need not be a document
            return value.decode("latin-1"), None, None
    if not reply.body.strip():
        raise FetchFailure(f"{reply_format.issuer} answered {reply.status} with an empty body")
    document = _document(reply, reply_format, mask)
    if reply_format.header is not None:
        return None, document, None
    found, home = find_token(document, reply_format.paths, plain_text=reply_format.plain_text)
    return found, document, home


def _document(reply: TokenResponse, reply_format: TokenReplyFormat, mask: Mask) -> Any:
    """The JSON document, or the whole text where a plain one is a token."""
    text = reply.text
    says_json = "json" in reply.content_type
    if says_json or text.lstrip()[:1] in ("{", "[", '"'):
        try:
            return parse_json_object(text)
        except NotJson:
            raise FetchFailure(f"{reply_format.issuer} answered {reply.status} with a body that is not JSON") from None
    if is_html(reply):
        title = page_title(text)
        named = f" ({one_line(title, mask)})" if title else ""
        page = f"{reply_format.issuer} answered {reply.status} with an HTML page{named} instead of a token"
        raise FetchFailure(page + setting_hint(reply_format.credential, reply_format.url_setting))
    if not reply_format.plain_text:
        raise FetchFailure(f"{reply_format.issuer} answered {reply.status} with a body that is not JSON")
    return text


def _no_token_message(document: Any, found: Any, reply_format: TokenReplyFormat) -> str:
    if reply_format.header is not None:
        return f"{reply_format.issuer} answered without a token in its header {reply_format.header}"
    where = f" at {reply_format.paths.token}" if reply_format.paths.token else ""
    if found is not None and not isinstance(found, str | dict | list):
        return f"{reply_format.issuer} answered with a token{where} that is not text"
    place = token_path_hint(reply_format.credential) if reply_format.is_login else ""
    return _with_names(f"{reply_format.issuer} answered without a token{where}", document, "the reply has", place)


def _with_names(lacks: str, document: Any, has: str, place: str) -> str:
    """`lacks`, and the names that stand there instead, if there are any."""
    names = member_names(document)
    return f"{lacks}; {has} {names}{place}" if names else lacks


def _lifetime(
    text: str, told: ExpiresIn | ExpiresAt | None, reply: TokenResponse, reply_format: TokenReplyFormat, wall_s: float
) -> tuple[float, LifetimeSource, float | None]:
    """How long the token lives, who says so, and what was said where that is implausible.

    Of a JWT's own end and the reply's the earlier counts. The reply's alone is believed up to
    `max_ttl_s`: a life of five minutes that is announced as 300000 must not become three days. A moment that has passed
    on a token just made means that the clocks differ: then the default holds, and a 401 corrects.
    Where the issuer's `Date` frees a moment from that difference, only what is certain counts.
    """
    date_s = issuer_time(reply.headers)
    if isinstance(told, ExpiresIn) and told.seconds <= 0:
        raise FetchFailure(
            f"{reply_format.issuer} gave a token that has expired already (its life is {told.seconds:g} s)", quick=False
        )
    own_s = jwt_lifetime_s(text, date_s, wall_s)
    if own_s is not None:
        span = jwt_times(text)
        return *_earlier_end(text, own_s, told), own_s * 1000 if span is not None and span.is_guess else None
    if isinstance(told, ExpiresAt):
        told = ExpiresIn(told.epoch_s - wall_s if date_s is None else at_least_left_s(told.epoch_s, date_s))
    if told is None:
        return reply_format.default_ttl_s, LifetimeSource.DEFAULT, None
    if told.seconds <= 0:
        return reply_format.default_ttl_s, LifetimeSource.DEFAULT, told.seconds
    is_too_long = told.seconds > reply_format.max_ttl_s
    return min(told.seconds, reply_format.max_ttl_s), LifetimeSource.REPLY, told.seconds if is_too_long else None


def _earlier_end(text: str, own_s: float, told: ExpiresIn | ExpiresAt | None) -> tuple[float, LifetimeSource]:
    """What is left of a JWT of which `own_s` is left by its own word, where its reply may have told an earlier end.

    A moment is compared with the JWT's own, both on the issuer's clock: no difference between clocks comes in.
    A life that is only guessed is not held against the JWT when it comes again (`no_longer_than`).
    """
    span, claimed_lifetime_s = jwt_times(text), None
    if isinstance(told, ExpiresIn):
        claimed_lifetime_s = told.seconds
    elif told is not None and span is not None:
        claimed_lifetime_s = own_s - (span.end_s - told.epoch_s)
    if claimed_lifetime_s is not None and 0 < claimed_lifetime_s < own_s - jwt_margin_s(own_s):
        return claimed_lifetime_s, LifetimeSource.REPLY
    return own_s, LifetimeSource.REPLY if span is not None and span.is_guess else LifetimeSource.JWT


EXEC_CREDENTIAL = ReplyPaths(token="status.token", expires_at="status.expirationTimestamp")  # noqa: S106 - a path
"""kubernetes.io/docs/reference/config-api/client-authentication.v1: RFC 3339, or nothing."""


@dataclass(frozen=True, slots=True)
class ReadTimes:
    """Clock.wall at the reading; and when the text came to this machine, where a change of it is noticed.

    Such a text's token lasts until it changes where nothing tells its life, and one that has expired
    is not asked for again before.
    """

    wall_s: float
    written_s: float | None = None

    @property
    def is_watched(self) -> bool:
        return self.written_s is not None


def parse_token_document(text: str, reply_format: TokenReplyFormat, at_s: ReadTimes, mask: Mask) -> ParsedToken:
    """The token of a JSON document, or of a text that is one; raises FetchFailure.

    Unlike an issuer's reply the text may be old: a life that has passed is over, whatever the clocks.
    """
    document = _local_document(text, reply_format)
    if value_at(document, "kind") == "ExecCredential":
        reply_format = replace(reply_format, paths=EXEC_CREDENTIAL, credential="")
    found, home = find_token(document, reply_format.paths, plain_text=True)
    if is_error_reply(document) or not is_text(found):
        raise _refusal(document, reply_format, mask) or FetchFailure(_no_local_token(document, found, reply_format))
    token = checked_token(found, reply_format.issuer)
    told = find_expiry(document, home, reply_format.paths)
    left_s, told_by = _remaining_s(token, told, reply_format, at_s)
    unheard = expiry_path(reply_format.paths) if told_by is LifetimeSource.DEFAULT else None
    kind = TokenKind.JWT if is_jwt(token) else TokenKind.OPAQUE
    return ParsedToken(
        token, left_s, kind, told_by, unheard, unexpected_type=_unexpected_type(document, home, reply_format, mask)
    )


def parse_token_text(text: str, issuer: str, at_s: ReadTimes) -> ParsedToken:
    """A text that is a token as a whole: a JWT with its `exp`, or a key without an end; raises FetchFailure.

    Keys are no OAuth tokens: any visible ASCII goes (`1|abc` is a key).
    """
    key = strip_bearer(text)
    if not key:
        raise FetchFailure(f"{issuer} is empty")
    if any(not "!" <= c <= "~" for c in key):
        raise FetchFailure(f"{issuer} holds a space, a line break or a character beyond ASCII", definite=True)
    left_s = jwt_remaining_s(key, at_s.wall_s, at_s.written_s)
    if left_s is None:
        return ParsedToken(key, None, TokenKind.JWT if is_jwt(key) else TokenKind.KEY, LifetimeSource.NONE)
    if left_s <= 0:
        raise _expired(issuer, left_s, definite=True)
    return ParsedToken(key, left_s, TokenKind.JWT, LifetimeSource.JWT)


def looks_like_json(text: str) -> bool:
    """Whether `text` wants to be JSON."""
    return text.lstrip()[:1] in ("{", "[", '"')


def _local_document(text: str, reply_format: TokenReplyFormat) -> Any:
    if not text.strip():
        raise FetchFailure(f"{reply_format.issuer} is empty")
    if not looks_like_json(text):
        if reply_format.paths.token is not None:
            raise FetchFailure(f"{reply_format.issuer} is no JSON, so nothing stands at {reply_format.paths.token}")
        return text
    try:
        return parse_json_object(text)
    except NotJson:
        raise FetchFailure(f"{reply_format.issuer} begins like JSON and is none") from None


def _refusal(document: Any, reply_format: TokenReplyFormat, mask: Mask) -> FetchFailure | None:
    found = token_error_body(document)
    if found is None:
        return None
    refused = REFUSED if found.definite else ""
    words = f"{refused}{reply_format.issuer} holds an error: {quoted(found, mask)}"
    return FetchFailure(words, definite=found.definite, unclear=not found.is_transient)


def _no_local_token(document: Any, found: Any, reply_format: TokenReplyFormat) -> str:
    where = f" at {reply_format.paths.token}" if reply_format.paths.token else ""
    if found is not None and not isinstance(found, str | dict | list):
        return f"{reply_format.issuer} holds a token{where} that is not text"
    lacks = f"{reply_format.issuer} holds no token{where}"
    return _with_names(lacks, document, "it has", token_path_hint(reply_format.credential))


def _remaining_s(
    token: str, told: ExpiresIn | ExpiresAt | None, reply_format: TokenReplyFormat, at_s: ReadTimes
) -> tuple[float | None, LifetimeSource]:
    """How long the token lives from now on and who says so: the earlier end of a JWT's own and the document's,
    which alone is believed up to `max_ttl_s`.
    """
    own_s = jwt_remaining_s(token, at_s.wall_s, at_s.written_s)
    claimed_lifetime_s = None if told is None else _told_left_s(told, at_s)
    if own_s is None and claimed_lifetime_s is None:
        if at_s.is_watched and expiry_path(reply_format.paths) is None:
            return None, LifetimeSource.NONE
        return reply_format.default_ttl_s, LifetimeSource.DEFAULT
    left_s, told_by = own_s or 0.0, LifetimeSource.JWT
    if claimed_lifetime_s is not None and (own_s is None or claimed_lifetime_s < own_s - jwt_margin_s(own_s)):
        left_s, told_by = (
            claimed_lifetime_s if own_s is not None else min(claimed_lifetime_s, reply_format.max_ttl_s),
            LifetimeSource.REPLY,
        )
    if left_s <= 0:
        raise _expired(reply_format.issuer, left_s, definite=at_s.is_watched)
    return left_s, told_by


def _told_left_s(told: ExpiresIn | ExpiresAt, at_s: ReadTimes) -> float:
    """A moment is on our clock, for there is no other; a life began when the text was written."""
    if isinstance(told, ExpiresAt):
        return told.epoch_s - at_s.wall_s
    return told.seconds if at_s.written_s is None else told.seconds - max(0.0, at_s.wall_s - at_s.written_s)


def _expired(issuer: str, left_s: float, *, definite: bool) -> FetchFailure:
    return FetchFailure(f"{issuer} holds a token that expired {-left_s:.0f} s ago", definite=definite, quick=False)


TOKEN_NAMES = ("access_token", "accessToken", "token", "jwt", "value")
EXPIRES_IN_NAMES = ("expires_in", "expiresIn", "expire_in", "expireIn", "expires", "expire", "ttl", "expiresInSecs")
EXPIRES_AT_NAMES = (
    *("expires_on", "expiresOn", "expires_at", "expiresAt", "expire_at", "expireAt"),
    *("expiration", "expirationTime", "expireTime", "expire_time"),
    *("accessTokenExpiresAt", "expiry"),
)
ENVELOPES = ("data", "result", "response", "body", "token")
"""Where in-house gateways put the token, after the root itself."""
_ORDINARY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\Z")
_NAMES_SHOWN = 8


def value_at(document: Any, path: str) -> Any:
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
    return value_at(child, rest) if rest and child is not None else child if not rest else None


def find_token(document: Any, paths: ReplyPaths, *, plain_text: bool) -> tuple[Any, Any]:
    """What stands where the token is looked for, and the object that it is a member of."""
    if (path := paths.token) is not None:
        return value_at(document, path), value_at(document, path.rpartition(".")[0]) if "." in path else document
    if not isinstance(document, dict):
        return (document if plain_text else None), None
    named = ((box[name], box) for box in _candidate_objects(document) for name in TOKEN_NAMES if is_text(box.get(name)))
    return next(named, (None, None))


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def find_expiry(document: Any, home: Any, paths: ReplyPaths) -> ExpiresIn | ExpiresAt | None:
    """What the document says of the life: at the configured path alone, else by the usual names, those of
    the token's own object (`home`) first.
    """
    if (configured := expiry_path(paths)) is not None:
        return parse_expiry(value_at(document, configured), paths.unit)
    boxes = (*([home] if isinstance(home, dict) else []), *_candidate_objects(document))
    values = (box[name] for box in boxes for name in (*EXPIRES_IN_NAMES, *EXPIRES_AT_NAMES) if name in box)
    return next((told for value in values if (told := parse_expiry(value, paths.unit)) is not None), None)


def expiry_path(paths: ReplyPaths) -> str | None:
    return paths.expires_in or paths.expires_at


def member_names(document: Any) -> str:
    """The first names of an object, for people, with those of the objects in it: `code, data (token, ttl)`.

    Names that could be values are left out.
    """
    shown = {name: ", ".join(_plain_names(document[name])) for name in _plain_names(document)}
    return ", ".join(f"{name} ({inner})" if inner else name for name, inner in shown.items())


def _plain_names(document: Any) -> list[str]:
    names = [name for name in document if _ORDINARY_NAME.match(name)] if isinstance(document, dict) else []
    return names[:_NAMES_SHOWN]


def _candidate_objects(document: Any) -> Iterator[dict[Any, Any]]:
    """The objects in which names are looked for, in order: the root, then the envelopes."""
    if isinstance(document, dict):
        yield document
        yield from (box for name in ENVELOPES if isinstance(box := document.get(name), dict))
