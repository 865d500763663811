"""Tokens that are there when they are needed: sources mint them, a holder keeps one alive.

A small library of its own: it wants a Transport, a Clock and a Redactor, and knows no web framework.
"""

from gatepass.tokens.failure import FetchFailure, TokenReissued
from gatepass.tokens.holder import Status, TokenHolder
from gatepass.tokens.life import Token
from gatepass.tokens.rejection import User
from gatepass.tokens.source import TokenSource, build_source

__all__ = [
    "FetchFailure",
    "Status",
    "Token",
    "TokenHolder",
    "TokenReissued",
    "TokenSource",
    "User",
    "build_source",
]
