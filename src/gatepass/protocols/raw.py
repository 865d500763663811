"""Operations whose requests and replies pass unchanged: audio, images, moderations, files, batches."""

from __future__ import annotations

from gatepass.dialects.base import PARAMETERS
from gatepass.protocols.client_protocol import ClientProtocol
from gatepass.protocols.request import call_without_body, decode
from gatepass.types import Call, ClientRequest, Headers, Operation

ACCEPTED = 202
"""The status of a success that needs no body (RFC 9110 section 15.3.3)."""


class Raw(ClientProtocol):
    """A body and a reply of any content type."""

    __slots__ = ()

    name = "raw"
    is_raw = True
    parameters = PARAMETERS

    def parse(
        self, client_request: ClientRequest, operation: Operation, body: bytes, caller: str, most_values: int
    ) -> Call:
        # GET and DELETE have no body, and `POST /batches/{id}/cancel` needs none
        if not body or operation.method != "POST":
            return call_without_body(client_request, operation, caller, "")
        return decode(client_request, operation, body, caller, most_values)

    def may_be_empty(self, operation: Operation, status: int, headers: Headers) -> bool:
        """Whether a reply without a body is a success: a 202, and a deletion whose reply states where its body ends."""
        is_framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)
        return status == ACCEPTED or (operation.method == "DELETE" and is_framed)


RAW = Raw()
