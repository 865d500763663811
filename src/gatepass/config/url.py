"""What a URL of the configuration must be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

ELSEWHERE = "put it under credentials"
BESIDE = "put it into proxy_auth, beside it"


def checked_url(text: str) -> str:
    """`text` itself; raises ValueError, which tells every fault, where it is no plain http(s) URL.

    A trailing slash stays: some issuers redirect without theirs, and no redirect is followed.
    """
    return _without(_faults(text), text)


def checked_proxy_url(text: str) -> str:
    """As `checked_url`; who finds no user name allowed here is told of `network.proxy_auth`."""
    return _without(_faults(text, BESIDE), text)


def checked_base_url(text: str) -> str:
    """A URL to put paths behind: as `checked_url`, without a query and without trailing slashes."""
    query = ["holds a query: a path is put behind this URL, so it ends before the ?"] if "?" in text else []
    return _without((*_faults(text), *query), text).rstrip("/")


def _without(faults: Iterable[str], text: str) -> str:
    if told := "; ".join(faults):
        raise ValueError(told)
    return text


def _faults(text: str, elsewhere: str = ELSEWHERE) -> Iterator[str]:
    """What is wrong with `text`, which is never quoted: it may have come from a secret."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        yield "is not a URL: its host or port is malformed"
        return
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        yield "expects http://host… or https://host…"
    if parts.username is not None or parts.password is not None:
        yield f"holds a user name or password: {elsewhere}"
    if parts.fragment or any(ord(c) <= 0x20 or ord(c) >= 0x7F for c in text):
        yield "holds a fragment, a space or a character beyond ASCII"


def is_loopback(host: str) -> bool:
    """Whether `host` (no port, brackets allowed) is this machine for certain."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def crosses_network_in_plain(url: str, proxy: str | None = None) -> bool:
    """Whether a secret sent to `url`, over `proxy` where one is set, could be read by another machine."""
    parts = urlsplit(url)
    hops = (parts,) if proxy is None else (parts, urlsplit(proxy))
    return parts.scheme == "http" and not all(is_loopback(hop.hostname or "") for hop in hops)
