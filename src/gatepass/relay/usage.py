"""How many tokens an answer cost, as far as the upstream says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Usage:
    """The counts of a `usage` object; None for what is missing or no whole number."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        return cls(*(_count(said.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")))


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
