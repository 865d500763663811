"""`upstreams.NAME.azure` and `.ragflow`: what only one dialect wants to know, and what its base_url may be."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from gatepass.config.block import Block

DialectName = Literal["openai", "azure", "ragflow"]

KINDS = ("chat", "agent")
"""Of what stands behind a RAGFlow name: `chat:ID`, `agent:ID`."""
API_VERSION = r"^[A-Za-z0-9._-]{1,40}$"
NO_ID = "names no {}: its id belongs behind the colon"
NO_KIND = "is neither the id of a chat assistant nor agent:ID"

_DATED = re.compile(r"\d{4}-\d{2}-\d{2}")
_DEPLOYMENT = re.compile(r"/deployments/[^/]+\Z")
_ASSISTANT = re.compile(r"/(?:openai|chats_openai|agents_openai|agents)(?:/[^/]+)?\Z")
_OTHER_VERSION = re.compile(r"(?<!/api)/v1\Z")
NO_VERSION = (
    "base_url names a deployment, which only the classic API has: set azure.api_version to its version beside it,"
    " such as 2024-10-21, or let base_url end before /openai"
)
NAMES_ASSISTANT = (
    "base_url names an assistant or an agent: let it end at the host, and write its id as the name of a model,"
    " `models: {{my-bot: {{upstream: …, name: {name}}}}}`"
)
NOT_ITS_API = "base_url ends in /v1, where RAGFlow has no API: let it end at the host, or in /api/v1"


class Azure(Block):
    api_version: Annotated[str, Field(pattern=API_VERSION)] | None = None
    """A date is a version of the classic API, with deployments in its paths: `2024-10-21`. None is the v1 API, which
    also takes `preview`."""

    @property
    def is_classic(self) -> bool:
        return self.api_version is not None and _DATED.match(self.api_version) is not None


class Ragflow(Block):
    paths: Literal["current", "old"] = "current"
    """`old`: the paths of v0.20 to v0.24, `/chats_openai/…` and `/agents_openai/…`."""
    images: Literal["refuse", "drop"] = "refuse"
    """RAGFlow reads no images: say so with a 400, or leave them out."""


def misplaced(dialect: DialectName, base_url: str, azure: Azure | None) -> str | None:
    """Why requests of that dialect cannot be sent below `base_url`, or None."""
    path = urlsplit(base_url).path
    if dialect == "azure" and _DEPLOYMENT.search(path) and not (azure and azure.is_classic):
        return NO_VERSION
    if dialect == "ragflow" and (found := _ASSISTANT.search(path)):
        return NAMES_ASSISTANT.format(name="agent:ID" if "/agents" in found[0] else "ID")
    if dialect == "ragflow" and _OTHER_VERSION.search(path):
        return NOT_ITS_API
    return None


def no_assistant(name: str) -> str | None:
    """Why `name` stands for nothing in RAGFlow, or None: an id alone, `chat:ID` or `agent:ID`. Ids hold no colon."""
    kind, colon, rest = name.partition(":")
    if not colon:
        return None if name else NO_KIND
    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, n=1)
        return NO_KIND + (f"; did you mean {near[0]}:{rest}?" if near else "")
    return None if rest else NO_ID.format("chat assistant" if kind == "chat" else "agent")
