"""What a URL of the configuration must be."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


def checked_url(text: str) -> str:
    """`text` itself; raises ValueError where it is no plain http(s) URL.

    A trailing slash stays: some issuers redirect without theirs, and no redirect is followed.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # its text may quote the URL, which may have come from a secret
        raise ValueError("is not a URL: its host or port is malformed") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("expects http://host… or https://host…")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user name or password: put it under credentials")
    if parts.fragment or any(ord(c) <= 0x20 or ord(c) >= 0x7F for c in text):
        raise ValueError("holds a fragment, a space or a character beyond ASCII")
    return text


def checked_base_url(text: str) -> str:
    """A URL to put paths behind: as `checked_url`, without a query and without trailing slashes."""
    if "?" in text:
        raise ValueError("holds a query: a path is put behind this URL, so it ends before the ?")
    return checked_url(text).rstrip("/")


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


def crosses_network_in_plain(url: str) -> bool:
    """Whether a secret sent to `url` could be read on the way."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")
