"""The ways to spoil the demo, one for each thing that a step must notice by itself."""

from __future__ import annotations

from enum import StrEnum


class Sabotage(StrEnum):
    STREAM = "stream"
    """The model server ends a stream in the middle."""
    BURST = "burst"
    """It holds a stream back and sends it at once."""
    IMAGES = "images"
    """It overlooks images."""
    EMBEDDINGS = "embeddings"
    """It mixes up two vectors."""
    RENEWAL = "renewal"
    """The issuer has an outage after the first token of each client."""
    STALE_CHECK = "stale-check"
    """The model server believes a token after its end."""
