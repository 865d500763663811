"""An MCP server of the official Python SDK. It serves both eras of the protocol at /mcp, and prints its URL.

    python -m tests.e2e.mcp.server tools|scenarios [ISSUER_URL AUDIENCE]

`tools` serves the tools below, and `scenarios` what the conformance suite wants to find.

It accepts only tokens that are valid now, as tests/e2e/check.py does; without arguments it requires no token.

`GET /check` returns the counts of the check, and `GET /events` what the tools recorded. `POST /release?call=NAME` lets
the tool `progress` take one step, so that a test decides when it goes on.
"""

import asyncio
import socket
import sys
from collections import defaultdict
from typing import Any

import uvicorn
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp_types import JSONRPCMessage
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import AnyHttpUrl
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.e2e.check import TokenRefused, Verifier, verifier
from tests.e2e.mcp.scenarios import scenario_server

STEP_S = 15.0
"""How long the tool `progress` waits for a release."""
SLOW_S = 60.0


CONTINUED = "was continued"


class Check:
    """Verifies tokens for the SDK."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier

    async def verify_token(self, token: str) -> AccessToken | None:
        try:
            claims = self.verifier.claims(f"Bearer {token}")
        except TokenRefused:
            return None
        scopes = str(claims.get("scope", "")).split()
        return AccessToken(token=token, client_id=claims["client_id"], scopes=scopes, claims=claims)


class Kept(EventStore):
    """All events in memory, so that a client can continue a stream with `Last-Event-ID`."""

    def __init__(self) -> None:
        self._events: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        after = int(last_event_id)
        wanted = self._events[after - 1][0]
        for number, (stream, message) in enumerate(self._events[after:], after + 1):
            # the SDK names a stream by the id of its request, which other sessions have too
            if stream == wanted and message is not None and CONTINUED in message.model_dump_json():
                await send_callback(EventMessage(message, str(number)))
        return wanted


class Journal:
    """What the tools did, and the steps that they may take."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.released: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(0))


def add_tools(served: MCPServer[Any], journal: Journal) -> None:
    @served.tool()
    async def echo(text: str) -> str:
        """Return the text."""
        return text

    @served.tool()
    async def progress(call: str, steps: int, ctx: Context) -> str:
        """Report each step, and wait for its release before the next one."""
        for step in range(1, steps + 1):
            await ctx.report_progress(step, steps, f"step {step}")
            try:
                await asyncio.wait_for(journal.released[call].acquire(), STEP_S)
            except TimeoutError:
                raise ToolError(f"nobody saw step {step} within {STEP_S:g} s") from None
        return f"{steps} steps"

    @served.tool()
    async def slow(call: str) -> str:
        """Record that it began and whether it was cancelled."""
        journal.events.append(f"began {call}")
        try:
            await asyncio.sleep(SLOW_S)
        except asyncio.CancelledError:
            journal.events.append(f"cancelled {call}")
            raise
        return "done"

    @served.tool()
    async def announce(word: str, ctx: Context) -> str:
        """Notify the client beside this call: on its GET stream, or on its subscription."""
        if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            await ctx.notify_resource_updated(f"words://{word}")
        else:
            await ctx.session.send_resource_updated(f"words://{word}")
        return word

    @served.tool()
    async def interrupted(call: str, ctx: Context) -> str:
        """Close the stream of this call; the client gets the result when it continues the stream."""
        await ctx.close_sse_stream()
        return f"{call} {CONTINUED}"

    @served.prompt()
    def greeting(name: str) -> str:
        """Return a prompt with a name."""
        return f"Greet {name}."

    @served.resource("words://amber")
    def amber() -> str:
        """Return a word."""
        return "amber"


def pages(journal: Journal, check: Check | None) -> list[Route]:
    async def counts(request: Request) -> Response:
        assert check is not None
        return Response(check.verifier.tally.as_json(), media_type="application/json")

    async def events(request: Request) -> Response:
        return JSONResponse(journal.events)

    async def release(request: Request) -> Response:
        journal.released[request.query_params["call"]].release()
        return Response(status_code=204)

    return [Route("/check", counts), Route("/events", events), Route("/release", release, methods=["POST"])]


def main(kind: str, issuer: str | None = None, audience: str = "") -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    check, settings, journal = None, None, Journal()
    if issuer is not None:
        check = Check(verifier(issuer, audience))
        settings = AuthSettings(
            issuer_url=AnyHttpUrl(issuer),
            resource_server_url=AnyHttpUrl(f"{url}/mcp"),
            validate_token_resource=False,  # the check verifies the audience
        )
    if kind == "scenarios":
        app = scenario_server().streamable_http_app(
            event_store=Kept(), retry_interval=100, token_verifier=check, auth=settings
        )
    else:
        served = MCPServer("gatepass-e2e", token_verifier=check, auth=settings, log_level="WARNING")
        add_tools(served, journal)
        app = served.streamable_http_app(event_store=Kept(), retry_interval=100)
    app.router.routes.extend(pages(journal, check))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    print(f"listening on {url}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
