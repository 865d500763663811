"""The configuration as one tree of frozen values: what may be written, its defaults and its units.

Every class is one block of the file. Unknown members are errors. Fields that hold a
secret have the type `Secret`; `references.py` says how `${ENV}` and `${file:…}` become one.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gatepass.config.access import Access
from gatepass.config.block import BASE_PATH, MIB, Block, Bytes, Name, Seconds
from gatepass.config.credential.kinds import AnyCredential
from gatepass.config.models import Model, OperationName, OperationRoute
from gatepass.config.profiles import Profile
from gatepass.config.store import StoreSettings
from gatepass.config.upstream import Upstream

OTHER_DESCRIPTORS = 64
"""For the listening socket, token endpoints, the store, the log and the pages of workers."""


def _network(text: str) -> str:
    try:
        ip_network(text)
    except ValueError:
        raise ValueError("expects an address or a network, such as 10.0.0.7 or 10.0.0.0/8, without host bits") from None
    return text


Network = Annotated[str, AfterValidator(_network)]


class Server(Block):
    host: str = "127.0.0.1"
    """The address to listen on. Anything wider than loopback wants keys under `access`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 picks a free one and says which."""
    base_path: Annotated[str, Field(pattern=BASE_PATH)] = ""
    """A prefix in front of every path, such as `/llm`."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that serve on one socket; they share tokens, see `store`."""
    trusted_proxies: list[Network] = []
    """Addresses and networks of proxies whose X-Forwarded-For names the client, for limits per address."""
    drain_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds after SIGTERM in which gatepass serves on while /readyz is red, for balancers that poll it."""
    drain_timeout_s: Annotated[float, Field(ge=0)] = 25.0
    """Seconds that running streams may go on after SIGTERM and `drain_delay_s`."""


class Limits(Block):
    body_bytes: Bytes = 32 * MIB
    """The largest request body."""
    upload_bytes: Bytes = 512 * MIB
    """The largest multipart form, which passes through and is not held."""
    reply_bytes: Bytes = 64 * MIB
    """The largest plain reply of an upstream; it is held whole to be judged."""
    held_bytes: Bytes = 512 * MIB
    """Request bodies and whole replies in memory, in total; a request whose body does not fit is 503 `overloaded`."""
    event_bytes: Bytes = 32 * MIB
    """The largest single event of a stream; also as much as an upstream may send between two without an event."""
    connections: Annotated[int, Field(gt=0)] = 4000
    """Requests under way at once; one more is 503 `overloaded`, unless it is its caller's only one."""
    unauthenticated_connections: Annotated[int, Field(gt=0)] | None = None
    """Connections without an authenticated request, beside `connections`; None: a quarter of `connections`."""
    receive_s: Seconds = 20.0
    """Seconds that a client may take to send its head, and again its body."""
    upload_bytes_per_s: Bytes = 1024
    """The least bytes a second, on average, at which a client may send a form; receive_s come on top."""
    send_stall_s: Seconds = 300.0
    """Seconds for which a client may take nothing of what is written to it."""

    @property
    def unauthenticated(self) -> int:
        """How many connections are kept for clients that have not authenticated."""
        return self.unauthenticated_connections or max(1, self.connections // 4)


class Log(Block):
    format: Literal["json", "text"] = "json"
    """One JSON object per line, or text for people."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least weight of what is logged."""
    bodies: bool = False
    """Log request and reply bodies, masked and cut at 2,000 characters. For hunting a fault only."""


class Config(Block):
    """The whole file."""

    server: Server = Server()
    """Where gatepass listens and how it stops."""
    limits: Limits = Limits()
    """Bounds on what one client or upstream may take."""
    credentials: dict[Name, AnyCredential] = {}
    """Where tokens come from, by name."""
    upstreams: Annotated[dict[Name, Upstream], Field(min_length=1)]
    """The servers behind gatepass, by name; at least one."""
    operations: dict[OperationName, OperationRoute] = {}
    """What is different for one operation, and where models go in it that no entry of `models` names."""
    models: dict[str, Model] = {}
    """Public model names or globs. An exact name beats the longest glob, which beats `*`."""
    profiles: dict[Name, Profile] = {}
    """What clients need beyond the plain API, by name."""
    access: Access = Access()
    """Who may come in."""
    store: StoreSettings | None = None
    """A server through which independent gatepass processes share; None: each for itself."""
    log: Log = Log()
    """What is written about each request."""

    @property
    def descriptors(self) -> int:
        """The most file descriptors that one process needs: clients, upstreams, and OTHER_DESCRIPTORS."""
        limits, callers = self.limits, self.access.callers
        upstream = sum(upstream.max_connections or limits.connections for upstream in self.upstreams.values())
        requests = limits.connections + callers
        return requests + limits.unauthenticated + min(requests, upstream) + OTHER_DESCRIPTORS
