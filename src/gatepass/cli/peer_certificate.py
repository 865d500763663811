"""Explain the certificate that a server sent, for `gatepass doctor`. Pure functions, except `trusted_names`.

A certificate is a dict as `ssl.SSLSocket.getpeercert` returns it.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gatepass.http_client.tls import TlsProblem

Certificate = Mapping[str, Any]
DAY_S = 86_400.0
SOON_S = 14 * DAY_S
"""A certificate that ends sooner is reported with the days that are left."""
NAMES = 5
"""The most host names of a certificate in a message."""


def certificate_chain(session: Any) -> list[Certificate]:
    """Return the certificates that the server sent, the server's own first; empty if they cannot be read.

    The standard library decodes an unverified certificate only here: `getpeercert` returns an empty dict for one.
    """
    read = getattr(getattr(session, "_sslobj", None), "get_unverified_chain", None)
    return [] if read is None else [certificate.get_info() for certificate in read() or ()]


def trusted_names(ca_file: str | None) -> list[str]:
    """Return the names of the CAs in `ca_file`. Raises OSError if it cannot be loaded."""
    if ca_file is None:
        return []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca_file)
    return [name_of(certificate, "subject") for certificate in context.get_ca_certs()]


def _fields(certificate: Certificate, whose: str) -> dict[str, str]:
    return {field: value for part in certificate.get(whose, ()) for field, value in part}


def name_of(certificate: Certificate, whose: str) -> str:
    """Return the common name of the `subject` or `issuer`, or the organization's."""
    fields = _fields(certificate, whose)
    return fields.get("commonName") or fields.get("organizationalUnitName") or fields.get("organizationName") or "?"


def host_names(certificate: Certificate) -> list[str]:
    """Return the host names and addresses that the certificate is for."""
    return [name for _, name in certificate.get("subjectAltName", ())]


def _moment_s(certificate: Certificate, which: str) -> float:
    return float(ssl.cert_time_to_seconds(certificate[which]))


def _date(certificate: Certificate, which: str) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(_moment_s(certificate, which)))


def describe_certificate(certificate: Certificate, version: str, wall_s: float) -> str:
    """Return a line about a verified certificate. `version` is the protocol's."""
    left_s = _moment_s(certificate, "notAfter") - wall_s
    end = f"valid until {_date(certificate, 'notAfter')}"
    if left_s < SOON_S:
        end = f"it expires in {left_s / DAY_S:.0f} days ({_date(certificate, 'notAfter')}): renew it"
    return f"{version}, certificate of {name_of(certificate, 'issuer')}, {end}"


@dataclass(frozen=True, slots=True)
class Peer:
    """The server of a chain: its host, the full name of its `ca_file`, and the names of the CAs in that file."""

    host: str
    ca_setting: str
    known: Sequence[str] = ()


def explain_certificate(
    chain: Sequence[Certificate], problem: TlsProblem, peer: Peer, wall_s: float
) -> tuple[str, str | None]:
    """Return why the handshake failed, and what to do if the certificates say more than the problem."""
    host, own = peer.host, chain[0]
    match problem:
        case TlsProblem.EXPIRED:
            # Not always the server's own certificate: an expired CA certificate fails with the same error.
            late = next((each for each in chain if _moment_s(each, "notAfter") < wall_s), own)
            advice = None if late is own else f"Let {host} send a current certificate of that CA."
            return f"the certificate of {_owner(late, own, host)} expired on {_date(late, 'notAfter')}", advice
        case TlsProblem.NOT_YET_VALID:
            early = next((each for each in chain if _moment_s(each, "notBefore") > wall_s), own)
            return f"the certificate of {_owner(early, own, host)} is valid from {_date(early, 'notBefore')}", None
        case TlsProblem.WRONG_NAME:
            names = host_names(own)
            more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
            return f"the certificate is for {', '.join(names[:NAMES]) or 'no host name'}{more}, not for {host}", None
        case _:
            return _unknown_ca(chain, peer)


def _owner(certificate: Certificate, own: Certificate, host: str) -> str:
    return host if certificate is own else f"the CA {name_of(certificate, 'subject')}"


def _unknown_ca(chain: Sequence[Certificate], peer: Peer) -> tuple[str, str]:
    host, own, setting = peer.host, chain[0], peer.ca_setting
    contained = f"; ca_file contains {' and '.join(peer.known)}" if peer.known else ""
    if own.get("subject") == own.get("issuer"):
        why = f"the certificate of {host} is self-signed ({name_of(own, 'subject')}){contained}"
        return why, f"Set {setting} to a PEM file with this certificate, or install one that a CA signed."
    # Servers leave out the root, so the last certificate names it.
    issuer = name_of(chain[-1], "issuer")
    if len(chain) == 1 and _is_by_intermediate(own):
        why = f"{host} sends an incomplete chain: its own certificate without that of the CA {issuer}{contained}"
        return why, f"Let {host} send its intermediate certificates, or add that of {issuer} to {setting}."
    if issuer in peer.known:
        why = f"the certificate of {host} names the CA {issuer}, but another key than that in ca_file signed it"
        return why, f"Replace the certificate in {setting} with the current one of {issuer}."
    why = f"the certificate of {host} is signed by the CA {issuer}, which this machine does not trust{contained}"
    if peer.known:
        return why, f"Add the certificate of {issuer} to {setting}."
    return why, f"Set {setting} to a PEM file with the certificate of {issuer}."


def _is_by_intermediate(certificate: Certificate) -> bool:
    """Return whether an intermediate CA probably signed the certificate: it names a URL for that CA's certificate."""
    return any(url.startswith("http") for url in certificate.get("caIssuers", ()))
