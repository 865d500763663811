"""Authentication of a request from its head, before its body is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from gatepass import errors
from gatepass.auth.api_keys import PREFIX, KeyRing, presented_keys, unwrapped_key
from gatepass.auth.caller import Caller, callers_of_rows
from gatepass.auth.cors import shown_origin
from gatepass.config import block
from gatepass.config.access import BUILT_IN_PROFILES, moment_text
from gatepass.config.advice import with_variable
from gatepass.config.model import Config
from gatepass.types import ClientRequest

if TYPE_CHECKING:
    from gatepass.auth.jwt_callers import JwtCallers

_HOST = re.compile(rb"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9.-]+))(?::[0-9]{1,5})?")

is_loopback = lru_cache(maxsize=64)(block.is_loopback)
"""To parse an address takes 7 µs, and clients send the same few values. Few entries, because a Host may be long."""

_OWN_PAGES = frozenset((None, b"none", b"same-origin"))
"""Values of Sec-Fetch-Site (Fetch Metadata standard) of a request that no other site sent."""

TWO_KEYS = (
    "The request contains two different API keys or tokens that gatepass knows, in `Authorization`, `x-api-key` or"
    " `api-key`. Send one, as `Authorization: Bearer <key>`."
)

_UNSET = frozenset(("null", "undefined", "None"))
"""What programs write in place of a token that they do not have."""
SIGN_IN = " If an application sends your login's token, sign in there again."

LOCAL = Caller("local", "local", role="admin")
"""The caller of every request to a gatepass without keys, which serves only this machine."""


class Authenticator:
    """Requires a known API key or token. If none is configured: a client on this machine, no page of another site."""

    def __init__(self, config: Config, tokens: JwtCallers | None = None) -> None:
        self.keys = KeyRing(config.access.keys, has_others=bool(config.access.jwt))
        self.tokens = tokens
        """The callers by tokens, None without `access.jwt`."""
        self.configured = (*callers_of_rows(config.access), *self.keys.callers.values())
        """A caller of each row of `access.jwt`, without an identity, and of each key."""
        self.requires_key = config.access.has_callers
        self._page_hosts = frozenset(name.lower() for name in (config.server.host, *config.server.ui_hosts))

    def authenticate(
        self,
        client_request: ClientRequest,
        wall_s: float,
        path_profile: str | None = None,
        *,
        takes_form: bool = False,
        known: Caller | None = None,
    ) -> Caller:
        """Return the caller of an API request that arrived at `wall_s`, in seconds since the epoch.

        `path_profile` is the profile that the path names. `takes_form`: the operation accepts a multipart form.
        `known` is what `prepare` returned.
        Raises InvalidApiKey, NotAllowed, ForbiddenHost, ForbiddenOrigin, UnsupportedHead.
        """
        if not self.requires_key:
            check_host_and_origin(client_request)
            fields = dict(client_request.headers)
            kind = fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
            # Sec-Fetch-Site or Origin show a form that another site sends; both were checked
            is_own_form = kind == b"multipart/form-data" and fields.get(b"sec-fetch-site") in _OWN_PAGES
            # browsers send forms and plain text to other sites without a preflight, but not JSON
            if client_request.method == "POST" and kind != b"application/json" and not (takes_form and is_own_form):
                raise errors.UnsupportedHead(
                    "unsupported_media_type", "Send the body as `content-type: application/json`."
                )
            return LOCAL
        return self._caller(client_request, wall_s, path_profile, known)

    async def prepare(self, client_request: ClientRequest, wall_s: float) -> Caller | None:
        """Verify the token of a request, so that `authenticate` knows its caller. It waits for keys that are unknown.

        Returns the caller if that is clear already: to read the head twice costs more than all of this.

        Raises InvalidApiKey, InvalidToken, NotAllowed, KeySetUnavailable, Overloaded.
        """
        if (tokens := self.tokens) is None:
            return None
        presented = presented_keys(client_request.headers)
        if len(presented) == 1:  # nearly always
            caller = tokens.remembered(presented[0], wall_s) or self.keys.find(presented[0])
            if caller is not None:
                return caller
        found = [token for token in map(tokens.read, presented) if token is not None]
        keys = {key for text in presented if self.keys.find(key := unwrapped_key(text) or text)}
        if len(found) + len(keys) > 1:
            raise errors.InvalidApiKey(TWO_KEYS)
        if not found:
            return None
        return tokens.remembered(found[0].text, wall_s) or await tokens.verdict(found[0], client_request.peer)

    def authenticate_reader(self, client_request: ClientRequest, wall_s: float, known: Caller | None = None) -> Caller:
        """Return the caller of a request to a page that only some roles may read. Arguments as for `authenticate`.

        Raises InvalidApiKey, NotAllowed, ForbiddenHost, ForbiddenOrigin.
        """
        if not self.requires_key:
            check_host_and_origin(client_request)
            return LOCAL
        caller = self._caller(client_request, wall_s, None, known)
        if caller.role == "caller":
            raise errors.NotAllowed(
                "role_not_allowed",
                f"The caller {caller.name!r} may not read {client_request.path}, because it has the role {caller.role}."
                f" {caller.other_role('viewer')}",
            )
        return caller

    def check_page(self, client_request: ClientRequest) -> None:
        """Check a request for the page at /ui, before anything else is done with it.

        Without keys it must come from this machine. With and without keys it must name a Host of this gatepass, and no
        other origin may have sent it. A page of another site cannot use an address: a name of its own that resolves to
        this machine is not one of this gatepass (DNS rebinding). A POST needs an Origin.
        Raises NotAllowed, ForbiddenHost, ForbiddenOrigin.
        """
        if not self.requires_key:
            check_host_and_origin(client_request)
        host = own_host(client_request, self._page_hosts)
        if host is None:
            raise errors.ForbiddenHost(
                "The page of gatepass is not served under this name. Add the name to server.ui_hosts, or open the page"
                " by an IP address. A proxy in front of gatepass must pass on the Host of the browser."
            )
        origins = _values_of(client_request, b"origin")
        is_own = len(origins) == 1 and _is_origin_of(origins[0], host)
        if not is_own and (origins or client_request.method not in ("GET", "HEAD")):
            raise errors.ForbiddenOrigin(
                "The page of gatepass accepts only requests of its own origin. Its proxy must pass on Host unchanged."
            )
        if not _OWN_PAGES.issuperset(_values_of(client_request, b"sec-fetch-site")):
            raise errors.ForbiddenOrigin(
                "The browser reports in Sec-Fetch-Site that another site sent this request. Open the page from the"
                " address bar or a bookmark."
            )

    def check_browser(self, client_request: ClientRequest, origins: Collection[str], setting: str) -> None:
        """Check a request of an authenticated caller, if a web browser may have sent it. `setting` lists `origins`.

        It must name a Host of this gatepass, and its page must be of the same origin or of one of `origins`. A client
        that is no browser sends neither `Origin` nor `Sec-Fetch-Site`. Raises ForbiddenHost, ForbiddenOrigin.
        """
        if not self.requires_key:  # `authenticate` has checked more
            return
        names = dict(client_request.headers)
        if b"origin" not in names and b"sec-fetch-site" not in names:
            return
        sent, sites = _values_of(client_request, b"origin"), _values_of(client_request, b"sec-fetch-site")
        host = own_host(client_request, self._page_hosts)
        if host is None:
            raise errors.ForbiddenHost(
                "A web page sent this request to a name that is not one of this gatepass. Add the name to"
                " server.ui_hosts."
            )
        foreign = [one for one in sent if not (_is_origin_of(one, host) or one.decode("latin-1") in origins)]
        if foreign or not (sent or _OWN_PAGES.issuperset(sites)):
            shown = f" such as {shown_origin(foreign[0])}" if foreign else ""
            raise errors.ForbiddenOrigin(
                f"CORS: gatepass serves no pages of other origins here{shown}. Add it to {setting}."
            )

    def _caller(
        self, client_request: ClientRequest, wall_s: float, path_profile: str | None, known: Caller | None
    ) -> Caller:
        presented = presented_keys(client_request.headers) if known is None else ()
        if known is None and (not presented or (self.tokens is not None and _UNSET.issuperset(presented))):
            what, advice = ("API key", "") if self.tokens is None else ("API key and no token", SIGN_IN)
            raise errors.InvalidApiKey(f"The request has no {what}. Send it as `Authorization: Bearer <key>`.{advice}")
        caller = known or self._known(presented, path_profile)
        if caller is None and self.tokens is not None:
            error = self.tokens.refusal(presented)
            if error.case != "jwt_opaque" or not any(text.startswith(PREFIX) for text in presented):
                raise error
        if caller is None:
            raise errors.InvalidApiKey("The API key is not known to gatepass. Check the client's API key setting.")
        if caller.expires is not None and caller.expires.timestamp() <= wall_s:
            raise errors.InvalidApiKey(
                f"This API key of the caller {caller.name!r} expired at {moment_text(caller.expires)}."
                f" Create another one with `gatepass keys new --name {caller.name}`."
            )
        if caller.key_id:
            self.keys.last_used_s[caller.key_id] = wall_s
        return caller

    def check_without_key(self, client_request: ClientRequest, *, from_anywhere: bool = False) -> None:
        """Check a request that needs no key, such as a health check or a CORS preflight.

        With configured keys it accepts every request. Without keys it raises ForbiddenHost and ForbiddenOrigin, and
        NotAllowed unless `from_anywhere`: probes come from other machines and name this one by its address.
        """
        if not self.requires_key:
            check_host_and_origin(client_request, from_anywhere=from_anywhere)

    def _known(self, presented: Sequence[str], path_profile: str | None) -> Caller | None:
        """Return the caller of the one value that is a key, also an expired one. Nothing reads the others again.

        Claude Desktop sends its own login beside the key. A key and a JSON object that contains the same key do not
        differ: RAGFlow sends both, and only a profile may allow the object alone. Raises InvalidApiKey for two keys.
        """
        if len(presented) == 1 and (only := self.keys.find(presented[0])) is not None:  # nearly always
            return only
        plain = {key: caller for key in presented if (caller := self.keys.find(key))}
        inner = filter(None, map(unwrapped_key, presented))
        wrapped = {key: caller for key in inner if (caller := self.keys.find(key))}
        # a key checked in one header and ignored in another is the class of CVE-2026-45339
        if len(plain | wrapped) > 1:
            raise errors.InvalidApiKey(TWO_KEYS)
        caller = next(iter((plain or wrapped).values()), None)
        if plain or caller is None:
            return caller
        profile = BUILT_IN_PROFILES.get(path_profile if path_profile is not None else caller.profile or "plain")
        return caller if profile is not None and profile.unwraps_keys else None


def check_host_and_origin(client_request: ClientRequest, *, from_anywhere: bool = False) -> None:
    """Require a local peer, Host and Origin. `from_anywhere` as in `Authenticator.check_without_key`.

    Raises NotAllowed, ForbiddenHost, ForbiddenOrigin.
    """
    is_near = is_loopback(client_request.peer)
    if not is_near and not from_anywhere:
        raise errors.NotAllowed(
            "forbidden_peer",
            f"Without keys gatepass serves only clients on the same machine. This client is at"
            f" {client_request.peer or 'an unknown address'}."
            f" Set {with_variable('access.keys')} (see `gatepass keys new`) to serve others.",
        )
    names = next(zip(*client_request.headers, strict=False), ())
    name = _host_of(dict(client_request.headers).get(b"host", b""))
    # another name of this machine in Host is DNS rebinding (the class of CVE-2025-66416)
    if names.count(b"host") != 1 or not (is_loopback(name) or (not is_near and _is_address(name))):
        raise errors.ForbiddenHost(
            "Without keys gatepass serves only requests to localhost."
            f" Set {with_variable('access.keys')} (see `gatepass keys new`) to serve others."
        )
    origins = _values_of(client_request, b"origin") if b"origin" in names else []
    for value in origins:
        scheme, _, host = value.partition(b"://")
        # the scheme of a browser extension's page is neither
        if scheme not in (b"http", b"https") or not is_loopback(_host_of(host)):
            raise errors.ForbiddenOrigin(
                f"CORS: without keys gatepass does not serve pages of other origins, such as {shown_origin(value)}."
                f" Set {with_variable('access.keys')}, and add that origin to server.cors_origins."
            )
    sites = _values_of(client_request, b"sec-fetch-site") if b"sec-fetch-site" in names else []
    if not (origins or _OWN_PAGES.issuperset(sites)):
        raise errors.ForbiddenOrigin(
            "Without keys gatepass does not serve pages of other sites. The browser reports in Sec-Fetch-Site that one"
            " sent this request. Set access.keys (see `gatepass keys new`) to serve others."
        )


def own_host(client_request: ClientRequest, names: Collection[str]) -> bytes | None:
    """Return the Host of the request if it is of this machine, an IP address or one of `names` (lower case)."""
    hosts = _values_of(client_request, b"host")
    name = _host_of(hosts[0]).lower() if len(hosts) == 1 else ""
    is_own = is_loopback(name) or _is_address(name) or (name and name.rstrip(".") in names)
    return hosts[0] if is_own else None


_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


def _is_origin_of(origin: bytes, host: bytes) -> bool:
    """Return whether a page at the Host `host` has `origin`. TLS may end before gatepass, so both schemes are."""
    scheme, _, authority = origin.partition(b"://")
    port = _DEFAULT_PORTS.get(scheme)
    return port is not None and authority.lower().removesuffix(port) == host.lower().removesuffix(port)


def _values_of(client_request: ClientRequest, name: bytes) -> list[bytes]:
    return [value for given, value in client_request.headers if given == name]


def _host_of(value: bytes) -> str:
    """Return the name in a Host header without its port: `[::1]:8080`, `localhost:8080`. "" if it is invalid."""
    found = _HOST.fullmatch(value)
    return (found["v6"] or found["name"]).decode("ascii") if found else ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
