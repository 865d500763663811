"""Serve a captured request again, on the usual way: the same path, profile and body, as the admin who orders it."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from gatepass.clock import wait_at_most
from gatepass.errors import InvalidRequest
from gatepass.observability.capture import CapturedBody, CapturedRequest
from gatepass.observability.redaction import AROUND_CHARS
from gatepass.observability.story import attempts_of
from gatepass.proxy.app_state import AppState
from gatepass.proxy.handler import handle
from gatepass.proxy.models import ModelCatalog
from gatepass.server.inspection import REPLAY, Collect, decoded, first_part
from gatepass.types import ClientRequest, Hidden, Replay

LOG = logging.getLogger("gatepass.serve")

FIND = f"{REPLAY}/find"
"""What the workers ask each other for: which of them holds a captured request. One of them then gets REPLAY."""
WAIT_S = 40.0
"""How long the operator waits for the end of the response. The request itself continues."""
KEPT_BYTES = 64 * 1024 + AROUND_CHARS
"""How much of the response is kept. Its last AROUND_CHARS are not shown, because they may begin a secret."""


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    """What `POST /replay` accepts. `without` names rules, or entries of `x-gatepass-adapted`."""

    id: str
    without: list[str] = []


def replay_id() -> str:
    return f"replay-{secrets.token_hex(8)}"


async def replay(collect: Collect, document: bytes, new_id: str, key_digest: bytes = b"") -> dict[str, Any]:
    """Serve the captured request again that the JSON `document` names, as `new_id`, in the worker that holds it.

    It runs with what the key of `key_digest` may do, without one as the operator of this machine, who may do all.
    Returns the id of the new request, its status, and the beginning of its response. Raises InvalidRequest.
    """
    try:
        order = msgspec.json.decode(document, type=_Order)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The order to replay a request is invalid: {error}.") from None
    wanted = {"id": order.id, "without": json.dumps(order.without)}
    held = (await decoded(collect, FIND, wanted)).values()
    if not held:
        text = f"The request {order.id!r} is not captured. Capture it with `gatepass capture`, and send it again."
        raise InvalidRequest(text)
    one = max(held, key=lambda found: float(found["arrived_s"]))  # a client may use an id twice
    if (problem := one["problem"]) is not None:
        raise InvalidRequest(f"The request {order.id!r} cannot be replayed: {problem}.")
    chosen = {"key": one["key"], "new_id": new_id, "digest": key_digest.hex()}
    result = await first_part(collect, REPLAY, wanted | chosen)
    if result is None:
        raise InvalidRequest(f"The request {order.id!r} is not captured any more.")
    return result


async def own_find(state: AppState, fields: Mapping[str, str]) -> bytes:
    """Return what this process knows of a captured request, b"" if it does not hold it."""
    captured = state.capture.find(fields["id"])
    if captured is None:
        return b""
    arrived_s = state.clock.now() if captured.ended is None else captured.ended.arrived_s
    problem = _problem(captured, json.loads(fields["without"]), state)
    return json.dumps({"key": captured.key, "arrived_s": arrived_s, "problem": problem}).encode()


async def own_replay(state: AppState, fields: Mapping[str, str]) -> bytes:
    """Replay a request that this process captured, b"" if it does not hold it."""
    captured = state.capture.find(fields["id"])
    if captured is None or captured.key != fields["key"] or captured.ended is None or captured.body is None:
        return b""
    access = captured.ended.access
    profile = next((key.profile for key in state.config.access.keys if key.name == access.caller), None)
    client_request = ClientRequest(
        fields["new_id"],
        access.method,
        access.path,
        ((b"content-type", b"application/json"),),
        "",
        state.clock.now(),
        replay=Replay(access.id, profile, tuple(json.loads(fields["without"]))),
        key_digest=bytes.fromhex(fields["digest"]),
    )
    return json.dumps(await _serve_again(client_request, access.id, captured.body, state)).encode()


def _problem(captured: CapturedRequest, without: Sequence[str], state: AppState) -> str | None:
    if captured.ended is None:
        return "it is still running"
    attempts, access = [*attempts_of(captured.ended.attempt)], captured.ended.access
    if access.mcp_method:
        return "it is a message to an MCP server, which may act twice"
    changed = dict.fromkeys(edit.rule for one in attempts[::-1] for edit in one.edits.listed)
    changed |= dict.fromkeys(record.rule.entry for record in state.learned_rules())
    # with those of the response, which no rule makes
    made = {*changed, *access.adapted, *(entry for one in attempts for entry in one.adapted)}
    if unknown := [one for one in without if one not in made]:
        known = f"You can leave out {', '.join(changed)}" if changed else "No rule changed it"
        return f"it has no change {unknown[0][:100]!r}. {known}"
    if captured.request is None:
        return "its body was not captured, because it is a form or began before the capture"
    return "its body was too large and is cut (`--bytes`)" if captured.request.is_cut else None


async def _serve_again(client_request: ClientRequest, of: str, body: bytes, state: AppState) -> dict[str, Any]:
    cycle, has_ended = _ReplayCycle(body), asyncio.Event()

    def on_served(task: asyncio.Task[None]) -> None:
        has_ended.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            LOG.error("request_failed", exc_info=error)

    # the request belongs to the process: it continues when the operator waits no longer
    task = state.in_flight.tasks.spawn(handle(client_request, state, ModelCatalog(state), cycle), "replay")
    task.add_done_callback(on_served)
    await wait_at_most(has_ended, WAIT_S, state.clock)
    return {
        "id": client_request.id,
        "replay_of": of,
        "ended": task.done(),
        "status": cycle.status,
        "adapted": [entry for entry in cycle.adapted.split(", ") if entry],
        "body": (await cycle.response.piece(state.redactor))[0],
        "bytes": cycle.sent_bytes,
        "duration_s": round(state.clock.now() - client_request.arrived_s, 4),
    }


class _ReplayCycle(Hidden):
    """The client of a replay: it has sent the captured body, and keeps the beginning of the response."""

    connected_before_drain = False
    gave_up = False

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.status: int | None = None
        self.adapted = ""
        self.response = CapturedBody(bytearray())
        self.sent_bytes = 0

    def set_caller(self, caller: str) -> None:
        """The operator's connection counts for no caller."""

    async def read_body(self, limit_bytes: int, claim: Callable[[int], None] | None = None) -> bytes:  # noqa: ARG002 - it was within the limit when it was captured
        if claim is not None:
            claim(len(self._body))
        return self._body

    async def read_piece(self, limit_bytes: int) -> bytes:  # noqa: ARG002 - no form is replayed
        return b""

    def start(self, status: int, headers: list[tuple[bytes, bytes]], length_bytes: int | None = None) -> None:  # noqa: ARG002 - nothing is framed
        self.status = status
        self.adapted = dict(headers).get(b"x-gatepass-adapted", b"").decode("latin-1")

    async def write(self, data: bytes, *, last: bool = False) -> None:  # noqa: ARG002 - the end of `handle` is the end
        self.try_write(data)

    def try_write(self, data: bytes) -> bool:
        room_bytes = KEPT_BYTES - len(self.response.data)
        self.response.data += data[:room_bytes]
        self.response.is_cut = self.response.is_cut or room_bytes < len(data)
        self.sent_bytes += len(data)
        return True

    def abort(self) -> None:
        """There is no connection to close."""

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """The operator may leave: the request continues."""
