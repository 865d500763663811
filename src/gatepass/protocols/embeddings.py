"""Embeddings: vectors of texts. gatepass requests numbers, and may send one call as several requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gatepass.dialects.reply_check import fault_of_list
from gatepass.normalize.embeddings_reply import usage_of_valid
from gatepass.protocols.client_protocol import ClientProtocol
from gatepass.replies.error_body import Mask
from gatepass.sse.client_transforms import transform_reply
from gatepass.types import Call


class Embeddings(ClientProtocol):
    """One vector for each input."""

    __slots__ = ()

    name = "embeddings"
    members = ClientProtocol.members | {"input", "encoding_format", "dimensions"}
    requires_model = True
    has_parts = True
    sample: Mapping[str, Any] = {"input": "ping"}
    entries, entry = "data", "vector"

    def fault(self, document: Any, mask: Mask) -> str | None:
        return fault_of_list(document, self.entries, mask)

    def usage_of_valid(self, call: Call, body: bytes) -> bytes:
        return usage_of_valid(body, call.embeddings_options())

    last_change = staticmethod(transform_reply)


EMBEDDINGS = Embeddings()
