"""`server`, `limits` and `log`: where gatepass listens, what one party may take, what is written down."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gatepass.config.block import BASE_PATH, MIB, Block, Bytes, Seconds


class Server(Block):
    host: str = "127.0.0.1"
    """The address to listen on. Anything wider than loopback wants keys under `access`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 picks a free one and says which."""
    base_path: Annotated[str, Field(pattern=BASE_PATH)] = ""
    """A prefix in front of every path, such as `/llm`."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that serve on one socket; they share tokens, see `store`."""
    drain_timeout_s: Annotated[float, Field(ge=0)] = 25.0
    """Seconds that running streams may go on after SIGTERM."""


class Limits(Block):
    body_bytes: Bytes = 32 * MIB
    """The largest request body."""
    upload_bytes: Bytes = 512 * MIB
    """The largest multipart form, which passes through and is not held."""
    reply_bytes: Bytes = 64 * MIB
    """The largest plain reply of an upstream; it is held whole to be judged."""
    event_bytes: Bytes = 32 * MIB
    """The largest single event of a stream."""
    connections: Annotated[int, Field(gt=0)] = 4000
    """Requests under way at once; one more is 503 `overloaded`."""
    receive_s: Seconds = 20.0
    """Seconds that a client may take to send its head, and again its body."""
    send_stall_s: Seconds = 300.0
    """Seconds for which a client may take nothing of what is written to it."""


class Log(Block):
    format: Literal["json", "text"] = "json"
    """One JSON object per line, or text for people."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least weight of what is logged."""
    bodies: bool = False
    """Log request and reply bodies, masked and cut at 2,000 characters. For hunting a fault only."""
