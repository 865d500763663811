"""Who may come in: decided from the head of a request, before a byte of its body is read."""

from __future__ import annotations

import re
from ipaddress import ip_address

from gatepass.auth.api_keys import KeyRing, presented_key, unwrapped_key
from gatepass.auth.cors import shown_origin
from gatepass.config.access import AccessKey, resolved
from gatepass.config.block import is_loopback
from gatepass.config.model import Config
from gatepass.errors import (
    ForbiddenHost,
    ForbiddenOrigin,
    ForbiddenPeer,
    InvalidApiKey,
    UnsupportedMediaType,
)
from gatepass.types import ClientRequest, Headers, header

_HOST = re.compile(rb"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9.-]+))(?::[0-9]{1,5})?")

_OWN_PAGES = (None, b"none", b"same-origin")
"""Values of Sec-Fetch-Site (the Fetch Metadata standard) by which no other page has sent a request."""

LOCAL = AccessKey.model_construct(name="local", hash=None, key=None, models=None, profile=None, max_concurrent=None)
"""The caller of a gatepass without keys, which serves this machine alone."""


class Authenticator:
    """The first hop's rules. With keys: a known one. Without: this machine, and no foreign page in its browser."""

    def __init__(self, config: Config) -> None:
        self._ring = KeyRing(config.access.keys)
        self._profiles = resolved(config.profiles)
        self.wants_key = bool(config.access.keys)

    def authenticate(
        self, client_request: ClientRequest, in_path: str | None = None, *, takes_form: bool = False
    ) -> AccessKey:
        """The caller behind `client_request`; `in_path` is the profile that its path names, `takes_form` whether its
        operation takes a multipart form.

        Raises InvalidApiKey, ForbiddenPeer, ForbiddenHost, ForbiddenOrigin, UnsupportedMediaType.
        """
        if not self.wants_key:
            check_local(client_request, takes_form=takes_form)
            return LOCAL
        presented = presented_key(client_request.headers)
        if presented is None:
            raise InvalidApiKey("No API key came with the request. Send it as `Authorization: Bearer <key>`.")
        caller = self._ring.find(presented, client_request.arrived_s) or self._wrapped(
            presented, client_request.arrived_s, in_path
        )
        if caller is None:
            raise InvalidApiKey("This API key is not known to gatepass. Check the client's API key setting.")
        return caller

    def check_page(self, client_request: ClientRequest, *, from_anywhere: bool = False) -> None:
        """Raises ForbiddenHost and ForbiddenOrigin where no page of that origin may get any answer, with or without
        a key: a gatepass without keys opens to none by a profile. With `from_anywhere` other machines may ask (their
        probes name this one by its address); else raises ForbiddenPeer for them."""
        if not self.wants_key:
            check_host_and_origin(client_request, from_anywhere=from_anywhere)

    def _wrapped(self, presented: str, now: float, in_path: str | None) -> AccessKey | None:
        """The caller whose key stands inside a JSON object, where its profile takes it out of there."""
        key = unwrapped_key(presented)
        caller = None if key is None else self._ring.find(key, now)
        if caller is None:
            return None
        profile = self._profiles.get(in_path if in_path is not None else caller.profile or "plain")
        return caller if profile is not None and profile.unwraps_keys else None


def check_local(client_request: ClientRequest, *, takes_form: bool = False) -> None:
    """Without keys a web page must not be able to use this gateway: not by another name of this
    machine (DNS rebinding, the class of CVE-2025-66416), not from a foreign origin, and not by the
    forms and plain-text posts that browsers send without asking first."""
    check_host_and_origin(client_request)
    kind = _media_type(client_request.headers)
    if (
        takes_form
        and kind == b"multipart/form-data"
        and header(client_request.headers, b"sec-fetch-site") in _OWN_PAGES
    ):
        return  # no browser sends one for another page without saying so: its Origin was looked at
    if client_request.method == "POST" and kind != b"application/json":
        raise UnsupportedMediaType("Send the body as `content-type: application/json`.")


def check_host_and_origin(client_request: ClientRequest, *, from_anywhere: bool = False) -> None:
    """Raises ForbiddenPeer, ForbiddenHost, ForbiddenOrigin; `from_anywhere` as in `Authenticator.check_page`."""
    is_near = is_loopback(client_request.peer)
    if not is_near and not from_anywhere:
        raise ForbiddenPeer(
            f"Without keys gatepass serves clients on the same machine only. This client is at"
            f" {client_request.peer or 'an unknown address'}."
            " Set access.keys (see `gatepass keys new`) to serve others."
        )
    hosts = [_host_of(value) for name, value in client_request.headers if name == b"host"]
    if len(hosts) != 1 or not (is_loopback(hosts[0]) or (not is_near and _is_address(hosts[0]))):
        raise ForbiddenHost(
            "Without keys gatepass answers to localhost only. Set access.keys (see `gatepass keys new`) to open it."
        )
    origins = [value for name, value in client_request.headers if name == b"origin"]
    for value in origins:
        if not _is_local_page(value):
            raise ForbiddenOrigin(
                "CORS: without keys gatepass serves no pages of other origins, and this one is of"
                f" {shown_origin(value)}. Set access.keys, and add that origin to profiles.NAME.cors_origins."
            )
    if not origins and any(
        name == b"sec-fetch-site" and value not in _OWN_PAGES for name, value in client_request.headers
    ):
        raise ForbiddenOrigin(
            "Without keys gatepass serves no pages of other sites, and the browser says (Sec-Fetch-Site) that one sent"
            " this request. Set access.keys (see `gatepass keys new`) to serve others."
        )


def _host_of(value: bytes) -> str:
    """The name in a Host header without its port, `[::1]:8080` and `localhost:8080`; "" where it is neither form."""
    found = _HOST.fullmatch(value)
    return (found["v6"] or found["name"]).decode("ascii") if found else ""


def _is_local_page(origin: bytes) -> bool:
    """Whether an Origin is that of a page which a web server on this machine has served, and no extension's."""
    scheme, _, host = origin.partition(b"://")
    return scheme in (b"http", b"https") and is_loopback(_host_of(host))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _media_type(headers: Headers) -> bytes:
    return (header(headers, b"content-type") or b"").partition(b";")[0].strip().lower()
