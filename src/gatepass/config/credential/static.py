"""`type: static`."""

from __future__ import annotations

from typing import Literal

from gatepass.config.block import SecretText
from gatepass.config.credential.base import Credential


class StaticCredential(Credential):
    """A key that does not expire."""

    type: Literal["static"]
    """Where the token comes from."""
    token: SecretText
    """The key, best by reference."""
