"""From a text on this machine (a program's output, a file, a variable) to a token and its life."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gatepass.config.credential.reply import ReplyPaths
from gatepass.tokens.bearer import bare, bearer
from gatepass.tokens.document import at, expiry_path, found_token, is_text, ordinary_names, told_life
from gatepass.tokens.expiry import Life, Moment, is_jwt, jwt_left_s
from gatepass.tokens.failure import FetchFailure, names_its_place
from gatepass.tokens.life import Kind, ToldBy, cut_off_s
from gatepass.tokens.reading import Minted, Terms
from gatepass.tokens.refusal import REFUSED, denies, objection, quoted
from gatepass.tokens.reply import Mask, NotJson, document_of

EXEC_CREDENTIAL = ReplyPaths(token="status.token", expires_at="status.expirationTimestamp")  # noqa: S106 - a path
"""kubernetes.io/docs/reference/config-api/client-authentication.v1: RFC 3339, or nothing."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Clock.wall at the reading; and when the text came to this machine, where a change of it is noticed.

    Such a text's token lasts until it changes where nothing tells its life, and one that has expired
    is not asked for again before.
    """

    wall_s: float
    written_s: float | None = None

    @property
    def watched(self) -> bool:
        return self.written_s is not None


def read_document(text: str, terms: Terms, at_s: Moments, mask: Mask) -> Minted:
    """The token of a JSON document, or of a text that is one; raises FetchFailure.

    Unlike an issuer's reply the text may be old: a life that has passed is over, whatever the clocks.
    """
    document = _document(text, terms)
    if _kind(document) == "ExecCredential":
        terms = replace(terms, paths=EXEC_CREDENTIAL, credential="")
    found, home = found_token(document, terms.paths, plain_text=True)
    if denies(document) or not is_text(found):
        raise _refusal(document, terms, mask) or FetchFailure(_no_token(document, found, terms))
    token = bearer(found, terms.issuer)
    told = told_life(document, home, terms.paths)
    left_s, told_by = _left(token, told, terms, at_s)
    unheard = expiry_path(terms.paths) if told_by is ToldBy.DEFAULT else None
    return Minted(token, left_s, Kind.JWT if is_jwt(token) else Kind.OPAQUE, told_by, unheard)


def read_key(text: str, issuer: str, at_s: Moments) -> Minted:
    """A text that is a token as a whole: a JWT with its `exp`, or a key without an end; raises FetchFailure.

    Keys are no OAuth tokens: any visible ASCII goes (`1|abc` is a key).
    """
    key = bare(text)
    if not key:
        raise FetchFailure(f"{issuer} is empty")
    if any(not "!" <= c <= "~" for c in key):
        raise FetchFailure(f"{issuer} holds a space, a line break or a character beyond ASCII", definite=True)
    left_s = jwt_left_s(key, at_s.wall_s, at_s.written_s)
    if left_s is None:
        return Minted(key, None, Kind.JWT if is_jwt(key) else Kind.KEY, ToldBy.NOBODY)
    if left_s <= 0:
        raise _expired(issuer, left_s, definite=True)
    return Minted(key, left_s, Kind.JWT, ToldBy.JWT)


def is_document(text: str) -> bool:
    """Whether `text` wants to be JSON."""
    return text.lstrip()[:1] in ("{", "[", '"')


def _document(text: str, terms: Terms) -> Any:
    if not text.strip():
        raise FetchFailure(f"{terms.issuer} is empty")
    if not is_document(text):
        if terms.paths.token is not None:
            raise FetchFailure(f"{terms.issuer} is no JSON, so nothing stands at {terms.paths.token}")
        return text
    try:
        return document_of(text)
    except NotJson:
        raise FetchFailure(f"{terms.issuer} begins like JSON and is none") from None


def _kind(document: Any) -> Any:
    return at(document, "kind") if isinstance(document, dict) else None


def _refusal(document: Any, terms: Terms, mask: Mask) -> FetchFailure | None:
    found = objection(document)
    if found is None:
        return None
    refused = REFUSED if found.definite else ""
    words = f"{refused}{terms.issuer} holds an error: {quoted(found, mask)}"
    return FetchFailure(words, definite=found.definite, unclear=not found.passing)


def _no_token(document: Any, found: Any, terms: Terms) -> str:
    where = f" at {terms.paths.token}" if terms.paths.token else ""
    if found is not None and not isinstance(found, str | dict | list):
        return f"{terms.issuer} holds a token{where} that is not text"
    names = ordinary_names(document)
    if not names:
        return f"{terms.issuer} holds no token{where}"
    return f"{terms.issuer} holds no token{where}; it has {names}{names_its_place(terms.credential)}"


def _left(token: str, told: Life | Moment | None, terms: Terms, at_s: Moments) -> tuple[float | None, ToldBy]:
    """How long the token lives from now on and who says so: the earlier end of a JWT's own and the document's,
    which alone is believed up to `max_ttl_s`.
    """
    own_s = jwt_left_s(token, at_s.wall_s, at_s.written_s)
    told_s = None if told is None else _told_left_s(told, at_s)
    if own_s is None and told_s is None:
        return _untold(terms, at_s)
    left_s, told_by = own_s or 0.0, ToldBy.JWT
    if told_s is not None and (own_s is None or told_s < own_s - cut_off_s(own_s)):
        left_s, told_by = told_s if own_s is not None else min(told_s, terms.max_ttl_s), ToldBy.REPLY
    if left_s <= 0:
        raise _expired(terms.issuer, left_s, definite=at_s.watched)
    return left_s, told_by


def _untold(terms: Terms, at_s: Moments) -> tuple[float | None, ToldBy]:
    if at_s.watched and expiry_path(terms.paths) is None:
        return None, ToldBy.NOBODY
    return terms.default_ttl_s, ToldBy.DEFAULT


def _told_left_s(told: Life | Moment, at_s: Moments) -> float:
    """A moment is on our clock, for there is no other; a life began when the text was written."""
    if isinstance(told, Moment):
        return told.epoch_s - at_s.wall_s
    return told.seconds if at_s.written_s is None else told.seconds - max(0.0, at_s.wall_s - at_s.written_s)


def _expired(issuer: str, left_s: float, *, definite: bool) -> FetchFailure:
    return FetchFailure(f"{issuer} holds a token that expired {-left_s:.0f} s ago", definite=definite, quick=False)
