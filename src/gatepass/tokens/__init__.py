"""Tokens for upstreams: sources fetch them, a holder keeps one ready, processes that share a store share it.

Exports TokenHolder and what its callers name. Imports no web framework and nothing of the request path.
"""

from gatepass.tokens.failure import FetchFailure, TokenReissued
from gatepass.tokens.holder import Status, TokenHolder, TokenUser, WaitBudget
from gatepass.tokens.lifetime import Token
from gatepass.tokens.source import TokenSource, build_source

__all__ = [
    "FetchFailure",
    "Status",
    "Token",
    "TokenHolder",
    "TokenReissued",
    "TokenSource",
    "TokenUser",
    "WaitBudget",
    "build_source",
]
