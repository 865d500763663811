"""The fixtures of the embedded servers."""

from __future__ import annotations

from tests.embedded import issuer as issuer
from tests.embedded import key as key
from tests.embedded import token as token
