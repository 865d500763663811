"""The list of models, which gatepass answers itself, in the shapes of OpenAI, Anthropic and Codex."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from gatepass.errors import GatepassError
from gatepass.protocols.client_protocol import ClientProtocol
from gatepass.protocols.messages import MESSAGES
from gatepass.types import ClientRequest, header

Entry = dict[str, Any]


class Models(ClientProtocol):
    """A request without a body."""

    __slots__ = ()

    name = "models"
    members = frozenset()
    is_answered_here = True

    def of_request(self, client_request: ClientRequest) -> ClientProtocol:
        """Return Anthropic's shape for a request with its version, and Codex's for one with the version of Codex."""
        if header(client_request.headers, b"anthropic-version") is not None:
            return ANTHROPIC_MODELS
        return CODEX_MODELS if b"client_version=" in client_request.query else self

    def model_list(self, entries: Sequence[Entry]) -> bytes:
        return msgspec.json.encode({"object": "list", "data": entries})

    def model(self, entry: Entry) -> bytes:
        return msgspec.json.encode(entry)


class AnthropicModels(Models):
    """The list of Anthropic's API. Claude Code shows the models whose id begins with `claude` or `anthropic`."""

    __slots__ = ()

    name = "anthropic_models"

    def model_list(self, entries: Sequence[Entry]) -> bytes:
        """Return all entries in one page, whichever page the query selects: a client requests no other one."""
        first, last = (entries[0]["id"], entries[-1]["id"]) if entries else (None, None)
        page = {"data": [_described(entry) for entry in entries], "has_more": False}
        return msgspec.json.encode({**page, "first_id": first, "last_id": last})

    def model(self, entry: Entry) -> bytes:
        return msgspec.json.encode(_described(entry))

    def error_body(self, error: GatepassError, request_id: str) -> bytes:
        return MESSAGES.error_body(error, request_id)


class CodexModels(Models):
    """The list that Codex fetches at its start: an empty one, so that Codex keeps its own.

    An entry requires `base_instructions`, which replace those of Codex (codex-rs/protocol/src/openai_models.rs). It
    logs an error at a list without `models`.
    """

    __slots__ = ()

    name = "codex_models"
    lists_entries = False

    def model_list(self, entries: Sequence[Entry]) -> bytes:
        return b'{"models":[]}'


def _described(entry: Entry) -> Entry:
    try:
        created = datetime.fromtimestamp(entry["created"], UTC)
    except (OverflowError, ValueError, OSError):
        created = datetime.fromtimestamp(0, UTC)
    shown = entry.get("display_name")
    return {
        "type": "model",
        "id": entry["id"],
        "display_name": shown if isinstance(shown, str) and shown else entry["id"],
        "created_at": f"{created:%Y-%m-%dT%H:%M:%SZ}",
    }


MODELS, ANTHROPIC_MODELS, CODEX_MODELS = Models(), AnthropicModels(), CodexModels()
