"""Anthropic's Messages API, of which gatepass only writes the errors."""

from __future__ import annotations

from types import MappingProxyType

from gatepass.errors import GatepassError
from gatepass.protocols.client_protocol import ClientProtocol
from gatepass.protocols.error_objects import json_text

_TYPES = MappingProxyType(
    {
        **dict.fromkeys((400, 405, 415), "invalid_request_error"),
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
)
"""The `type` of an error by its status (https://docs.claude.com/en/api/errors)."""


class Messages(ClientProtocol):
    """An operation that gatepass does not serve yet."""

    __slots__ = ()

    name = "messages"
    members = frozenset()
    is_served = False

    def error_body(self, error: GatepassError, request_id: str) -> bytes:
        """Return Anthropic's error object."""
        kind = _TYPES.get(error.http_status, "api_error")
        inner = {"type": kind, "message": error.message, "code": error.public_code, "hop": error.hop}
        return json_text({"type": "error", "error": inner, "request_id": request_id})


MESSAGES = Messages()
