"""From an issuer's reply to a token and its life, or to the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gatepass.call import header
from gatepass.config.credential.reply import ReplyPaths
from gatepass.tokens.bearer import bearer
from gatepass.tokens.document import expiry_path, found_token, is_text, ordinary_names, told_life
from gatepass.tokens.expiry import Life, Moment, certain_s, date_of, is_jwt, jwt_life_s, jwt_span
from gatepass.tokens.failure import FetchFailure, look_at, names_its_place
from gatepass.tokens.life import Kind, ToldBy, cut_off_s
from gatepass.tokens.refusal import MISDIRECTED, denial, denies, refusal
from gatepass.tokens.reply import Mask, NotJson, Reply, document_of, folded, is_html, page_title


@dataclass(frozen=True, slots=True)
class Terms:
    """How the replies of one issuer are read. `issuer` is its name for people: a host, a program, a file.

    `header` names the response header that holds the token, where the body does not. `credential` and
    `address` name the settings to look at: the block under `credentials`, and that of the URL in it, where the
    URL is the configuration's own. `by_login`: the reply is a login's, which says no in any words.
    """

    issuer: str
    default_ttl_s: float
    max_ttl_s: float
    paths: ReplyPaths = field(default_factory=ReplyPaths)
    plain_text: bool = False
    header: str | None = None
    credential: str = ""
    address: str | None = None
    by_login: bool = False


@dataclass(frozen=True, slots=True)
class Minted:
    """What a good reply holds. `life_s` counts from the start of the fetch and is above zero; None is a
    key that does not expire.

    `no_expiry_at` is the configured path that told no expiry where nothing else told one either.
    """

    text: str = field(repr=False)
    life_s: float | None
    kind: Kind
    told_by: ToldBy
    no_expiry_at: str | None = None


def read(reply: Reply, terms: Terms, wall_s: float, mask: Mask) -> Minted:
    """The token of `reply`; raises FetchFailure with the issuer's own words.

    `wall_s` is Clock.wall at the start of the fetch. A 2xx reply is never quoted beyond the
    members of an error object: it might hold a token in a place where nobody looks for one.
    """
    if not 200 <= reply.status < 300:
        raise _refused(reply, terms, wall_s, mask)
    found, document, home = _found(reply, terms, mask)
    if denies(document) and (failure := denial(document, reply, wall_s, terms.issuer, mask)):
        raise failure
    if not is_text(found):
        failure = denial(document, reply, wall_s, terms.issuer, mask)
        raise failure or FetchFailure(_no_token(document, found, terms), unclear=terms.by_login)
    text = bearer(found, terms.issuer)
    told = told_life(document, home, terms.paths)
    life_s, told_by = _life(text, told, reply, terms, wall_s)
    unheard = expiry_path(terms.paths) if told is None and told_by is ToldBy.DEFAULT else None
    return Minted(text, life_s, Kind.JWT if is_jwt(text) else Kind.OPAQUE, told_by, unheard)


def _refused(reply: Reply, terms: Terms, wall_s: float, mask: Mask) -> FetchFailure:
    """Beyond 2xx: a URL of the configuration that nobody knows there will not be known a second later."""
    misdirected = terms.address is not None and reply.status in MISDIRECTED
    failure = refusal(reply, wall_s, terms.issuer, mask, misdirected=misdirected, by_login=terms.by_login)
    if not misdirected and not is_html(reply):
        return failure
    return failure.worded(f"{failure.reason}{look_at(terms.credential, terms.address)}")


def _found(reply: Reply, terms: Terms, mask: Mask) -> tuple[Any, Any, Any]:
    """What stands where the token is looked for, the document, and the object that the token is a member of."""
    if terms.header is not None and (value := header(reply.headers, terms.header.lower().encode())) is not None:
        return value.decode("latin-1"), _document_beside(reply), None
    if not reply.body.strip():
        raise FetchFailure(f"{terms.issuer} answered {reply.status} with an empty body")
    document = _document(reply, terms, mask)
    if terms.header is not None:
        return None, document, None
    found, home = found_token(document, terms.paths, plain_text=terms.plain_text)
    return found, document, home


def _document_beside(reply: Reply) -> Any:
    """The body beside a token in a header: it need not be a document."""
    try:
        return document_of(reply.text)
    except NotJson:
        return None


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
        page = f"{terms.issuer} answered {reply.status} with an HTML page{named} instead of a token"
        raise FetchFailure(page + look_at(terms.credential, terms.address))
    if not terms.plain_text:
        raise FetchFailure(f"{terms.issuer} answered {reply.status} with a body that is not JSON")
    return text


def _no_token(document: Any, found: Any, terms: Terms) -> str:
    if terms.header is not None:
        return f"{terms.issuer} answered without a token in its header {terms.header}"
    where = f" at {terms.paths.token}" if terms.paths.token else ""
    if found is not None and not isinstance(found, str | dict | list):
        return f"{terms.issuer} answered with a token{where} that is not text"
    names = ordinary_names(document)
    if not names:
        return f"{terms.issuer} answered without a token{where}"
    place = names_its_place(terms.credential) if terms.by_login else ""
    return f"{terms.issuer} answered without a token{where}; the reply has {names}{place}"


def _life(text: str, told: Life | Moment | None, reply: Reply, terms: Terms, wall_s: float) -> tuple[float, ToldBy]:
    """How long the token lives and who says so.

    Of a JWT's own end and the reply's the earlier counts. The reply's alone is believed up to
    `max_ttl_s`: a life of five minutes that is announced as 300000 must not become three days. A moment that has passed
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
        return _earlier(text, own_s, told)
    if isinstance(told, Moment):
        told = Life(told.epoch_s - wall_s if date_s is None else certain_s(told.epoch_s, date_s))
    if told is None or told.seconds <= 0:
        return terms.default_ttl_s, ToldBy.DEFAULT
    return min(told.seconds, terms.max_ttl_s), ToldBy.REPLY


def _earlier(text: str, own_s: float, told: Life | Moment | None) -> tuple[float, ToldBy]:
    """What is left of a JWT of which `own_s` is left by its own word, where its reply may have told an earlier end.

    A moment is compared with the JWT's own, both on the issuer's clock: no difference between clocks comes in.
    A life that is only guessed is not held against the JWT when it comes again (`no_longer_than`).
    """
    span, told_s = jwt_span(text), None
    if isinstance(told, Life):
        told_s = told.seconds
    elif told is not None and span is not None:
        told_s = own_s - (span.end_s - told.epoch_s)
    if told_s is not None and 0 < told_s < own_s - cut_off_s(own_s):
        return told_s, ToldBy.REPLY
    return own_s, ToldBy.REPLY if span is not None and span.is_guess else ToldBy.JWT
