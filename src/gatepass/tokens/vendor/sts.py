"""AWS Security Token Service: keys for a while, in return for a role and a proof. Values in, values out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlencode

from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.objection import DEFINITE_STATUSES, REFUSED
from gatepass.tokens.reply import Mask, Reply, folded

VERSION = "2011-06-15"
SHORTEST_S, LONGEST_S = 900, 3600
"""Sessions that STS gives for any role: longer ones must be allowed at the role, and never in a chain."""
PASSING_CODES = frozenset(("Throttling", "ThrottlingException", "RequestLimitExceeded", "IDPCommunicationError"))
"""Codes of a 400 that a later try can change."""
_NAMES = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")


@dataclass(frozen=True, slots=True)
class Keys:
    """What AWS requests are signed with. `ends_s` is in seconds since the epoch, None where nothing tells it."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    ends_s: float | None = None


def role_form(role_arn: str, session_name: str, life_s: float, more: Mapping[str, str]) -> bytes:
    """The body that asks for a session of the role; `more` is the proof, where the request is not signed."""
    fields = {
        "Action": "AssumeRoleWithWebIdentity" if "WebIdentityToken" in more else "AssumeRole",
        "Version": VERSION,
        "RoleArn": role_arn,
        "RoleSessionName": session_name,
        "DurationSeconds": str(int(min(max(life_s, SHORTEST_S), LONGEST_S))),
        **more,
    }
    return urlencode(fields).encode()


def session(reply: Reply, host: str, mask: Mask) -> Keys:
    """The keys in a reply; raises FetchFailure with the words of STS."""
    if not 200 <= reply.status < 300:
        raise _refusal(reply, host, mask)
    found = [_element(reply.text, name) for name in _NAMES]
    if None in found:
        raise FetchFailure(f"{host} answered {reply.status} without a session's keys")
    key, secret, token, end = (text or "" for text in found)
    return Keys(key, secret, token, _epoch_s(end))


def _refusal(reply: Reply, host: str, mask: Mask) -> FetchFailure:
    code, message = _element(reply.text, "Code"), _element(reply.text, "Message")
    words = ": ".join(filter(None, (code, message))) or reply.text
    definite = reply.status in DEFINITE_STATUSES and code not in PASSING_CODES
    said = f"{host} answered {reply.status}: {folded(words, mask)}".removesuffix(": ")
    return FetchFailure(f"{REFUSED if definite else ''}{said}", definite=definite, quick=reply.status != 429)


def _element(text: str, name: str) -> str | None:
    """The text of an element that has no children; STS writes these without attributes and prefixes."""
    found = re.search(rf"<{name}>\s*([^<]+?)\s*</{name}>", text)
    return found[1] if found else None


def _epoch_s(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
