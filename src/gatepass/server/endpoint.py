"""What the requests of one server share: the current AppState, the catalog of models and the MCP servers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from gatepass.clock import sleep
from gatepass.proxy.app_state import AppState
from gatepass.proxy.client_response import RequestCycle
from gatepass.proxy.handler import handle, serve_call
from gatepass.proxy.models import FRESH_S, ModelCatalog
from gatepass.types import ClientRequest

if TYPE_CHECKING:
    from gatepass.mcp.servers import McpServers

LISTS_AFTER_S = 1.0
"""When the lists of models are read after the start. The first token is fetched by then, and a shorter run, such as a
test, sends the upstreams its clients' requests alone."""


class ApiEndpoint:
    """Serves every request of a path that is not a page: an MCP server's, or one of the API."""

    # Without FastAPI's parameters, dependencies and body models: gatepass must keep the bytes of a body, and an
    # endpoint of FastAPI takes 50 to 70 µs more.

    def __init__(self, state: AppState) -> None:
        self.mcp: McpServers | None = None
        self._take(state)
        state.metrics.fetch_lists = lambda: self.catalog.start_fetches(FRESH_S)

    async def read_lists(self) -> None:
        """Read the upstreams' lists of models LISTS_AFTER_S after the start, so that the metrics know the names."""
        await sleep(self.state.clock, LISTS_AFTER_S)
        self.catalog.start_fetches()

    def use(self, state: AppState) -> None:
        """Serve new requests with `state`. Requests in progress keep the state that they began with."""
        self.state.hand_over(state)
        self._take(state)

    def _take(self, state: AppState) -> None:
        self.state, self.catalog = state, ModelCatalog(state)
        serve_api = partial(handle, state, partial(serve_call, self.catalog))
        self.serve: Callable[[ClientRequest, RequestCycle], Coroutine[Any, Any, None]] = serve_api
        """Returns the coroutine of one request. It keeps the state that is current now: a reload does not change it."""
        sessions = None if self.mcp is None else self.mcp.sessions
        self.mcp = None
        if state.config.mcp:
            from gatepass.mcp.exchange import serve_mcp  # nothing configured, nothing imported
            from gatepass.mcp.servers import McpServers, McpSessions

            self.mcp = servers = McpServers(state.config, sessions or McpSessions(state.store, state.clock))

            def serve(client_request: ClientRequest, cycle: RequestCycle) -> Coroutine[Any, Any, None]:
                if (name := servers.name_at(client_request.path)) is None:
                    return serve_api(client_request, cycle)
                return handle(state, partial(serve_mcp, name, servers), client_request, cycle)

            self.serve = serve
