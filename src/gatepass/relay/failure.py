"""The errors that a stream may end with.

No word in these texts may make RAGFlow begin the whole answer again, tools included (lexicon.REPLAYED).
"""

from __future__ import annotations

from typing import Any

from gatepass.call import Complaint
from gatepass.errors import GatepassError, UpstreamClosed, UpstreamEmpty, UpstreamInvalid, UpstreamRefusal
from gatepass.lexicon import REPLAYED

UNREADABLE = Complaint("The upstream sent an error event without a text.")
_PLAIN = ("message", "type", "code", "param")


def closed(upstream: str) -> GatepassError:
    return UpstreamClosed("The upstream ended its stream before the answer was complete.", upstream=upstream)


def empty(upstream: str) -> GatepassError:
    return UpstreamEmpty("The upstream's stream ended without an answer.", upstream=upstream)


def too_large(upstream: str) -> GatepassError:
    """Without the figure: its digits may read like a status."""
    return UpstreamInvalid("The upstream sent an event that is larger than limits.event_bytes.", upstream=upstream)


def no_json(upstream: str) -> GatepassError:
    return UpstreamInvalid("The upstream sent an event that is not JSON.", upstream=upstream)


def strange(upstream: str) -> GatepassError:
    return UpstreamInvalid(
        "The upstream put a whole completion into its stream, in place of the pieces of one.", upstream=upstream
    )


def refusal(upstream: str, complaint: Complaint) -> GatepassError:
    """The upstream's own error, in its own words."""
    return UpstreamRefusal(
        complaint.message,
        upstream=upstream,
        status=complaint.status or UpstreamRefusal.status,
        kind=complaint.kind,
        upstream_code=complaint.code,
        param=complaint.param,
        raw=complaint.raw,
        complaint=complaint,
    )


def is_understood(said: Any, complaint: Complaint) -> bool:
    """Whether `said` is an error in OpenAI's own shape, says exactly what was read out of it and may be shown.

    Any difference means that clients would not see all of it, or that a secret in it was masked. A
    message for which RAGFlow would begin the answer again is not shown as it is either.
    """
    error = said.get("error") if isinstance(said, dict) and said.keys() == {"error"} else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return False
    if REPLAYED.search(complaint.message.lower()):
        return False
    read = (complaint.message, complaint.kind, complaint.code, complaint.param)
    told = tuple(None if error.get(name) is None else str(error[name]) for name in _PLAIN)
    return told == read and (error.keys() <= set(_PLAIN) or error == complaint.raw)
