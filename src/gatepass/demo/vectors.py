"""Small embeddings that anybody can compute again: the same text gives the same numbers everywhere."""

from __future__ import annotations

import base64
import hashlib
import math
import struct

DIMENSIONS = 8


def vector(text: str) -> list[float]:
    """A vector of length 1 with DIMENSIONS numbers, each one exactly a float32, so that both encodings agree."""
    digest = hashlib.sha256(text.encode()).digest()
    raw = [value - 2**31 for value in struct.unpack(f">{DIMENSIONS}I", digest)]
    length = math.hypot(*raw)
    return list(_FLOATS.unpack(_FLOATS.pack(*(value / length for value in raw))))


def in_base64(numbers: list[float]) -> str:
    """Little-endian float32, as the OpenAI API has it for `encoding_format: base64`."""
    return base64.b64encode(_FLOATS.pack(*numbers)).decode()


_FLOATS = struct.Struct(f"<{DIMENSIONS}f")
