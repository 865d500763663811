"""`upstreams.NAME.azure` and `.ragflow`: what only one dialect wants to know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gatepass.config.block import Block

DialectName = Literal["openai", "azure", "ragflow"]


class Azure(Block):
    api_version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,40}$")] | None = None
    """For the classic API with the deployment in the path, such as `2024-10-21`; None: the v1 API."""


class Ragflow(Block):
    paths: Literal["current", "old"] = "current"
    """`old`: the paths of v0.20 to v0.24, `/chats_openai/…` and `/agents_openai/…`."""
    images: Literal["refuse", "drop"] = "refuse"
    """RAGFlow reads no images: say so with a 400, or leave them out."""
