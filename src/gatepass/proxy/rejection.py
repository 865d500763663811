"""When is an error of an upstream its way to say that it does not take the token? Pure."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from gatepass.config.upstream import Rejection
from gatepass.dialects.error_body import kind_of
from gatepass.errors import GatepassError, UpstreamAuth, UpstreamError, UpstreamHtml, UpstreamRedirect, UpstreamRefusal

UNAUTHORIZED = 401
SERVER_ERROR = 500

_LOGIN = re.compile(
    r"(?:\A|/)(?:log-?[io]n|sign-?in|sso|saml2?|oauth2?|openid-connect|adfs|cas|idp|auth)(?:[/.;_-]|\Z)", re.IGNORECASE
)
"""A segment of a path behind which people log in."""


def is_rejection(error: GatepassError, told_by: Rejection, host: str) -> bool:
    """Whether `error`, from the upstream at `host` (`name:port`), says that it did not take the token."""
    if isinstance(error, UpstreamRefusal):
        return says_so(error.upstream_status, told_by) or error.upstream_code in told_by.codes
    if isinstance(error, UpstreamRedirect):
        return told_by.login_page and leads_to_login(error.target, host, told_by.login_hosts)
    return isinstance(error, UpstreamHtml) and told_by.login_page


def says_so(status: int, told_by: Rejection) -> bool:
    return status == UNAUTHORIZED or status in told_by.statuses


def named(error: UpstreamError, told_by: Rejection) -> UpstreamError:
    """`error`, or what a code of the configuration makes of it: a client's retry cannot mend it.

    In a 200 that code had no status of its own, so it got 502; now it has.
    """
    if not isinstance(error, UpstreamRefusal) or isinstance(error, UpstreamAuth):
        return error
    if error.upstream_code is None or error.upstream_code not in told_by.codes:
        return error
    status = error.upstream_status if error.upstream_status < SERVER_ERROR else UNAUTHORIZED
    refusal = UpstreamAuth(
        error.message,
        upstream=error.hop.partition(":")[2],
        status=status,
        kind=error.kind if status == error.upstream_status else kind_of(status),
        upstream_code=error.upstream_code,
        param=error.param,
        retry_after_s=error.retry_after_s,
        raw=error.raw,
    )
    refusal.relayed, refusal.should_retry = error.relayed, error.should_retry
    return refusal


def leads_to_login(target: str | None, host: str, login_hosts: list[str] | None) -> bool:
    """Whether a redirect from `host` to `target` ends at a login.

    Without `login_hosts` every other host counts (no API is answered from there, and gatepass follows
    no redirect), and a path of this one with a word such as `login`; not the step from http to https,
    or to a path with a slash at its end: these say that `base_url` is wrong.
    """
    try:
        own, there = urlsplit(f"//{host}").hostname, urlsplit(target or "")
        name = there.hostname or own
    except ValueError:
        return False
    if target is None or name is None:
        return False
    if login_hosts is not None:
        return any(fnmatchcase(name, known.lower()) for known in login_hosts)
    return name != own or _LOGIN.search(there.path) is not None
