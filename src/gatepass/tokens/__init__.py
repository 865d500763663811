"""Tokens for upstreams: token sources fetch them, and a holder keeps one valid token per credential.

Exports `TokenHolder`, `TokenSource`, `build_source`, `Token` and the types in their signatures. Processes that share
a store share their tokens (`sharing.py`). Must not import a web framework or a package of the request path.
A module of `sources/` is imported only when a credential of its type is configured.
"""

from gatepass.tokens.failure import FetchFailure, TokenReissued
from gatepass.tokens.holder import TokenHolder, TokenSource, TokenUser, WaitBudget
from gatepass.tokens.lifetime import Token
from gatepass.tokens.source import build_source

__all__ = [
    "FetchFailure",
    "Token",
    "TokenHolder",
    "TokenReissued",
    "TokenSource",
    "TokenUser",
    "WaitBudget",
    "build_source",
]
