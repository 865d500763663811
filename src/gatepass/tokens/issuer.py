"""One issuer, reached over one hop: a request goes out, a token or a reason comes back."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gatepass.call import Request, Response, Secret, Timeouts
from gatepass.config.credential.base import Credential
from gatepass.config.url import crosses_network_in_plain
from gatepass.errors import Fault, TransportFault
from gatepass.observe.redaction import Redactor
from gatepass.runtime import Clock, timeout
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.life import Token
from gatepass.tokens.reading import Terms, read
from gatepass.tokens.remedy import look_at, look_at_the_way_to, setting
from gatepass.tokens.reply import REPLY_BYTES, Mask, Reply, folded
from gatepass.tokens.secret import readable
from gatepass.transport.seam import Transport, read_beginning, read_whole

CONNECT_S = 5.0
HEADERS = (
    (b"accept", b"application/json"),
    (b"accept-encoding", b"identity"),
    (b"user-agent", b"gatepass"),
)
"""Sent with every fetch. Some firewalls in front of issuers refuse what names no user agent."""
_WORDS = {
    Fault.DNS: "the name {host} cannot be resolved",
    Fault.CONNECT: "no connection to {host}",
    Fault.TLS: "no TLS connection to {host} (network.ca_file adds a private CA)",
    Fault.PROXY: "the proxy on the way to {host} refuses",
    Fault.CLOSED: "{host} closed the connection",
    Fault.INVALID: "{host} does not answer in HTTP",
    Fault.TOO_LARGE: "the reply of {host} is no token",
    Fault.TIMEOUT_CONNECT: "no connection to {host} in time",
    Fault.TIMEOUT_FIRST_BYTE: "{host} did not answer in time",
    Fault.TIMEOUT_IDLE: "{host} stopped in the middle of its answer",
    Fault.TIMEOUT_POOL: "no free connection to {host}",
}
_LASTING = frozenset({Fault.TLS, Fault.TOO_LARGE})
"""Faults that another try within a second does not mend."""
_UNREACHABLE = frozenset({Fault.DNS, Fault.CONNECT, Fault.TIMEOUT_CONNECT})
_SLOW = frozenset({Fault.TIMEOUT_FIRST_BYTE, Fault.TIMEOUT_IDLE})
"""Those that `timeout_s` bounds; a connection has CONNECT_S."""
WRONG_PROXY_AUTH = "407 "
"""Begins what httpcore2 says of a proxy that wants another password: asked on, its account would be locked."""
_ERRNO = re.compile(r"\[Errno ([0-9]{1,3})\]")


@dataclass(frozen=True, slots=True)
class Heard:
    """A reply and the moment in which it was asked for: Clock.now and Clock.wall. `mask` takes out of its
    words what it may echo."""

    reply: Reply
    born_s: float
    wall_s: float
    mask: Mask = field(repr=False)


@dataclass(frozen=True, slots=True)
class Issuer:
    """The far end of a credential's fetches. `name` is the credential's, `terms` say how to read it."""

    name: str
    settings: Credential
    terms: Terms
    transport: Transport
    clock: Clock

    async def mint(self, request: Request, secrets: Iterable[Secret]) -> Token:
        """Send `request` and read the token out of the reply; raises FetchFailure.

        All of it, the last byte of the body included, is bounded by `timeout_s`. What the issuer
        echoes of `secrets` is masked.
        """
        return self.token(await self.ask(request, secrets))

    async def ask(self, request: Request, secrets: Iterable[Secret], by_s: float | None = None) -> Heard:
        """Send `request`; whatever is answered is heard. Raises FetchFailure where nothing is.

        `by_s` (Clock.now) bounds it where it is one step of several; without it `timeout_s` does.
        """
        if crosses_network_in_plain(request.url) and not self.settings.allow_plain_http:
            raise FetchFailure(
                f"{self.terms.issuer} is asked over plain HTTP, where the secret can be read on the way: "
                f"use https, or set credentials.{self.name}.allow_plain_http: true",
                definite=True,
            )
        own = Redactor()
        for value in readable(secrets):
            own.learn(value or "")
        born_s, wall_s = self.clock.now(), self.clock.wall()
        limit_s = self.settings.timeout_s if by_s is None else by_s - born_s
        return Heard(await self._answer(request, own.mask, limit_s), born_s, wall_s, own.mask)

    def token(self, heard: Heard) -> Token:
        """The token of a reply; raises FetchFailure with the issuer's own words where there is none."""
        minted = read(heard.reply, self.terms, heard.wall_s, heard.mask)
        return Token(Secret(minted.text), heard.born_s, minted.life_s, minted.kind, minted.told_by, minted.no_expiry_at)

    async def _answer(self, request: Request, mask: Mask, limit_s: float) -> Reply:
        bound_s, its_setting = self.settings.timeout_s, setting(self.name, "timeout_s")
        late = FetchFailure(f"{self.terms.issuer} gave no whole answer within {bound_s:g} s ({its_setting})")
        if limit_s <= 0:
            raise late
        try:
            return await timeout(self.clock, limit_s, self._exchange(request), late)
        except TransportFault as fault:
            words = (_WORDS[fault.fault].format(host=self.terms.issuer), folded(plain(fault.detail), mask))
            raise FetchFailure(
                ": ".join(filter(None, words)) + self._advice(fault.fault),
                definite=fault.fault is Fault.PROXY and fault.detail.startswith(WRONG_PROXY_AUTH),
                quick=fault.fault not in _LASTING,
            ) from fault

    def _advice(self, fault: Fault) -> str:
        """Which setting to look at."""
        if fault in _UNREACHABLE:
            return look_at_the_way_to(self.terms.credential, self.terms.address)
        return look_at(self.name, "timeout_s") if fault in _SLOW else ""

    async def _exchange(self, request: Request) -> Reply:
        response = await self.transport.send(request)
        try:
            return await _whole(response)
        finally:
            await response.aclose()


async def _whole(response: Response) -> Reply:
    read_it = read_whole(response, REPLY_BYTES) if 200 <= response.status < 300 else _beginning(response)
    return Reply(response.status, response.headers, await read_it)


async def _beginning(response: Response) -> bytes:
    """What comes of an error's text: its status says enough where the text does not arrive.

    A redirect has said all in its head; its body may never end where no length tells the end.
    """
    if 300 <= response.status < 400:
        return b""
    with suppress(TransportFault):
        return await read_beginning(response, REPLY_BYTES)
    return b""


def plain(detail: str) -> str:
    """`detail` in the system's words, without its numbers and without the address, which has been named.

    Of asyncio's `[Errno 111] Connect call failed ('127.0.0.1', 80)` (`asyncio/selector_events.py`) nothing else is
    of use; for a name with several addresses it says so once for each.
    """
    if "Connect call failed" not in detail:
        return re.sub(r"\[Errno -?[0-9]{1,3}\] ", "", detail)
    causes = dict.fromkeys(os.strerror(int(number)).lower() for number in _ERRNO.findall(detail))
    return ", ".join(causes)


def bounds(settings: Credential) -> Timeouts:
    """The time limits of a fetch's phases; the whole is bounded apart from them."""
    limit_s = settings.timeout_s
    return Timeouts(min(CONNECT_S, limit_s), limit_s, limit_s, limit_s)


def host_of(url: str) -> str:
    """`url` as people are told of it: its query may hold a secret, its path is noise."""
    return urlsplit(url).netloc
