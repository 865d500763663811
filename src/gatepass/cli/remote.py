"""`gatepass doctor --url`: test a running gatepass as a client sees it, with a base URL and a key alone.

Its errors name the hop that failed behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec

from gatepass.cli.options import CALL_OPERATIONS, operation_by_name
from gatepass.cli.probe import MODELS_SHOWN, STREAM_TOKENS, UNLISTED, split_advice
from gatepass.cli.reach import Begin, Server, Step, StepOutcome, Steps, reach
from gatepass.config.wording import did_you_mean
from gatepass.errors import OperationNotAllowed
from gatepass.normalize.profiles import untyped
from gatepass.observability.redaction import Redactor
from gatepass.operations.table import samples
from gatepass.protocols import PROTOCOLS
from gatepass.types import Headers

HOP = "gatepass"
PAGE_S, CALL_S = 10.0, 60.0
"""The limits of a page or list, and of a real call."""
# a server that is not gatepass may send without end
REPLY_BYTES = 8 * 1024 * 1024
ADVICE_WORDS = {
    "--url.network.ca_file": "the variable SSL_CERT_FILE",
    "--url.network.client_cert": "a client certificate",
    "--url.network.proxy": "a proxy",
}
"""What a client's machine has in place of settings. OpenSSL reads the variable."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of `--url`: what to test at a gatepass. Only with `call` it sends real calls."""

    model: str | None = None
    operation: str | None = None
    call: bool = False


@dataclass(frozen=True, slots=True)
class Remote:
    """A gatepass, its base URL as a client has it (`http://host:8080/v1`), and the `redactor` of the API key."""

    base_url: str
    client: httpx2.AsyncClient = field(repr=False)
    redactor: Redactor = field(repr=False)

    @property
    def root(self) -> str:
        """The URL of the pages: the base URL without `/for/PROFILE` and `/v1`."""
        return self.base_url.rstrip("/").removesuffix("/v1").partition("/for/")[0]


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, or why there is none (`status` 0). `first_s` is the time to the first byte of the body."""

    status: int
    body: bytes = field(repr=False)
    seconds: float
    first_s: float = 0.0
    gap_s: float = 0.0


async def diagnose_url(base_url: str, key: str | None, asked: Asked, begin: Begin) -> Steps:
    """Yield the steps to a running gatepass: the network, its pages, its model list and on request real calls."""
    server = Server(HOP, base_url, "--url", "--url")
    async for step in reach(server, begin=begin):
        advice = step.advice
        for setting, text in ADVICE_WORDS.items():
            advice = advice.replace(setting, text)
        yield replace(step, advice=advice)
        if step.failed:
            return
    redactor = Redactor()
    redactor.learn(key or "")
    headers = {"accept": "application/json"} | ({} if key is None else {"authorization": f"Bearer {key}"})
    # Without the client's timeouts, because `_ask` limits each request as a whole.
    # `reach` has tested the direct path, so the variables of a proxy must not choose another
    async with httpx2.AsyncClient(headers=headers, trust_env=False, timeout=None) as client:
        remote = Remote(base_url.rstrip("/"), client, redactor)
        for page in ("/healthz", "/readyz"):
            begin(HOP, page)
            step = _page_step(page, await _ask(remote, "GET", remote.root + page, None, PAGE_S))
            yield step
            # without /healthz it is not a gatepass; without /readyz its model list still shows why
            if step.failed and page == "/healthz":
                return
        begin(HOP, "models")
        answer = await _ask(remote, "GET", f"{remote.base_url}/models", None, PAGE_S)
        listed = listed_models(answer.body) if answer.status == HTTPStatus.OK else []
        yield _list_step(answer, listed, asked, has_key=key is not None)
        if not asked.call:
            return
        # a chat: most gateways support it, and its answer is short
        chosen = asked.model or next((name for name in listed if operation_by_name(name) == "chat"), None)
        if chosen is None:
            yield Step(
                HOP,
                "call",
                StepOutcome.SKIPPED,
                "no model to call",
                "Name one: gatepass doctor MODEL --url URL --call.",
            )
            return
        by_name = operation_by_name(chosen)
        for step in await _call_steps(
            remote, chosen, asked.operation or (by_name if by_name in CALL_OPERATIONS else "chat"), begin
        ):
            yield step


def _page_step(page: str, answer: Answer) -> Step:
    document = _document(answer.body)
    if page == "/healthz" and not (answer.status == HTTPStatus.OK and document.get("status") == "ok"):
        why = _why(answer) if answer.status != HTTPStatus.OK else "it is not a page of gatepass"
        advice = "Check --url: the base URL of gatepass, such as https://gatepass.corp.example/v1."
        return _step(page, StepOutcome.FAILS, f"GET {page}: {why}", answer, advice)
    if answer.status != HTTPStatus.OK:
        advice = "No upstream has a usable token. Run `gatepass doctor` where gatepass runs, or read its /status."
        return _step(page, StepOutcome.FAILS, f"GET {page}: {_why(answer)}", answer, advice)
    return _step(
        page, StepOutcome.WORKS, "gatepass is alive" if page == "/healthz" else "an upstream has a usable token", answer
    )


def _list_step(answer: Answer, listed: Sequence[str], asked: Asked, *, has_key: bool) -> Step:
    if answer.status != HTTPStatus.OK:
        step = _failed("models", answer)
        if _document(answer.body).get("error", {}).get("code") == OperationNotAllowed.code:
            return replace(step, outcome=StepOutcome.UNPROVEN)  # the key is accepted, and need not list the models
        if answer.status == HTTPStatus.UNAUTHORIZED:
            advice = "Set GATEPASS_KEY to a key of this gatepass (gatepass keys list shows their names)."
            return replace(step, advice=advice)
        return step
    count = "1 model" if len(listed) == 1 else f"{len(listed)} models"
    why = f"{count}, and the key is accepted" if has_key else f"{count}, and no key was required"
    if (model := asked.model) and untyped(model) not in listed:
        missing = f"the list has no model {model}{did_you_mean(model, list(listed)[:MODELS_SHOWN])}"
        return _step("models", StepOutcome.UNPROVEN if asked.call else StepOutcome.FAILS, missing, answer, UNLISTED)
    return _step("models", StepOutcome.WORKS, why, answer)


async def _call_steps(remote: Remote, model: str, operation: str, begin: Begin) -> list[Step]:
    sample, steps = samples(operation, model)[0], []
    body = msgspec.json.decode(sample.body, type=dict[str, Any])
    bodies = {"call": body}
    if "stream" in sample.operation.members:
        bodies["stream"] = {**body, "max_tokens": STREAM_TOKENS, "stream": True}
    for what, sent in bodies.items():
        begin(HOP, what)
        answer = await _ask(remote, "POST", remote.base_url + sample.operation.path, sent, CALL_S, sample.headers)
        if answer.status != HTTPStatus.OK:
            steps.append(_failed(what, answer))
        elif what == "stream" and PROTOCOLS[sample.operation.protocol].end_mark not in answer.body:
            fault = error_text(answer.body.rpartition(b"data:")[2])
            steps.append(
                _step(what, StepOutcome.FAILS, f"{operation} with {model}: the stream broke off: {fault}", answer)
            )
        else:
            timing = f", first byte after {answer.first_s:.2f} s, longest gap {answer.gap_s:.2f} s" * (what == "stream")
            steps.append(_step(what, StepOutcome.WORKS, f"{operation} with {model}: 200{timing}", answer))
    return steps


def _failed(what: str, answer: Answer) -> Step:
    """Return the step of an error reply, at the hop that the error names."""
    why, advice = split_advice(_why(answer))
    return replace(_step(what, StepOutcome.FAILS, why, answer, advice), hop=error_hop(answer.body) or HOP)


def _step(what: str, outcome: StepOutcome, why: str, answer: Answer, advice: str = "") -> Step:
    proves = what not in ("/healthz", "/readyz")
    return Step(HOP, what, outcome, why, advice, answer.seconds, proves=proves)


def _why(answer: Answer) -> str:
    return f"{answer.status}: {error_text(answer.body)}" if answer.status else answer.body.decode()


async def _ask(
    remote: Remote,
    method: str,
    url: str,
    body: Mapping[str, Any] | None,
    limit_s: float,
    headers: Headers = (),
) -> Answer:
    """Send one request and read its whole reply. If there is none, the Answer has the status 0 and the reason."""
    clock = asyncio.get_running_loop().time
    began_s, pieces, moments_s = clock(), bytearray(), [clock()]
    try:
        async with (
            asyncio.timeout(limit_s),
            remote.client.stream(
                method, url, json=None if body is None else dict(body), headers=list(headers)
            ) as response,
        ):
            async for piece in response.aiter_bytes():
                pieces += piece
                moments_s.append(clock())
                if len(pieces) > REPLY_BYTES:
                    return Answer(0, b"the reply is larger than a reply to this request can be", clock() - began_s)
    except TimeoutError:
        return Answer(0, f"no complete reply within {limit_s:g} s".encode(), clock() - began_s)
    except httpx2.HTTPError:
        return Answer(0, b"the connection broke before the reply was complete", clock() - began_s)
    # The first moment is the start of the request, so the wait for the first byte is not a gap.
    gaps_s = [later - earlier for earlier, later in pairwise(moments_s[1:])]
    # an empty body has no first byte
    first_s = moments_s[min(1, len(moments_s) - 1)] - began_s
    masked = remote.redactor.mask(pieces.decode("latin-1")).encode("latin-1")  # before anything cuts the text
    return Answer(response.status_code, masked, clock() - began_s, first_s, max(gaps_s, default=0.0))


def checked_url(url: str) -> str | None:
    """Return `url` without a final slash, None if it is not an http or https URL of printable ASCII."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    if not is_url or parts.username or parts.query or parts.fragment or not url.isascii() or not url.isprintable():
        return None
    return url.rstrip("/")


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def listed_models(body: bytes) -> list[str]:
    found = _document(body).get("data")
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    # RAGFlow's list has names with a suffix, which nobody types
    return [untyped(entry["id"]) for entry in entries if isinstance(entry.get("id"), str)]


def error_text(body: bytes) -> str:
    """Return the message of an error reply, or the beginning of its body."""
    error = _document(body).get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else body[:200].decode("utf-8", "replace").strip() or "an empty body"


def error_hop(body: bytes) -> str | None:
    """Return the hop in an error of gatepass: `client`, `gatepass`, `credential:NAME` or `upstream:NAME`."""
    error = _document(body).get("error")
    hop = error.get("hop") if isinstance(error, dict) else None
    return hop if isinstance(hop, str) else None
