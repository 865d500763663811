"""Parse a token and its lifetime from an issuer's reply or a local text, or explain why there is none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from gatepass.config.advice import Advice
from gatepass.config.credential.base import ReplyPaths
from gatepass.replies import content
from gatepass.replies.error_body import Mask, says_failure
from gatepass.replies.retry_after import sent_s
from gatepass.tokens import issuer_error, lifetime
from gatepass.tokens.failure import FailureCase, FailureKind, FetchFailure, oauth_code
from gatepass.tokens.issuer_error import NotJson, TimedTokenResponse
from gatepass.tokens.lifetime import ExpiresAt, ExpiresIn, LifetimeSource, Token, TokenKind
from gatepass.types import SERVER_ERROR, Secret, header

# some issuers put the scheme before the token
_SCHEME = re.compile(r"bearer(\s+|\Z)", re.IGNORECASE)
_B64TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*\Z")
"""RFC 6750 2.1."""
_NOTHING = frozenset({"null", "none", "nil", "undefined", "true", "false", "error"})
EXEC_CREDENTIAL = ReplyPaths(
    token="status.token",  # noqa: S106 - a path in the document, not a secret
    expiry="status.expirationTimestamp",
)
"""Paths in kubectl's ExecCredential. `expiry` is an RFC 3339 time or absent
(kubernetes.io/docs/reference/config-api/client-authentication.v1)."""
TOKEN_NAMES = ("access_token", "accessToken", "token")
EXPIRY_NAMES = ("expires_in", "expiresIn", "expires_on", "expires_at", "expiresAt", "expireAt", "expireTime")
ENVELOPES = ("data", "result", "response", "body", "token")
"""Members that contain the token in replies of corporate gateways. They are checked after the root object."""
_ORDINARY_NAME = r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\Z"
_NAMES_SHOWN = 8


def fits_a_header(text: str) -> bool:
    """Return whether a header can hold `text` as a token: visible ASCII characters, at least one."""
    return text != "" and text.isascii() and text.isprintable() and " " not in text


def strip_bearer(text: str) -> str:
    """Return `text` without surrounding white space and without a leading `Bearer`."""
    text = text.strip()
    scheme = _SCHEME.match(text)
    return text[scheme.end() :] if scheme else text


def checked_token(found: str, issuer: str) -> str:
    """Return the token without `Bearer`; raise FetchFailure if RFC 6750 2.1 does not allow it."""
    text = strip_bearer(found)
    # Some gateways write a missing token as text.
    if text.lower() in _NOTHING:
        raise FetchFailure(f"{issuer} returned {text!r} instead of a token")
    if not _B64TOKEN.match(text):
        raise FetchFailure(
            f"{issuer} returned a token with characters that a bearer token must not contain (RFC 6750 2.1)"
        )
    return text


class TokenReplyFormat(msgspec.Struct, frozen=True):
    """How the replies of one issuer are parsed. `issuer` is its name in messages: a host, a program, a file.

    - `header`: the response header that contains the token, if the body does not.
    - `credential`, `url_setting`: the settings to check, the name under `credentials` and the full name of its URL's,
      "" without one.
    - `is_login`: the reply comes from a login, which may refuse in any form.
    """

    issuer: str
    default_ttl_s: float
    paths: ReplyPaths = msgspec.field(default_factory=ReplyPaths)
    plain_text: bool = False
    header: str | None = None
    credential: str = ""
    url_setting: str = ""
    is_login: bool = False

    def advice(self, case: str) -> Advice:
        """Return the advice about the issuer's URL, if that is a setting."""
        return Advice(case, {"setting": self.url_setting}) if self.url_setting else Advice()


class ReadTimes(msgspec.Struct, frozen=True):
    """When a fetch began (Clock.now and Clock.wall), and when a local text was written, if its changes are noticed.

    The token of such a text is valid until the text changes, if it has no other lifetime. An expired one is not read
    again before a change.
    """

    requested_s: float
    wall_s: float
    written_s: float | None = None


def parse_token_response(reply: TimedTokenResponse, reply_format: TokenReplyFormat) -> Token:
    """Return the token of `reply`; raise FetchFailure with the issuer's own text.

    From a 2xx reply only the members of an error object are quoted, because a token may be anywhere else in it.
    """
    if not reply.is_success:
        raise _status_failure(reply, reply_format)
    found, document, home = _found(reply, reply_format)
    failure = issuer_error.embedded_error_failure(document, reply, reply_format.issuer)
    if failure is not None and says_failure(document):
        raise failure
    if not is_text(found):
        # A login may answer 200 for a wrong password, without any known error member.
        kind = FailureKind.LIMITED if reply_format.is_login else FailureKind.OUTAGE
        raise failure or _no_token(document, found, reply_format, kind)
    text = checked_token(found, reply_format.issuer)
    announced = find_expiry(document, home, reply_format.paths)
    lifetime_s, source = _lifetime(text, announced, reply, reply_format)
    return Token(Secret(text), reply.requested_s, lifetime_s, lifetime.token_kind(text), source)


def _status_failure(reply: TimedTokenResponse, reply_format: TokenReplyFormat) -> FetchFailure:
    """Return the failure of a reply that is not 2xx. A wrong configured URL is still wrong a second later."""
    is_wrong_url = bool(reply_format.url_setting) and reply.status in issuer_error.WRONG_URL_STATUSES
    failure = issuer_error.error_response_failure(
        reply, reply_format.issuer, is_wrong_url=is_wrong_url, is_login=reply_format.is_login
    )
    is_redirect, is_limit = reply.status < 400, reply.status == issuer_error.TOO_MANY
    if reply.status == issuer_error.WRONG_PROXY_AUTH and reply_format.credential:
        proxy_auth = f"credentials.{reply_format.credential}.network.proxy_auth"
        failure.advice = Advice("proxy_login", {"proxy_auth": proxy_auth})
    elif reply.status >= SERVER_ERROR:
        failure.advice = Advice("issuer_down")
    elif is_wrong_url or is_redirect or (not is_limit and content.is_html(reply.headers, reply.body)):
        failure.advice = reply_format.advice(
            "issuer_redirect" if is_redirect else "issuer_url" if is_wrong_url else "issuer_page"
        )
    return failure


def _found(reply: TimedTokenResponse, reply_format: TokenReplyFormat) -> tuple[Any, Any, Any]:
    """Return the value at the token's place, the document, and the object that has the token as a member."""
    if (
        reply_format.header is not None
        # Huawei IAM v3 sends the token in `X-Subject-Token`
        and (value := header(reply.headers, reply_format.header.lower().encode())) is not None
    ):
        return value.decode("latin-1"), reply.document, None  # the body may be anything
    # Envoy treats an empty 200 as a reply and never fetches again (envoyproxy/envoy#42009).
    if not reply.body.strip():
        raise FetchFailure(f"{reply_format.issuer} answered {reply.status} with an empty body")
    document = _document(reply, reply_format)
    if reply_format.header is not None:
        return None, document, None
    found, home = find_token(document, reply_format.paths, plain_text=reply_format.plain_text)
    return found, document, home


def _document(reply: TimedTokenResponse, reply_format: TokenReplyFormat) -> Any:
    """Return the JSON document, the form, or the whole text if plain text is allowed as a token."""
    text = reply.text
    if (form := issuer_error.parse_form(text)) is not None:
        return form
    if "json" in reply.content_type or looks_like_json(text):
        with suppress(NotJson):
            return issuer_error.parse_json_text(text)
    elif (page := issuer_error.issuer_page(reply)) is not None:
        named = f" ({page.title})" if page.title else ""
        why = f"{reply_format.issuer} answered {reply.status} with an HTML page{named} instead of a token"
        failure = FetchFailure(page.added_to(why), advice=reply_format.advice("issuer_page"))
        failure.detail = page.detail
        raise failure
    elif reply_format.plain_text:
        return text
    raise FetchFailure(f"{reply_format.issuer} answered {reply.status} with a body that is not JSON")


def _no_token(
    document: Any,
    found: Any,
    reply_format: TokenReplyFormat,
    kind: FailureKind = FailureKind.OUTAGE,
    *,
    is_local: bool = False,
) -> FetchFailure:
    """Return that there is no token, and the first names that there are instead: `code, data (token, ttl)`."""
    if reply_format.header is not None:
        return FetchFailure(f"{reply_format.issuer} answered without a token in its header {reply_format.header}", kind)
    where = f" at {reply_format.paths.token}" if reply_format.paths.token else ""
    if found is not None and not isinstance(found, str | dict | list):
        has = "contains" if is_local else "answered with"
        return FetchFailure(f"{reply_format.issuer} {has} a token{where} that is not text", kind)
    lacks = f"{reply_format.issuer} {'contains no token' if is_local else 'answered without a token'}{where}"
    shown = {name: ", ".join(_plain_names(document[name])) for name in _plain_names(document)}
    if not shown:
        return FetchFailure(lacks, kind)
    names = ", ".join(f"{name} ({inner})" if inner else name for name, inner in shown.items())
    has_setting = reply_format.credential and (is_local or reply_format.is_login)
    advice = Advice("token_path", {"credential": reply_format.credential}) if has_setting else Advice()
    return FetchFailure(f"{lacks}; {'it' if is_local else 'the reply'} has {names}", kind, advice=advice)


def _lifetime(
    text: str, announced: ExpiresIn | ExpiresAt | None, reply: TimedTokenResponse, reply_format: TokenReplyFormat
) -> tuple[float, LifetimeSource]:
    """Return the lifetime and its source.

    The shorter one of a JWT's claims and the reply applies. If a new token's announced end has passed, the clocks
    differ. Then the default applies, and a 401 corrects it.
    """
    date_s = sent_s(reply.headers)
    now_s = reply.wall_s if date_s is None else date_s
    jwt_s = lifetime.jwt_lifetime_s(text, now_s, is_new=True)
    match announced:
        case None:
            claimed_s = None
        case ExpiresIn(claimed_s):
            if claimed_s <= 0:  # does not depend on a clock, so this is not clock skew
                why = f"{reply_format.issuer} returned an expired token (its lifetime is {claimed_s:g} s)"
                raise FetchFailure(why)
        case ExpiresAt(epoch_s):
            claimed_s = epoch_s - now_s
    if jwt_s is not None:
        if claimed_s is not None and 0 < claimed_s < jwt_s:
            return claimed_s, LifetimeSource.REPLY
        return jwt_s, LifetimeSource.JWT
    if claimed_s is None or claimed_s <= 0:  # not stated, or the clocks differ
        return reply_format.default_ttl_s, LifetimeSource.DEFAULT
    return claimed_s, LifetimeSource.REPLY


def parse_token_document(text: str, reply_format: TokenReplyFormat, at_s: ReadTimes, mask: Mask) -> Token:
    """Return the token of a JSON document, or of a text that is a token; raise FetchFailure.

    Unlike an issuer's reply, the text may be old. So an expiry in the past means that the token has expired, not that
    the clocks differ.
    """
    document = _local_document(text, reply_format)
    if value_at(document, "kind") == "ExecCredential":
        # Kubernetes defines the paths, so no setting is named in errors.
        reply_format = replace(reply_format, paths=EXEC_CREDENTIAL, credential="")
    found, home = find_token(document, reply_format.paths, plain_text=True)
    if says_failure(document) or not is_text(found):
        if (error := issuer_error.error_in(document, mask)) is None:
            raise _no_token(document, found, reply_format, is_local=True)
        case, words = FailureCase.REFUSED if issuer_error.is_definite(error) else "", issuer_error.quoted(error, mask)
        why = f"{issuer_error.FAULTS.get(case, '')}{reply_format.issuer} contains an error: {words}"
        raise FetchFailure(why, issuer_error.kind_of(error), case=case, code=oauth_code(words))
    token = checked_token(found, reply_format.issuer)
    announced = find_expiry(document, home, reply_format.paths)
    left_s, source = _remaining_s(token, announced, reply_format, at_s)
    return Token(Secret(token), at_s.requested_s, left_s, lifetime.token_kind(token), source)


def parse_token_text(text: str, issuer: str, at_s: ReadTimes) -> Token:
    """Return a text that is a token as a whole: a JWT, or a key such as `1|abc` without an end; raise FetchFailure."""
    key = strip_bearer(text)
    if not key:
        raise FetchFailure(f"{issuer} is empty")  # not definite: the writer may be replacing it
    if not fits_a_header(key):
        raise FetchFailure(f"{issuer} contains a space, a line break or a non-ASCII character", FailureKind.REFUSED)
    left_s = lifetime.jwt_lifetime_s(key, at_s.wall_s)
    if left_s is not None and left_s <= 0:
        raise _expired(issuer, left_s, FailureKind.REFUSED)
    source = LifetimeSource.NONE if left_s is None else LifetimeSource.JWT
    return Token(Secret(key), at_s.requested_s, left_s, lifetime.token_kind(key, TokenKind.KEY), source)


def looks_like_json(text: str) -> bool:
    return text.lstrip()[:1] in ("{", "[", '"')


def _local_document(text: str, reply_format: TokenReplyFormat) -> Any:
    if not text.strip():
        raise FetchFailure(f"{reply_format.issuer} is empty")
    if not looks_like_json(text):
        if any(map(looks_like_json, text.strip().splitlines()[1:])):
            raise FetchFailure(f"{reply_format.issuer} has text before its JSON, such as a warning: leave it out")
        if (path := reply_format.paths.token) is not None:
            raise FetchFailure(f"{reply_format.issuer} is not JSON, so it contains nothing at {path}")
        return text
    try:
        return issuer_error.parse_json_text(text)
    except NotJson:
        raise FetchFailure(f"{reply_format.issuer} begins like JSON but is not valid JSON") from None


def _remaining_s(
    token: str, announced: ExpiresIn | ExpiresAt | None, reply_format: TokenReplyFormat, at_s: ReadTimes
) -> tuple[float | None, LifetimeSource]:
    """Return the remaining lifetime and its source: the earlier end of a JWT's claims and the document."""
    jwt_s = lifetime.jwt_lifetime_s(token, at_s.wall_s)
    claimed_lifetime_s = None
    if isinstance(announced, ExpiresAt):
        claimed_lifetime_s = announced.epoch_s - at_s.wall_s  # no other clock is known
    elif announced is not None:
        # A lifetime began when the text was written.
        age_s = 0.0 if at_s.written_s is None else max(0.0, at_s.wall_s - at_s.written_s)
        claimed_lifetime_s = announced.seconds - age_s
    if jwt_s is None and claimed_lifetime_s is None:
        if at_s.written_s is not None and reply_format.paths.expiry is None:
            return None, LifetimeSource.NONE
        return reply_format.default_ttl_s, LifetimeSource.DEFAULT
    left_s, source = jwt_s or 0.0, LifetimeSource.JWT
    if claimed_lifetime_s is not None and (jwt_s is None or claimed_lifetime_s < jwt_s):
        left_s, source = claimed_lifetime_s, LifetimeSource.REPLY
    if left_s <= 0:
        kind = FailureKind.OUTAGE if at_s.written_s is None else FailureKind.REFUSED
        raise _expired(reply_format.issuer, left_s, kind)
    return left_s, source


def _expired(issuer: str, left_s: float, kind: FailureKind) -> FetchFailure:
    return FetchFailure(f"{issuer} contains a token that expired {-left_s:.0f} s ago", kind, case=FailureCase.EXPIRED)


def value_at(document: Any, path: str) -> Any:
    """Return the value at a dotted path (`items.0.token`), or None. A member whose name has dots comes first."""
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
    """Return the value at the token's place, and the object that has it as a member."""
    if (path := paths.token) is not None:
        return value_at(document, path), value_at(document, path.rpartition(".")[0]) if "." in path else document
    if not isinstance(document, dict):
        return (document if plain_text else None), None
    named = members_named(TOKEN_NAMES, candidate_objects(document))
    return next((found for found in named if is_text(found[0])), (None, None))


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def find_expiry(document: Any, home: Any, paths: ReplyPaths) -> ExpiresIn | ExpiresAt | None:
    """Return the expiry: at the configured path, else by the usual names, first in the token's own object (`home`)."""
    if paths.expiry is not None:
        return lifetime.parse_expiry(value_at(document, paths.expiry), paths.unit)
    objects = (*([home] if isinstance(home, dict) else []), *candidate_objects(document))
    parsed = (lifetime.parse_expiry(value, paths.unit) for value, _ in members_named(EXPIRY_NAMES, objects))
    return next((announced for announced in parsed if announced is not None), None)


def members_named(names: Iterable[str], objects: Iterable[dict[Any, Any]]) -> Iterator[tuple[Any, dict[Any, Any]]]:
    """Yield the values of `names` in the objects, each with its object."""
    return ((members[name], members) for members in objects for name in names if name in members)


def _plain_names(document: Any) -> list[str]:
    names = [name for name in document if re.match(_ORDINARY_NAME, name)] if isinstance(document, dict) else []
    return names[:_NAMES_SHOWN]


def candidate_objects(document: Any) -> Iterator[dict[Any, Any]]:
    """Yield the objects to search: the root, then the envelopes."""
    if isinstance(document, dict):
        yield document
        yield from (members for name in ENVELOPES if isinstance(members := document.get(name), dict))
