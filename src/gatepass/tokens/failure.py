"""Why a token could not be fetched, which setting to check, and when to fetch again. Pure functions and values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import copy
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from gatepass.config.advice import Advice, with_variable
from gatepass.config.credential.base import Credential
from gatepass.errors import Fault, TokenUnavailable, sentence


class FailureKind(StrEnum):
    """Which attempt follows a failure.

    - REFUSED: the issuer refused the client, for example because of a wrong secret. Another attempt soon only risks a
      locked account, so the pauses double.
    - LIMITED: too many requests, or an error with an unknown code, such as that of a locked account. The issuer's
      `Retry-After` decides, else LIMITED_S.
    - OUTAGE: everything else.
    """

    REFUSED = "refused"
    LIMITED = "limited"
    OUTAGE = "outage"


class FailureCase(StrEnum):
    """The cause of a failure, which decides the advice. It is "" or a `Fault` if none of these is known.

    - REFUSED: the issuer's own text refuses the client, or may do so.
    - WRONG_URL: the issuer has no such path.
    - EXPIRED: the token of a file, a program or a variable.
    - UNREADABLE: the file of the token.
    """

    REFUSED = "refused"
    WRONG_URL = "wrong_url"
    EXPIRED = "expired"
    UNREADABLE = "unreadable"


class FetchFailure(Exception):
    """One failed attempt of a source, in texts without a secret: `why` names the issuer.

    - `advice`: what the operator does, if that is known.
    - `case`: a FailureCase, or the `Fault` of the connection to the issuer.
    - `code`: the error code of OAuth 2.0 in the issuer's text, which decides the settings to check.
    - `retry_after_s`: the issuer's own `Retry-After`.
    - `from_other_process`: another process sent the request, or was waited for.
    - `detail`: what only the operator reads (`GatepassError.detail`).
    """

    detail: str = ""

    def __init__(
        self,
        why: str,
        kind: FailureKind = FailureKind.OUTAGE,
        *,
        advice: Advice = Advice(),  # noqa: B008 - it never changes
        case: str = "",
        code: str = "",
        retry_after_s: float | None = None,
        from_other_process: bool = False,
    ) -> None:
        super().__init__(why)
        self.why, self.advice = why, advice
        self.kind, self.case, self.code = kind, case, code
        self.retry_after_s = retry_after_s
        self.from_other_process = from_other_process

    def __str__(self) -> str:
        return self.reason

    @property
    def reason(self) -> str:
        """Both texts, for the log and lists of failures."""
        return f"{sentence(self.why)} {self.advice}".removesuffix(".") if self.advice else self.why

    @property
    def is_refused(self) -> bool:
        return self.kind is FailureKind.REFUSED

    @property
    def needs_secret(self) -> bool:
        """Whether another secret may end it: none corrects a URL, logs in to a proxy, or ends a limit."""
        is_limit = self.kind is FailureKind.LIMITED and self.retry_after_s is not None
        is_page = self.advice.case in ("issuer_page", "issuer_redirect") and self.case != FailureCase.REFUSED
        is_elsewhere = self.case in (FailureCase.WRONG_URL, Fault.PROXY) or self.advice.case == "proxy_login" or is_page
        return self.kind is not FailureKind.OUTAGE and not is_limit and not is_elsewhere

    def masked(self, mask: Callable[[str], str] = str) -> FetchFailure:
        """Return a copy with masked texts, and without the traceback, which holds the issuer's reply."""
        other = copy(self)
        other.why, other.advice, other.detail = mask(self.why), self.advice.masked(mask), mask(self.detail)
        other.args = (other.why,)  # also in its repr
        return other


class TokenReissued(TokenUnavailable):
    """The issuer returned the rejected token again. The client receives the upstream's own answer."""


def slow_advice(credential: str, timeout_s: float) -> Advice:
    """Return the advice about an issuer that sent no answer within the credential's `timeout_s`."""
    return Advice("issuer_slow", {"credential": credential, "longer_s": f"{2 * timeout_s:g}"})


REFUSED_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "invalid_client": (
        "client_id",
        "client_secret",
        "private_key",
        "certificate_file",
        "assertion_file",
        "client_auth",
    ),
    "unauthorized_client": ("client_id", "client_secret", "client_auth", "grant_type"),  # Keycloak: a wrong secret
    "unsupported_grant_type": ("grant_type",),
    "invalid_scope": ("scope",),
    "invalid_target": ("audience", "extra"),
    "invalid_resource": ("extra", "scope"),  # Entra
    "invalid_grant": ("subject", "subject_file"),
    "no_words": ("client_id", "client_secret", "client_auth", "scope"),
}
"""The settings to check after an error code of RFC 6749 5.2 or RFC 8707 2, or after a refusal without a text."""
_OTHER_WORDS: Mapping[str, str] = {
    # glewlwyd, and sentences
    "invalid_scope": r"(?i)\bscopes?_(?:invalid|unknown|denied|not_\w+)"
    r"|\b(?:invalid|unknown|unsupported|insufficient)[ _]scopes?\b"
    r"|\bscopes?\b.{0,60} (?:invalid|unknown|unsupported|denied|required|missing|not \w)"
    r"|\bscopes? ?(?:无效|不存在|不支持|未授权|缺失)|AADSTS650053\b",
    "invalid_resource": r"AADSTS(?:500011|50001|90014|900144)\b",
}
"""Of issuers that send another code."""


SOURCE_SETTINGS: Mapping[str, str] = {
    "oauth2": "token_url",
    "http_json": "url",
    "exec": "command",
    "file": "path",
    "static": "token",
    "api_key": "key",
}
"""Where the token of each type comes from."""


def oauth_code(words: str) -> str:
    """Return the code of REFUSED_SETTINGS in an issuer's text, "" without one: issuers wrap it in other words."""
    patterns = [*((code, rf"\b{code}\b") for code in REFUSED_SETTINGS), *_OTHER_WORDS.items()]
    return next((code for code, pattern in patterns if re.search(pattern, words)), "")


def failure_advice(failure: FetchFailure, credential: str, settings: Credential) -> Advice:
    """Return what to do about a failure: its own advice, what to check after a refusal or the end of a token, or where
    the token comes from.

    After a refusal that is the settings of its error code of OAuth 2.0, else the whole credential.
    """
    if failure.advice:
        return failure.advice
    if failure.case == FailureCase.EXPIRED:
        return Advice({"file": "expired_file", "exec": "expired_output"}.get(settings.type, ""))
    block, known = f"credentials.{credential}", REFUSED_SETTINGS.get(failure.code, ())
    names = {"credential": credential}
    known = known if settings.type == "oauth2" else ()
    if used := [name for name in known if name == "scope" or getattr(settings, name) is not None] or known:
        return Advice("refused", {**names, "setting": ", ".join(f"{block}.{name}" for name in used)})
    if failure.case != FailureCase.REFUSED:
        if failure.kind is FailureKind.LIMITED:
            return Advice("issuer_limits")
        source = SOURCE_SETTINGS.get(settings.type)
        return Advice("check_source", {"setting": f"{block}.{source}" if source else block})
    if settings.type == "exec":
        return Advice("refused_program", names)
    # the variable of the secret, where there is one
    secret = f"{block}.{'json' if settings.type == 'http_json' else 'client_secret'}"
    return Advice("refused_client", {**names, "setting": secret if with_variable(secret) != secret else block})


QUICK_WAITS_S = (0.2, 0.5, 1.0)
"""Before the second, third and fourth attempt of one fetch."""
QUICK_JITTER_SHARE = 0.25
PROBE_S = 2.0
PROBE_JITTER_S = 1.0
"""Between the starts of two attempts in an outage. A recovery is noticed within 4 s."""
LIMITED_S = 30.0
REFUSAL_S = 30.0
MAX_REFUSAL_S = 300.0
MAX_RETRY_AFTER_S = 3600.0
"""A longer `Retry-After` is treated as a mistake and shortened."""


class FailureState(msgspec.Struct, frozen=True):
    """The last failure, and when the next attempt starts. `refusals`: those since the last token."""

    failure: FetchFailure
    refusals: int
    next_try_s: float


def quick_wait_s(tries: int, failure: FetchFailure, jitter: float) -> float | None:
    """Return the seconds until the next quick attempt of a fetch that made `tries`; None if there is none."""
    if failure.kind is not FailureKind.OUTAGE or tries > len(QUICK_WAITS_S):
        return None
    # A longer `Retry-After` would exceed a quick attempt. The refresh task obeys it. That of another process is
    # ignored, because this process sent no request.
    retry_after_s = 0.0 if failure.from_other_process else failure.retry_after_s or 0.0
    if retry_after_s > QUICK_WAITS_S[-1]:
        return None
    return max(retry_after_s, QUICK_WAITS_S[tries - 1] * (1 + QUICK_JITTER_SHARE * jitter))


def next_failure_state(
    before: FailureState | None, failure: FetchFailure, began_s: float, now: float, jitter: float
) -> FailureState:
    """Return the state after the failure of an attempt that began at `began_s`. A hung attempt causes no pause."""
    refusals = (before.refusals if before else 0) + failure.is_refused
    # Another process has already counted its refusal into its own pause.
    wait_s = shared_pause_s(failure, 0 if failure.from_other_process else refusals)
    probe_s = now if failure.from_other_process else began_s + PROBE_S + PROBE_JITTER_S * jitter
    return FailureState(failure, refusals, max(probe_s, now + wait_s))


def retry_now(state: FailureState, now: float) -> FailureState:
    """Return the state that tries a changed secret at once."""
    return replace(state, refusals=0, next_try_s=now)


def shared_pause_s(failure: FetchFailure, refusals: int) -> float:
    """Return how long `failure`, after `refusals` in a row, delays fetches in all processes."""
    if failure.retry_after_s is None and failure.kind is FailureKind.LIMITED:
        return LIMITED_S
    pause_s = min(failure.retry_after_s or 0.0, MAX_RETRY_AFTER_S)
    if failure.is_refused and refusals:
        # The exponent is bounded, because a float overflows after a thousand refusals.
        pause_s = max(pause_s, min(REFUSAL_S * 2.0 ** min(refusals - 1, 10), MAX_REFUSAL_S))
    return pause_s
