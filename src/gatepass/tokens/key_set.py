"""Fetch the key set of an issuer of callers' tokens (`access.jwt`), by discovery, from a URL or from a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gatepass.cancel import timeout
from gatepass.clock import Clock
from gatepass.config.access import DISCOVERY, JwtIssuer
from gatepass.config.block import checked_url, crosses_network_in_plain
from gatepass.errors import TransportFault
from gatepass.http_client.fault_text import ServerNames, fault_text, host_of
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.holder import TokenHolder
from gatepass.tokens.issuer_error import TokenResponse
from gatepass.tokens.sources.file import WatchedFile
from gatepass.tokens.token_endpoint import HEADERS, Connect, send_request
from gatepass.types import OutboundRequest

FETCH_S = 10.0
"""The limit of a fetch, discovery included."""
FILE_AGAIN_S = 10.0
"""How often a file is read again."""
USUAL_S, SHORTEST_S, LONGEST_S = 900.0, 300.0, 3600.0
"""When a key set is fetched again without `cache-control: max-age`, and the bounds of that: a removed key ends."""
_MAX_AGE = re.compile(rb"(?:^|[\s,])max-age=\"?([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class KeySetSource:
    """The key set of one entry of `access.jwt`. `setting` is its name; `holder` has the token of its `credential`."""

    setting: str
    settings: JwtIssuer
    connect: Connect
    holder: TokenHolder | None
    clock: Clock

    async def fetch(self) -> tuple[bytes, float]:
        """Return the document and after how many seconds to fetch it again; raise FetchFailure."""
        if (file := self.settings.file) is not None:
            return WatchedFile(file).read().text.encode(), FILE_AGAIN_S
        # no variable holds the error: its traceback refers to the frame
        return await timeout(
            self.clock,
            FETCH_S,
            self._fetched(),
            FetchFailure(f"{self.settings.url} did not answer within {FETCH_S:g} s"),
        )

    async def _fetched(self) -> tuple[bytes, float]:
        uri = self.settings.jwks
        reply = await self._get(uri or await self._discovered())
        said = b",".join(value.lower() for name, value in reply.headers if name == b"cache-control")
        again_s = int(found[1]) if (found := _MAX_AGE.search(said)) else USUAL_S
        return reply.body, min(max(again_s, SHORTEST_S), LONGEST_S)

    async def _discovered(self) -> str:
        """Return the `jwks_uri` of the discovery document, whose `issuer` has to be the configured one."""
        issuer, whys = self.settings.issuer[0], list[str]()
        for url in _discovery_urls(issuer):
            try:
                document: Any = json.loads((await self._get(url)).body)
                break
            except (ValueError, RecursionError):
                whys.append(f"{url} is no JSON")
            except FetchFailure as failure:
                whys.append(failure.why)
        else:
            raise FetchFailure("; ".join(dict.fromkeys(whys)))
        found = document if isinstance(document, dict) else {}
        if (said := found.get("issuer")) != issuer:
            # another issuer's keys would verify its tokens as those of this one (RFC 8414 3.3)
            raise FetchFailure(f"{url} names the issuer {str(said)[:200]!r}, and {self.setting}.issuer is {issuer!r}")
        try:
            return checked_url(str(found.get("jwks_uri")))
        except ValueError:
            raise FetchFailure(f"{url} names no jwks_uri") from None

    async def _get(self, url: str) -> TokenResponse:
        settings = self.settings
        if crosses_network_in_plain(url, settings.network.proxy) and not settings.allow_plain_http:
            raise FetchFailure(
                f"{url} is plain HTTP, where others could replace the keys: set {self.setting}.allow_plain_http"
            )
        headers = list(HEADERS)
        # a discovery document may name any host: the token goes only to those of the configuration
        if self.holder is not None and host_of(url) == host_of(settings.jwks or settings.issuer[0]):
            headers.append((b"authorization", b"Bearer " + (await self.holder.token()).text.encode()))
        try:
            reply = await send_request(self.connect, OutboundRequest("GET", url, tuple(headers), b""), FETCH_S)
        except TransportFault as fault:
            place, network = f"{self.setting}.jwks", settings.network
            names = ServerNames(host_of(url), self.setting, place, network=network, is_read=True)
            raise FetchFailure(f"{url}: {fault_text(fault, names).why.rstrip('.')}") from fault
        if reply.status != 200:
            raise FetchFailure(f"{url} answers with HTTP {reply.status}")
        return reply


def _discovery_urls(issuer: str) -> Iterator[str]:
    """Yield where a discovery document may be: OpenID Connect Discovery 4.1, then RFC 8414 3.1."""
    yield f"{issuer.rstrip('/')}{DISCOVERY}"
    parts = urlsplit(issuer)
    yield parts._replace(path=f"/.well-known/oauth-authorization-server{parts.path.rstrip('/')}").geturl()
