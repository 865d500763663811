"""Classify the head or the whole body of a reply: a valid document, or an error. Pure: no I/O.

A reply of status 200 may be an error, a login page, empty, or a stream without events. Today's SDKs turn each of these
into an empty answer without an exception.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec.structs import replace

from gatepass import errors
from gatepass.config.advice import Advice, filled
from gatepass.config.upstream import RejectionConfig
from gatepass.dialects.hints import (
    ABSENT,
    HINTS,
    NO_SUCH_PAGE,
    OF_TOKENS,
    REJECTION,
    Hint,
    Remedy,
    case_of,
    says_no_path,
)
from gatepass.errors import sentence
from gatepass.http_client.fault_text import redirect_place
from gatepass.json_body import decoded
from gatepass.observability.redaction import whole_words
from gatepass.observability.story import names_of
from gatepass.replies import content
from gatepass.replies.error_body import (
    DETAIL_CHARS,
    MESSAGE_CHARS,
    Mask,
    before_trace,
    clean,
    error_kind,
    is_http_error,
    read_error_body,
    text_of,
)
from gatepass.replies.retry_after import retry_after_s
from gatepass.types import Headers, Hidden, UpstreamErrorBody, header, settings_of

EXCERPT_CHARS = 500


class ReceivedReply(Hidden, msgspec.Struct, frozen=True):
    """A whole reply, its sender, and the Unix time `wall_s` at which it arrived."""

    upstream: str
    status: int
    headers: Headers
    body: bytes = b""
    host: str = ""
    wall_s: float = 0.0
    mask: Mask = str
    hints: tuple[Hint, ...] = HINTS
    key: str | None = ""
    """The words for the key that was sent; "" if it was a token, None if gatepass sent no credential."""
    rejected: Remedy = Remedy("")
    """What to do if the upstream rejects the key, or requires a credential."""
    rejection: RejectionConfig = RejectionConfig()
    """What is known to reject the token, and so no news."""
    is_cut: bool = False
    """Whether `body` is only the beginning of an error."""
    model: str = ""
    operation: str = ""
    """What the client requested."""
    route: str = ""
    """The setting that chose the upstream for this model, "" if an operation's or `*` did."""
    path: str = ""
    """The operation's, without the version. "" for any."""
    missing: str = "no_version"
    """The case of an error that means that the upstream lacks the path of the request."""
    largest: tuple[str, int] = ("", 0)
    """The setting of the header of the request that may be too large, and its size in bytes."""

    @property
    def names(self) -> Mapping[str, str]:
        return names_of(f"upstream:{self.upstream}", self.operation, self.model)

    @property
    def sender(self) -> str:
        return f'The upstream "{self.upstream}"' + (f" ({self.host})" if self.host else "")

    @property
    def answered(self) -> str:
        """`The upstream "chat" (host) answered 503 Service Unavailable`"""
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = ""
        return f"{self.sender} answered {self.status} {phrase}".rstrip()

    @property
    def support_id(self) -> str:
        size = content.SEARCHED_PAGE_BYTES
        start = self.body if len(self.body) <= size else whole_words(self.body[:size])
        return content.support_id(self.mask(decoded(start))) or ""

    def named(self, page: content.Page) -> str:
        """A description of an HTML page by its title and its id, without its content."""
        titled, support_id = f' titled "{page.title}"' if page.title else "", self.support_id
        return f"an HTML page{titled}{f' (id {support_id})' if support_id else ''}"


SHOWN_MEMBERS = 8
"""The most member names of an invalid reply that an error lists."""

_AT_BYTE = re.compile(r" \(byte \d+\)")
"""Removed from parse errors, because RAGFlow retries an error with 429 in its text, and a position may contain it."""


_LOGIN = r"(?i)(?:\A|/)(?:log-?[io]n|sign-?in|sso|saml2?|oauth2?|openid-connect|adfs|cas|idp|auth)(?:[/.;_-]|\Z)"
LOGIN_REDIRECT = "login_redirect"
"""The case of a redirect to a login page."""


def leads_to_login(target: str | None, host: str) -> bool:
    """Return whether a redirect from `host` to `target` leads to a login page.

    This is True for each other host, because no API answers from there and gatepass follows no redirect. On the same
    host it is True for a path with a word such as `login`. A redirect from http to https, or to a path with a final
    slash, means that `base_url` is wrong.
    """
    try:
        own, redirected = urlsplit(f"//{host}").hostname, urlsplit(target or "")
        name = redirected.hostname or own
    except ValueError:
        return False
    if target is None or name is None:
        return False
    return name != own or re.search(_LOGIN, redirected.path) is not None


def classify_head(
    upstream: str, status: int, headers: Headers, *, host: str = "", mask: Mask = str
) -> errors.GatepassError | None:
    """Return the error of a redirect or of a status that is not final. None: the body decides.

    gatepass follows no redirect. The error names only the host of its target, because the rest may contain a session.
    """
    if 200 <= status <= 299 or 400 <= status <= 599:
        return None
    reply = ReceivedReply(upstream, status, headers, host=host)
    if 300 <= status <= 399:
        location = header(headers, b"location")
        target = location.decode("latin-1").strip() if location is not None else None
        place = "nowhere (no Location)"
        if target is not None:
            try:
                # masked first, because a host is shown in lower case, in which the mask does not find a secret
                place = clean(redirect_place(mask(target), host), str, EXCERPT_CHARS)
            except ValueError:
                place = "an invalid URL"
            if support_id := content.support_id(unquote(mask(target).partition("?")[2])):
                place = f"{place} (id {support_id})"
        case = LOGIN_REDIRECT if leads_to_login(target, host) else ""
        what = "which is not the API" if case else "which gatepass does not follow"
        message = f"{reply.answered}, a redirect to {place}, {what}."
        advice = str(Advice(case or errors.UpstreamRedirect.code, reply.names))
        return errors.UpstreamRedirect(message, upstream=upstream, case=case, advice=advice)
    return errors.UpstreamInvalid(f"{reply.answered}, an invalid status for a final reply.", upstream=upstream)


def classify_error(reply: ReceivedReply) -> errors.UpstreamError:
    """Return the error of a reply with a status of 400 or more, with the upstream's message if it has one.

    JSON that was cut is not quoted. A 401 becomes UpstreamAuth, a login page with another status UpstreamHtml. Each
    other HTML page has the code `upstream_html` too. A status outside 400 to 599 is replaced by the one that the
    error's text implies, or by 502.
    """
    if content.is_blank(reply.body):
        text = f"{reply.answered} with an empty body."
        return _rejection(reply, UpstreamErrorBody(text, own="page"), "no_reason")
    if (login := login_page(reply)) is not None:
        return login
    if content.is_html(reply.headers, reply.body):
        page = content.read_page(reply.headers, reply.body, reply.mask)
        text = f"{reply.answered} with {reply.named(page)}."
        case = "" if reply.status < 500 else "page_504" if reply.status == 504 else "page_5xx"
        return _rejection(reply, UpstreamErrorBody(text, code=errors.UpstreamHtml.code, own="page"), case, page)
    error_body, case = read_error_body(_document(reply.body), refused=True, mask=reply.mask), ""
    if error_body is None and reply.is_cut and content.first_bytes(reply.body)[:1] in (b"{", b"["):
        error_body = UpstreamErrorBody(f"{reply.answered} with an error that is too large to read (more than 64 KiB).")
    if error_body is None:
        text = content.words(reply.body)
        excerpt = clean(reason := before_trace(text), reply.mask, EXCERPT_CHARS)
        if not re.search(r"\w", excerpt):  # such as {}
            excerpt = f"{reply.answered} with a body without {f'a reason: {excerpt}' if excerpt else 'text.'}"
            case = "no_reason"
        trace = clean(text, reply.mask, DETAIL_CHARS) if reason != text else ""
        error_body = UpstreamErrorBody(excerpt, own="body" if case else "", trace=trace)
    return _rejection(reply, error_body, case)


def _document(body: bytes) -> Any:
    """Parse the JSON of an error. DashScope sends it as an event in a 400 that is not a stream, others add a line."""
    event = content.first_event(body) if content.first_bytes(body).startswith(content.FIELDS) else None
    try:
        return content.parse(event or body)
    except ValueError:
        text = decoded(body).lstrip()
    try:
        return json.JSONDecoder().raw_decode(text)[0] if text[:1] in ("{", "[") else None
    except (ValueError, RecursionError):
        return None


def _rejection(
    reply: ReceivedReply, error_body: UpstreamErrorBody, case: str = "", page: content.Page | None = None
) -> errors.UpstreamErrorReply:
    """Return the error of a reply. `case` is that of a reply without a text, and its `page` decides nothing."""
    status = reply.status if is_http_error(reply.status) else error_body.status or 502
    is_ragflows = status == 403 and error_body.code == "109"
    title = page.title if page else ""
    advice, hinted, setting, cause = reply.rejected if is_ragflows else with_hint(error_body, status, reply, title)
    message = page.added_to(error_body.message) if page else error_body.message
    message = f"{sentence(message)} {cause}" if cause else message
    case = case if case.startswith("page") else hinted or case
    kind = error_body.kind or error_kind(status)
    if status == 401 or is_ragflows:
        refused = f"{reply.sender} does not accept the credential that gatepass sends: {message}"
        lacking = f"{reply.sender} requires a credential that gatepass does not send: {message}"
        message = lacking if reply.key is None else refused
    error = (errors.UpstreamAuth if status == 401 else errors.UpstreamErrorReply)(
        message,
        upstream=reply.upstream,
        status=status,
        kind=kind,
        upstream_code=error_body.code,
        param=error_body.param,
        retry_after_s=retry_after_s(status, reply.headers, error_body.message, reply.wall_s),
        error_body=error_body,
        of_request=not is_http_error(reply.status) and error_body.status is None,
        case=case,
        setting=setting,
        advice=advice,
    )
    error.detail = page.detail if page else error.detail
    return error


def with_hint(error_body: UpstreamErrorBody, status: int, reply: ReceivedReply, title: str = "") -> Remedy:
    """Return what the first hint says that matches the error in `reply`, and the error's case.

    `title` is that of a page.
    """
    # Only the beginning is searched, because the message may be long and the patterns run on the event loop.
    upstream, start = reply.upstream, error_body.message[:MESSAGE_CHARS]
    found = ""
    for hint in reply.hints:
        if hint.operation not in ("", reply.operation) or (hint.statuses and status not in hint.statuses):
            continue
        more = error_body.param if hint.operation else error_body.code if hint.case == REJECTION else None
        is_meant = re.search(hint.pattern, start, re.IGNORECASE) or (more and re.search(hint.pattern, more, re.I))
        if is_meant:
            found = hint.case
            break
    is_page = error_body.own == "page" and status in ABSENT and not reply.support_id  # nothing is at its path
    lacks_page = is_page and (not title or re.search(NO_SUCH_PAGE, title) is not None)
    if not found and (lacks_page or says_no_path(error_body, status, reply.path)):
        return Remedy("", reply.missing, reply.route, _text(reply.missing, "sentence", reply, reply.route))
    if found == "header_too_large":
        setting, size_bytes = reply.largest
        size = f"{size_bytes / 1024:.0f} KiB" if size_bytes >= 1024 else "less than 1 KiB"
        case = found if setting.startswith("credentials.") else "headers_too_large"
        return Remedy(_text(case, "action", reply, setting), case, setting, f"gatepass sends {size} for `{setting}`.")
    if found == REJECTION and reply.key != "":
        advice = reply.rejected.advice
        if reply.key is not None:
            advice = f"If the upstream rejects {reply.key}, {advice[:1].lower()}{advice[1:]}"
        return reply.rejected._replace(advice=advice)
    setting = _rejection_setting(error_body, status, reply) if found == REJECTION else ""
    if not found or (found == REJECTION and not setting):
        return Remedy(case=case_of(error_body, status, upstream, reply.model))
    return Remedy(_text(found, "action", reply, setting), found, setting)


def _rejection_setting(error_body: UpstreamErrorBody, status: int, reply: ReceivedReply) -> str:
    """Return what to add to `rejection`, "" if it has the error, or knows neither a code nor a status of it."""
    setting, known = f"{settings_of(reply.upstream)}.rejection", reply.rejection
    if error_body.code in known.codes or status in known.statuses:
        return ""
    if error_body.code and status not in OF_TOKENS:
        return f"{setting}.codes: [{error_body.code}]"
    return f"{setting}.statuses: [{status}]" if is_http_error(reply.status) else ""


def _text(case: str, member: str, reply: ReceivedReply, setting: str = "") -> str:
    return filled(case, member, {**reply.names, "setting": setting} if setting else reply.names)


def login_page(reply: ReceivedReply) -> errors.UpstreamHtml | None:
    """Return the error of an HTML page in place of an answer; None for another reply.

    With the status of an error it must look like a login page, because many servers send an HTML page with any error.
    A 401 needs no page.
    """
    if not content.is_html(reply.headers, reply.body):
        return None
    if reply.status >= 300 and (reply.status == 401 or not content.is_login_page(reply.body)):
        return None
    page = content.read_page(reply.headers, reply.body, reply.mask)
    message = f"{reply.answered} with {reply.named(page)} instead of JSON, probably a login page or a portal."
    advice = str(Advice(errors.UpstreamHtml.code, reply.names))
    status = reply.status if is_http_error(reply.status) else errors.UpstreamHtml.status
    error = errors.UpstreamHtml(page.added_to(message), upstream=reply.upstream, status=status, advice=advice)
    error.detail = page.detail
    return error


class ReplyForm(Protocol):
    """What a client protocol knows of whole replies: `ClientProtocol` has it."""

    entries: str
    """The list that a reply must have; "" for none."""
    entry: str
    """What one of `entries` is called; "" if the list may be empty."""

    def error_places(self, document: Any) -> Iterable[Any]:
        """Yield the parts of a reply that may be an error."""

    def fault(self, document: Any, mask: Mask) -> str | None:
        """Describe why `document` is not a reply; None if it is one."""


def classify_document(reply: ReceivedReply, form: ReplyForm) -> bytes | errors.GatepassError:
    """Return the document of a whole reply of status 200 to 299, or the error that it contains.

    The same bytes are returned, or the inner document if a gateway wrapped the answer. Most replies take one of two
    fast paths instead, each with a property test against this function: `sse.whole_reply` for chats, and
    `normalize.embeddings_reply` for vectors.
    """
    body = reply.body
    if content.is_blank(body):
        return errors.UpstreamEmpty(f"{reply.answered} with an empty body.", upstream=reply.upstream)
    if (page := login_page(reply)) is not None:
        return page
    if content.is_event_stream(reply.headers, body):
        event = content.first_event(body)
        error_body = None if event is None else read_error_body(_document(event), mask=reply.mask)
        if error_body is not None:
            return _rejection(reply, error_body)
        return invalid(reply, "with an event stream, which is not an answer to this request")
    return _classify_json(reply, form)


WITHOUT_CONTENT = (204, 205)
"""Statuses of a success that never has a body (RFC 9110 15.3.5 and 15.3.6)."""


def _classify_json(
    reply: ReceivedReply, form: ReplyForm, *, may_be_wrapped: bool = True
) -> bytes | errors.GatepassError:
    try:
        document = content.parse(reply.body)
    except ValueError as error:
        if content.first_bytes(reply.body)[:1] not in (b"{", b"["):  # such as a filter's page without markup
            excerpt = clean(content.words(reply.body[: content.WHOLE_BYTES]), reply.mask, EXCERPT_CHARS)
            return invalid(
                reply, f"with a text instead of JSON: {excerpt}" if excerpt else "with neither JSON nor text"
            )
        if (lines := _fault_of_lines(reply)) is not None:
            return lines
        reason = _AT_BYTE.sub("", str(error))
        return invalid(reply, f"with a body that is not JSON or was cut short ({reason})")
    for place in form.error_places(document):
        error_body = read_error_body(place, mask=reply.mask)
        if error_body is not None:
            return _rejection(reply, error_body)
    if may_be_wrapped and (inside := _unwrapped(document, reply.body, form.entries)) is not None:
        # once, because a hostile reply may nest envelopes
        return _classify_json(replace(reply, body=inside), form, may_be_wrapped=False)
    fault = form.fault(document, reply.mask)
    if fault is not None:
        return invalid(reply, fault)
    if form.entry and not document[form.entries]:
        # a filter may have removed the answer, or there may be no answer to the request
        return errors.UpstreamEmpty(
            f"{reply.answered} without a {form.entry}.", upstream=reply.upstream, of_request=True
        )
    return reply.body


def _fault_of_lines(reply: ReceivedReply) -> errors.UpstreamError | None:
    """Return the error of a body with a JSON object in each line, such as the events of a stream; None for another."""
    body = reply.body.strip(content.BLANKS)
    try:
        documents = [content.parse(line) for line in (body.partition(b"\n")[0], body.rpartition(b"\n")[2])]
    except ValueError:
        return None
    found = (read_error_body(document, mask=reply.mask) for document in documents)
    if (error_body := next(filter(None, found), None)) is not None:
        return _rejection(reply, error_body)
    message = f"{reply.answered} with JSON objects in lines, which are neither an event stream nor a whole reply."
    advice = _text("json_lines", "action", reply)
    return errors.UpstreamInvalid(message, upstream=reply.upstream, advice=advice, case="json_lines")


def _unwrapped(document: Any, body: bytes, entries: str) -> bytes | None:
    """Return the answer inside `{"code": 0, "data": {…}}`, the envelope of corporate gateways, or None."""
    inside = document.get("data") if isinstance(document, dict) else None
    if not entries or not isinstance(inside, dict) or isinstance(document.get(entries), list):
        return None
    return (
        content.member(body, "data")
        # of a large body `inside` is only a placeholder
        if len(body) > content.WHOLE_BYTES or isinstance(inside.get(entries), list)
        else None
    )


def fault_of_list(document: Any, name: str, mask: Mask) -> str | None:
    """Describe why `document` has no list of objects `name`; None if it has one."""
    if not isinstance(document, dict):
        return "with JSON that is not an object"
    entries = document.get(name)
    if not isinstance(entries, list):
        return f'with JSON that has no list "{name}" ({shown_members(document, mask)})'
    holds_objects = not entries or isinstance(entries[0], dict)
    return None if holds_objects else f'with a list "{name}" that holds no objects'


def shown_members(document: dict[Any, Any], mask: Mask) -> str:
    """Return the names of the first members, for an error."""
    if not document:
        return "it is empty"
    names = [clean(str(name), mask, 40) for name in list(document)[:SHOWN_MEMBERS]]
    return "it has " + ", ".join(names) + (", …" if len(document) > SHOWN_MEMBERS else "")


def invalid(reply: ReceivedReply, what: str) -> errors.UpstreamInvalid:
    """Return the error of a reply that is not what was asked for, with the text that it has in place of it."""
    words = text_of(_document(reply.body))
    what = f"{what}: {clean(words, reply.mask, EXCERPT_CHARS)}" if words else what
    return errors.UpstreamInvalid(sentence(f"{reply.answered} {what}"), upstream=reply.upstream)
