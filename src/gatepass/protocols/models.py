"""The list of models, which gatepass answers itself, in the shapes of OpenAI, Anthropic and Codex."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec

from gatepass.errors import GatepassError, InvalidRequest
from gatepass.protocols.client_protocol import ClientProtocol
from gatepass.protocols.messages import MESSAGES
from gatepass.types import ClientRequest, header

Entry = dict[str, Any]

MOST_ENTRIES = 1_000
"""The most entries of a page (https://docs.claude.com/en/api/models-list). Without `limit` a page has all."""


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

    def model_list(self, entries: Sequence[Entry], query: bytes) -> bytes:
        del query
        return msgspec.json.encode({"object": "list", "data": entries})

    def model(self, entry: Entry) -> bytes:
        return msgspec.json.encode(entry)


class AnthropicModels(Models):
    """The list of Anthropic's API. Claude Code shows the models whose id begins with `claude` or `anthropic`."""

    __slots__ = ()

    name = "anthropic_models"

    def of_request(self, client_request: ClientRequest) -> ClientProtocol:
        del client_request
        return self

    def model_list(self, entries: Sequence[Entry], query: bytes) -> bytes:
        """Return one page. Raises InvalidRequest for an invalid limit or id."""
        page, has_more = _page([_described(entry) for entry in entries], query)
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        return msgspec.json.encode({"data": page, "has_more": has_more, **ends})

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

    def model_list(self, entries: Sequence[Entry], query: bytes) -> bytes:
        del entries, query
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


def _page(entries: list[Entry], query: bytes) -> tuple[list[Entry], bool]:
    """Return the entries that `limit`, `after_id` and `before_id` select, and whether more follow in that direction."""
    asked = {name: values[-1] for name, values in parse_qs(query.decode("latin-1")).items()}
    limit, most = asked.get("limit"), len(entries)
    if limit is not None:
        if re.fullmatch("[0-9]{1,4}", limit) is None or not 1 <= int(limit) <= MOST_ENTRIES:
            raise InvalidRequest(f"`limit` must be a number from 1 to {MOST_ENTRIES}.", param="limit")
        most = int(limit)
    first, last = 0, len(entries)
    if (after := asked.get("after_id")) is not None:
        first = _index(entries, after, "after_id") + 1
    if (before := asked.get("before_id")) is not None:
        last = _index(entries, before, "before_id")
    page = entries[first:last]
    kept = page[-most:] if before is not None and after is None else page[:most]
    return kept, len(kept) < len(page)


def _index(entries: list[Entry], wanted: str, param: str) -> int:
    for index, entry in enumerate(entries):
        if entry["id"] == wanted:
            return index
    raise InvalidRequest(f"`{param}` is not the id of a listed model.", param=param)


MODELS, ANTHROPIC_MODELS, CODEX_MODELS = Models(), AnthropicModels(), CodexModels()
