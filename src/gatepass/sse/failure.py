"""The errors that a stream may end with.

No word in these texts may make RAGFlow begin the whole answer again, tools included (openai_error.REPLAYED).
"""

from __future__ import annotations

from gatepass.errors import GatepassError, UpstreamClosed, UpstreamEmpty, UpstreamInvalid, UpstreamRefusal
from gatepass.types import Complaint

UNREADABLE = Complaint("The upstream sent an error event without a text.")


def closed(upstream: str) -> GatepassError:
    return UpstreamClosed("The upstream ended its stream before the answer was complete.", upstream=upstream)


def empty(upstream: str) -> GatepassError:
    return UpstreamEmpty("The upstream's stream ended without an answer.", upstream=upstream)


def too_large(upstream: str) -> GatepassError:
    """Without the figure: its digits may read like a status."""
    return UpstreamInvalid(
        "The upstream sent an event that is larger than limits.event_bytes, or that has too many lines.",
        upstream=upstream,
    )


def idle(upstream: str) -> GatepassError:
    """Without the figure, as `too_large`."""
    return UpstreamInvalid(
        "The upstream sent more comments and blank lines than limits.event_bytes, and no event.", upstream=upstream
    )


def too_many(upstream: str) -> GatepassError:
    return UpstreamInvalid(
        "The upstream's answer has more choices and tool calls than any request asks for.", upstream=upstream
    )


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
