"""Classify an issuer's refusal by its code (RFC 6749 5.2), status and `Retry-After`. Its text is only quoted.

Also holds the raw reply (`TokenResponse`), before it is known whether it contains a token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl

from gatepass.http_client.fault_text import redirect_place
from gatepass.json_body import decoded
from gatepass.observability.redaction import MASK
from gatepass.replies import content
from gatepass.replies.error_body import CONTENTS, MEMBERS, Mask, before_trace, clean, read_error_body, says_failure
from gatepass.replies.retry_after import retry_after_s
from gatepass.tokens.failure import FailureCase, FailureKind, FetchFailure, oauth_code
from gatepass.types import SERVER_ERROR, Headers, UpstreamErrorBody, header

REPLY_BYTES = 64 * 1024
"""Maximum size of a reply. A token has a few kilobytes."""
MAX_MESSAGE_CHARS = 200
_FORM = r"\s*+[\w.-]++=[^&\s]*+(?:&[\w.-]++=[^&\s]*+)*+\s*+\Z"
DEFINITE_STATUSES = frozenset({400, 401, 403, 422})
"""Statuses with which an issuer refuses a client. A proxy, firewall or mesh in front of the issuer sends them too."""
UNKNOWN_CLIENT = 401
WRONG_PROXY_AUTH = 407
OUTAGE_RETRY_AFTER_S = 3.0
"""The longest `Retry-After` that is obeyed in an outage, so that its end is noticed within 4 s."""
TOO_MANY = 429
WRONG_URL_STATUSES = frozenset({404, 405, 410})
"""A URL from the configuration is wrong. A metadata server returns 404 and 410 while it starts."""
OVERLOADED_STATUSES = frozenset({408, 425, 429})
DEFINITE_CODES = frozenset(
    {
        *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client"),  # RFC 6749 5.2
        *("unsupported_grant_type", "invalid_scope"),
        *("invalid_target", "access_denied"),  # RFC 8707 2, RFC 6749 4.1.2.1
    }
)
TRANSIENT_CODES = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
"""Codes of a busy server (RFC 6749 4.1.2.1, RFC 8628 3.5), with any status."""
REFUSED = "the issuer refused the client: "
WRONG_URL = "the URL is wrong: "
FAULTS: Mapping[str, str] = {FailureCase.REFUSED: REFUSED, FailureCase.WRONG_URL: WRONG_URL}
_SUCCESS_CODE = r"0+\Z|200\d{0,3}\Z"
_REFUSED = r"[0-9]{2,3}(401|403)\Z"
HINTS = ("error_hint", "hint")
"""The reason in a reply of Ory, Authelia or PHP's league/oauth2-server, whose description only explains the code."""
_PATH = r"/{1,2}([A-Za-z._-]{1,20}/)*[A-Za-z._-]{1,20}"
"""A file or an address, which the operator needs in an error text. It is not masked: a token without a digit in 24
characters is improbable."""
_TOKENLIKE = r"[A-Za-z0-9\-._~+/=]{24,}"
"""The text of a 2xx reply may be the token itself, in a member named `message`."""


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """A complete reply. Its headers and body may contain a token, so they are not printed."""

    status: int
    headers: Headers = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def document(self) -> Any:
        """The JSON document or the form in the body; None if it is neither."""
        with suppress(NotJson):
            return parse_json_text(self.text)
        return parse_form(self.text)

    @property
    def content_type(self) -> str:
        value = header(self.headers, b"content-type") or b""
        return value.decode("latin-1").partition(";")[0].strip().lower()

    @property
    def text(self) -> str:
        return decoded(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedTokenResponse(TokenResponse):
    """A reply with the time of its request (Clock.now, Clock.wall). `mask` removes secrets that the reply may echo."""

    requested_s: float
    wall_s: float
    mask: Mask = field(repr=False)


class NotJson(ValueError):
    """The body is not a JSON document."""


def parse_json_text(text: str) -> Any:
    """Return the JSON document `text`, also one in a JSON text; raise NotJson, also for NaN and too deep nesting."""
    try:
        # json.loads accepts NaN and Infinity, which RFC 8259 (section 6) forbids, and `int` rejects.
        found = json.loads(text, parse_constant=int)
        is_twice = isinstance(found, str) and found.lstrip().startswith("{")
        return json.loads(found, parse_constant=int) if is_twice else found
    except (ValueError, RecursionError):
        raise NotJson from None


def parse_form(text: str) -> dict[str, str] | None:
    """Return the members of the form `text` (`access_token=…&expires_in=300`); None without a token and an error."""
    members = dict(parse_qsl(text.strip())) if re.match(_FORM, text) else {}
    return members if members.keys() & {"access_token", "accessToken", "token", "error"} else None


def one_line(text: str, mask: Mask) -> str:
    """Return `text` as one printable line of at most MAX_MESSAGE_CHARS for a log. It is masked before it is cut."""
    words = "".join(c if c.isprintable() else " " for c in mask(text)).split()
    line = " ".join(words)
    return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 1] + "…"


def error_in(document: Any, mask: Mask) -> UpstreamErrorBody | None:
    """Return the error in an issuer's document, also a text or a code alone. Another member may hold a token."""
    if isinstance(document, list):
        document = document[0] if document else None
    if not isinstance(document, dict):
        return None
    members = {name: document[name] for name in (*MEMBERS, *CONTENTS) if name in document}
    found = read_error_body(members, refused=True, mask=mask)
    if found is None or (found.own and not (found.code or found.status)):
        return None
    if isinstance(document.get("error"), str):
        hints = (hint for name in HINTS if isinstance(hint := document.get(name), str) and hint.strip())
        found = replace(found, message=clean(next(hints, found.message), mask))
    # Corporate gateways write `{"code": 0, "msg": "success", ...}` around every reply.
    is_success = not says_failure(document) and re.match(_SUCCESS_CODE, found.code or "") is not None
    return None if is_success else found


def is_definite(found: UpstreamErrorBody) -> bool:
    """Return whether a later attempt cannot succeed. Corporate logins write 401 as 40101 or 10401."""
    if found.code in TRANSIENT_CODES or found.code in DEFINITE_CODES:
        return found.code in DEFINITE_CODES
    if found.written_status in DEFINITE_STATUSES:
        return True
    return re.match(_REFUSED, found.code or "") is not None and found.written_status not in OVERLOADED_STATUSES


def is_transient(found: UpstreamErrorBody) -> bool:
    """Return whether the error describes an outage. Not a 500: some logins return it for a wrong password."""
    if found.code in DEFINITE_CODES or found.code in TRANSIENT_CODES:
        return found.code in TRANSIENT_CODES
    return found.written_status in OVERLOADED_STATUSES or (found.written_status or 0) > SERVER_ERROR


def kind_of(found: UpstreamErrorBody) -> FailureKind:
    if is_definite(found):
        return FailureKind.REFUSED
    is_outage = is_transient(found) and found.written_status != TOO_MANY
    return FailureKind.OUTAGE if is_outage else FailureKind.LIMITED


def words_of(found: UpstreamErrorBody) -> str:
    """Return the code and the text of an error: `invalid_client: No such client`."""
    is_whole = found.own or not found.code or found.code == found.message
    return found.message if is_whole else f"{found.code}: {found.message}"


def error_response_failure(
    reply: TimedTokenResponse, issuer: str, *, is_wrong_url: bool = False, is_login: bool = False
) -> FetchFailure:
    """Return the failure of a reply that is not 2xx.

    `is_wrong_url`: the status means that the configured URL is wrong. `is_login`: an error object with a 500 may be a
    refusal too. Repeating it every two seconds would lock the account.
    """
    if 300 <= reply.status < 400:
        return FetchFailure(_redirect_message(reply, issuer), retry_after_s=wait_s(reply))
    if reply.status == WRONG_PROXY_AUTH:
        # Each further attempt could lock the account at the proxy, so this is definite.
        return FetchFailure(f"the proxy in front of {issuer} refuses (407)", FailureKind.REFUSED)
    found = error_in(reply.document, reply.mask)
    is_own = found is not None and not (found.code or "").startswith(str(reply.status))
    if found is not None and is_own and found.written_status == reply.status:  # repeated by Spring, NestJS
        found = replace(found, written_status=None) if found.code or not found.own else None
    page = issuer_page(reply) if found is None else None
    if found is not None:
        text = words_of(found)
    elif page is not None:
        text = f"an HTML page, {page.title}" if page.title else "an HTML page"
    else:
        text = before_trace(content.words(reply.body))
    words = one_line(text, reply.mask)
    is_refused = _is_definite(reply, found)
    if found is not None:  # with an unknown code it may be a refusal
        may_be_refusal = reply.status in DEFINITE_STATUSES or (is_login and reply.status == SERVER_ERROR)
        is_unclear = may_be_refusal and not is_transient(found)
    else:
        is_unclear = reply.status == UNKNOWN_CLIENT and page is None
    kind = FailureKind.OUTAGE
    if is_refused or is_wrong_url:
        kind = FailureKind.REFUSED
    elif is_unclear or reply.status == TOO_MANY:
        kind = FailureKind.LIMITED
    case = FailureCase.REFUSED if is_refused else FailureCase.WRONG_URL if is_wrong_url else ""
    why = f"{FAULTS.get(case, '')}{issuer} answered {reply.status}{': ' if words else ''}{words}"
    failure = FetchFailure(
        why if page is None else page.added_to(why),
        kind,
        case=case,
        code=oauth_code(words if reply.status not in DEFINITE_STATUSES or re.search(r"\w", words) else "no_words"),
        retry_after_s=wait_s(reply, words, kind),
    )
    failure.detail = page.detail if page is not None else failure.detail
    return failure


def issuer_page(reply: TimedTokenResponse) -> content.Page | None:
    """Return what an HTML page says in place of a reply, with everything masked that looks like a token."""
    if not content.is_html(reply.headers, reply.body):
        return None
    return content.read_page(reply.headers, reply.body, lambda text: mask_token_like(reply.mask(text)))


def embedded_error_failure(document: Any, reply: TimedTokenResponse, issuer: str) -> FetchFailure | None:
    found = error_in(document, reply.mask)
    if found is None:
        return None
    is_refused, kind, words = is_definite(found), kind_of(found), quoted(found, reply.mask)
    return FetchFailure(
        f"{REFUSED if is_refused else ''}{issuer} answered {reply.status} with an error: {words}",
        kind,
        # a code that nobody knows may be a refusal
        case=FailureCase.REFUSED if is_refused or (found.own and found.code) else "",
        code=oauth_code(words),
        retry_after_s=wait_s(reply, words, kind),
    )


def quoted(found: UpstreamErrorBody, mask: Mask) -> str:
    """Return the error's text from a place that may contain a token, with everything that looks like a token masked."""
    return one_line(mask_token_like(words_of(found)), mask)


def mask_token_like(text: str) -> str:
    """Return `text` with everything masked that looks like a token. Paths stay."""
    return re.sub(_TOKENLIKE, lambda found: found[0] if re.fullmatch(_PATH, found[0]) else MASK, text)


def _is_definite(reply: TokenResponse, found: UpstreamErrorBody | None) -> bool:
    """Return whether the issuer itself refuses the client.

    The status alone does not prove it. Proxies and firewalls before the issuer send the same status with a page, a line
    of text or nothing (Envoy's "RBAC: access denied"). A 401 with `WWW-Authenticate` (RFC 9110 15.5.2) has checked the
    credentials.
    """
    if found is not None and found.code in TRANSIENT_CODES:  # the issuer's code overrides the status
        return False
    if reply.status == UNKNOWN_CLIENT and header(reply.headers, b"www-authenticate") is not None:
        return True
    if found is None:
        return False
    if reply.status in DEFINITE_STATUSES:
        return reply.status == UNKNOWN_CLIENT or is_definite(found)
    return found.code in DEFINITE_CODES


def wait_s(reply: TimedTokenResponse, words: str = "", kind: FailureKind = FailureKind.OUTAGE) -> float | None:
    """Return the seconds that the issuer asks to wait; at most OUTAGE_RETRY_AFTER_S in an outage."""
    asked_s = retry_after_s(reply.status, reply.headers, words, reply.wall_s)
    return asked_s if asked_s is None or kind is not FailureKind.OUTAGE else min(asked_s, OUTAGE_RETRY_AFTER_S)


def _redirect_message(reply: TimedTokenResponse, issuer: str) -> str:
    # Masked before a host is read, because that is in lower case.
    where = reply.mask((header(reply.headers, b"location") or b"").decode("latin-1"))
    try:
        place = redirect_place(where, issuer)
    except ValueError:
        place = ""
    target = f" to {place}" if place and place.isascii() and place.isprintable() else ""
    return f"{issuer} answered {reply.status}, a redirect{target}"
