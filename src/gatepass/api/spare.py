"""The connections above limits.connections: a few are heard, so that who watches a full gatepass still can."""

from __future__ import annotations

from collections.abc import Awaitable, Container

from gatepass.api.reception import Refused, Serve
from gatepass.api.refusal import many_connections
from gatepass.api.turn import Turn
from gatepass.surface.openai_error import error_body, error_headers

SPARE_CONNECTIONS = 16
"""A full gatepass that does not answer /healthz is killed by whoever probes it, and its streams with it."""


def spare(pages: Serve, paths: Container[str], refused: Refused) -> Serve:
    """Serves one request of such a connection: one of gatepass's own pages at `paths`, and no other."""

    def serve(turn: Turn) -> Awaitable[None]:
        turn.persists = False
        return pages(turn) if turn.path in paths else _turn_away(turn, refused)

    return serve


async def _turn_away(turn: Turn, refused: Refused) -> None:
    error = many_connections()
    refused(error, turn.peer)
    body = error_body(error)
    turn.start(error.http_status, error_headers(error), len(body))
    await turn.write(body, last=True)
