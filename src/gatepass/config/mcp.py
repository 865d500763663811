"""`mcp.NAME`: one MCP server, its credential, and which of its calls may be repeated."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from gatepass.config.access import CorsOrigin
from gatepass.config.block import MIB, Block, Bytes, Name, Seconds, Url
from gatepass.config.network import Network, TimeoutSettings, TokenPlacement
from gatepass.config.upstream import ForwardedHeaders, RejectionConfig, StaticHeaders, UpstreamConfig


def _no_star(origin: str) -> str:
    if origin == "*":
        raise ValueError("names no origin: list the origins of the pages, such as https://chat.corp.example")
    return origin


class McpTimeouts(Block):
    """Timeouts of requests to an MCP server. A stream has no total timeout."""

    connect_s: Seconds = 5.0
    """Seconds to establish a connection, TLS included.

    Example: 1
    """
    first_byte_s: Seconds = 300.0
    """Seconds from the last byte of the request to the head of the reply. A tool that does not stream sends the head
    when it has finished.

    Example: 900
    """
    idle_s: Seconds = 3600.0
    """Seconds between two reads of the reply. A stream that waits for notifications then ends as if the server had
    ended it, and the client opens another one.

    Example: 600
    """


class McpServer(Block):
    url: Url
    """The URL of the server's endpoint (Streamable HTTP). gatepass serves it at `/mcp/NAME` and appends nothing.

    Example: https://tools.corp.example/mcp
    """
    credential: Name | None = None
    """A name under `credentials`. None: gatepass sends no token.

    Example: corp
    """
    token_placement: TokenPlacement | None = None
    """Where the token is in requests to this server. None: as in the credential's setting.

    Example: {headers: {X-Auth-Token: "{token}"}}
    """
    headers: StaticHeaders = {}
    """Headers to send with every request in addition to the token, as under `upstreams`.

    Example: {X-Team: search}

    Danger: Write keys as references. gatepass masks values of 16 characters and more in its logs and errors.
    """
    rejection: RejectionConfig = RejectionConfig()
    """Replies that reject the token, in addition to a 401, as under `upstreams`. gatepass fetches one new token for all
    rejected requests, and sends each once more, because the server executed nothing.

    Example: {statuses: [403]}
    """
    repeat: list[Annotated[str, Field(min_length=1)]] = []
    """The tools that may run twice. gatepass calls one of them once more if the connection fails, a timeout passes or
    the server replies with a 5xx. Names are exact.

    Example: [search]

    Danger: A tool that writes may write twice.
    """
    allowed_origins: list[Annotated[CorsOrigin, AfterValidator(_no_star)]] = []
    """The origins of web pages that may use the server with a key. Pages of other origins get 403 `forbidden_origin`.

    Example: ["https://inspector.corp.example"]

    Danger: Every script of such a page can use the server with the key that the page has.
    """
    forward_headers: ForwardedHeaders = []
    """Request headers of the client to send to the server, in addition to the built-in list, which has `Mcp-*`,
    `Accept`, `Last-Event-ID` and those of tracing.

    Example: [x-team]

    Danger: The server receives any value that clients put there.
    """
    body_bytes: Bytes = 4 * MIB
    """The largest request body, in bytes. A larger one gets 413.

    Example: 1048576
    """
    timeouts: McpTimeouts = McpTimeouts()
    """Timeouts of requests to this server.

    Example: {first_byte_s: 900}
    """
    network: Network = Network()
    """Proxy and TLS files for this server.

    Example: {proxy: "http://proxy.corp.example:3128"}
    """
    allow_plain_http: bool = False
    """Allow sending the credential over plain HTTP beyond loopback, or through a proxy beyond loopback.

    Danger: Others on the network can read the token.
    """

    def as_upstream(self) -> UpstreamConfig:
        """Return the settings as those of an upstream. Its `base_url` is `url` without a query."""
        return UpstreamConfig(
            base_url=urlsplit(self.url)._replace(query="").geturl(),
            credential=self.credential,
            token_placement=self.token_placement,
            rejection=self.rejection,
            network=self.network,
            timeouts=TimeoutSettings(**self.timeouts.model_dump()),
            forward_headers=self.forward_headers,
            forward_response_headers=["mcp-*", "allow"],
            learn="off",
            allow_plain_http=self.allow_plain_http,
            headers=self.headers,
        )
