"""`access`: who may come in."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from gatepass.config.block import HASH, Block, Name, SecretText
from gatepass.config.references import Reference


def keys_in(text: str) -> tuple[str, ...]:
    """The keys in the text of `access.keys[].key`: one, or several with white space between them."""
    return tuple(text.split())


FIXED_KEYS = ("empty", "lm-studio", "x")
"""Keys that RAGFlow's classes LocalAI and LM-Studio send whatever is configured (rag/llm/chat_model.py), and older
versions where the field was left empty: everybody knows them."""
_FIXED_HASHES = frozenset(f"sha256:{sha256(key.encode()).hexdigest()}" for key in FIXED_KEYS)


class AccessKey(Block):
    name: Name
    """How the caller is called in logs and metrics."""
    hash: Annotated[str, Field(pattern=HASH)] | None = None
    """From `gatepass keys new`."""
    key: SecretText | None = None
    """The key itself, by reference only: `${NAME}` or `${file:/path}`. A file may hold several, one per line."""
    models: list[str] | None = None
    """The public model names (or globs) this key may use; None: all."""
    profile: Name | None = None
    """What this caller's client needs: a built-in profile or one of `profiles`; None: the plain API."""
    max_concurrent: Annotated[int, Field(gt=0)] | None = None
    """Requests of this caller under way at once; one more is 429 `concurrency_limited`. None: no limit of its own."""

    @field_validator("key", mode="before")
    @classmethod
    def _by_reference(cls, value: Any) -> Any:
        if isinstance(value, Reference) or not isinstance(value, str):
            return value
        raise ValueError("expects a reference, ${NAME} or ${file:/path}, never the key in plain text")

    @model_validator(mode="after")
    def _one_form(self) -> AccessKey:
        if (self.hash is None) == (self.key is None):
            raise ValueError("expects either hash or key")
        if self.hash in _FIXED_HASHES and (not self.models or any(set(model) <= {"*"} for model in self.models)):
            fixed = ", ".join(FIXED_KEYS)
            raise ValueError(f"is the hash of a key that everybody knows ({fixed}): limit it by models to one model")
        return self


class Access(Block):
    """Who may come in."""

    keys: list[AccessKey] = []
    """Without keys gatepass serves loopback only."""
    metrics_open: bool = False
    """Serve /metrics without a key also where keys are configured."""

    @property
    def callers(self) -> int:
        """How many callers there are: entries of one name are one caller, and without keys there is one."""
        return len({key.name for key in self.keys}) or 1
