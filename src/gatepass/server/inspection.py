"""What operators see of requests in all workers of this machine: lists of summaries, the story of one, and captures.

The workers ask each other (`Peers`): each answers for itself over a Unix socket in the supervisor's folder.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

import msgspec

from gatepass.auth.authenticator import LOCAL
from gatepass.config.model import Config
from gatepass.config.wording import did_you_mean
from gatepass.errors import InvalidRequest, system_reason
from gatepass.observability.capture import PIECE_BYTES, SHOWN_BYTES, CapturedRequest, CaptureSettings, merged_states
from gatepass.observability.observer import RequestRecord
from gatepass.observability.story import LISTED, MOST_LISTED, failed_at, has_id, matches, story_of, summary_of
from gatepass.proxy.app_state import AppState
from gatepass.server.cycle import ids_begin

LOG = logging.getLogger("gatepass.peers")

REQUEST_S = 1.0
"""Timeout for the page of one worker. A worker that does not answer in time is omitted."""
PAGE_BYTES = 8 * 1024 * 1024
REQUESTS = "/requests"
"""What the workers ask each other for: summaries by filters."""
CAPTURE = "/capture"
"""What the workers ask each other for: the state of the capture, perhaps after its start or end."""
STOP_CAPTURE = {"order": "stop"}
RELOAD, RETRY = "/reload", "/retry"
"""Commands of the control socket, which Peers pass to all workers like pages."""
STORY = "/story"
"""What the workers ask each other for: the stories of one id, perhaps with captured bodies."""
LONG_S: Mapping[str, float] = MappingProxyType({RELOAD: 30.0, STORY: 10.0})
"""Timeouts by path, instead of REQUEST_S. To mask 16 MiB of bodies takes 3 s."""

REPLICA = socket.gethostname()
"""The name of this host. In Kubernetes it is that of the pod."""

AT_ONCE = 50
"""How many requests are rendered before others are served: 2 ms."""

TEXTS_BYTES = 8 * SHOWN_BYTES
"""What the texts of bodies take while they are decoded, masked and encoded."""

Collect = Callable[[str], Awaitable[dict[str, bytes]]]
"""Returns the part of each worker for a target, by the worker's name."""
Own = Callable[[str], Awaitable[bytes]]
"""Returns what this worker answers to the other workers, by the path of a page or command; b"" for an unknown one."""
OwnPart = Callable[[AppState, Mapping[str, str]], Awaitable[bytes]]
"""Returns what one process contributes to a page or command, by the fields of its query; b"" for nothing."""


def own_view(view: Callable[[AppState], Any]) -> OwnPart:
    """Return the part of a process that is the JSON of what `view` returns."""

    async def own(state: AppState, _: Mapping[str, str]) -> bytes:
        return json.dumps(view(state)).encode()

    return own


async def decoded(collect: Collect, path: str, fields: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Return the JSON part of each worker for `path` and `fields`, by the worker's name."""
    return {name: json.loads(part) for name, part in (await collect(f"{path}?{urlencode(fields or {})}")).items()}


async def first_part(collect: Collect, path: str, fields: Mapping[str, object]) -> dict[str, Any] | None:
    """Return the JSON part of the first worker that has one for `path` and `fields`, None if no worker has."""
    return next(iter((await decoded(collect, path, fields)).values()), None)


async def own_requests(state: AppState, filters: Mapping[str, str]) -> bytes:
    """Return the summaries that this process knows. Others are served between them."""
    fields = {name: value for name, value in filters.items() if value}
    now_s, wall_s = state.clock.now(), state.clock.wall()
    limit = min(_number(fields, "limit", LISTED), MOST_LISTED)
    after = max(_number(fields, "ended_after", 0.0), now_s - _number(fields, "within_s", now_s))
    # before they are rendered: a page that follows the list asks twice a second. A summary rounds its end
    least_s = after - 1e-5
    newer = [one for one in state.inspector.newest() if one.arrived_s + (one.duration_s or 0.0) >= least_s]
    found: dict[str, list[dict[str, Any]]] = {"requests": [], "running": []}
    upstream = fields.get("failed_at")
    for number, one in enumerate((*running(state), *newer)):
        if number % AT_ONCE == AT_ONCE - 1:
            await asyncio.sleep(0)
        if upstream is not None and not failed_at(one, upstream):
            continue
        listed = found["running" if one.duration_s is None else "requests"]
        if len(listed) < limit:
            summary = summary_of(one, now_s, wall_s, state.redactor.mask)
            summary["captured"] = state.capture.of(one.access) is not None
            if (one.duration_s is None or summary["ended"] >= after) and matches(summary, fields):
                listed.append(summary)
    return json.dumps({"now": now_s, **found, "dropped": state.inspector.evicted}).encode()


def told(wanted: str, state: AppState) -> list[tuple[dict[str, Any], CapturedRequest | None]]:
    now_s, wall_s = state.clock.now(), state.clock.wall()
    found = [one for one in (*running(state), *state.inspector.newest()) if has_id(one, wanted)]
    known = [one.access for one in found]
    # the inspector may have evicted a captured request
    found += [one for one in state.capture.ended() if has_id(one, wanted) and one.access not in known]
    found = found[:AT_ONCE]  # clients may use one id for all of their requests
    captured = [state.capture.of(one.access) for one in found]
    return [
        ({**story_of(one, now_s, wall_s, state.redactor.mask), "captured": bodies is not None}, bodies)
        for one, bodies in zip(found, captured, strict=True)
    ]


async def own_stories(state: AppState, fields: Mapping[str, str]) -> bytes:
    """Return the stories of this process for `id`, or the piece of a captured body with the name `piece`.

    With `bodies` the stories have the beginnings of captured bodies. While they are made, the budget of held bytes
    counts them. If it is full, they have the names of the pieces alone.
    """
    if "piece" in fields:
        piece = await state.capture.piece(fields["piece"], state.redactor)
        return b"" if piece is None else json.dumps(piece).encode()
    stories, found = [], told(fields["id"], state)
    has_bodies = "bodies" in fields and any(captured is not None for _, captured in found)
    is_held = has_bodies and state.in_flight.held.hold(TEXTS_BYTES)
    left_bytes = SHOWN_BYTES if is_held else 0
    try:
        for story, captured in found:
            bodies = {}
            if has_bodies and captured is not None:
                bodies = {"bodies": await captured.bodies(state.redactor, left_bytes)}
                left_bytes -= sum(min(PIECE_BYTES, one["size_bytes"]) for one in bodies["bodies"])
            stories.append({**story, **bodies})
        return json.dumps(stories).encode()
    finally:
        if is_held:
            state.in_flight.held.hold(-TEXTS_BYTES)


def running(state: AppState) -> Iterator[RequestRecord]:
    requests = [one.response.context.inspected() for one in state.in_flight.requests]
    yield from sorted(requests, key=lambda one: -one.arrived_s)


async def requests_listing(collect: Collect, filters: Mapping[str, str]) -> dict[str, Any]:
    """Return the summaries of all workers, those that ended last first."""
    parts = await decoded(collect, REQUESTS, filters)
    limit = int(min(_number(filters, "limit", LISTED), MOST_LISTED))

    def merged(kind: str, order: str) -> list[dict[str, Any]]:
        found = [{**one, "worker": name} for name, part in parts.items() for one in part[kind]]
        return sorted(found, key=lambda one: one[order], reverse=True)[:limit]

    return {
        "replica": REPLICA,
        "ids_begin": ids_begin(REPLICA),
        "now": max((part["now"] for part in parts.values()), default=0.0),
        "requests": merged("requests", "ended"),
        "running": merged("running", "arrived_at"),
        "dropped": sum(part["dropped"] for part in parts.values()),
    }


async def stories(collect: Collect, wanted: str, *, bodies: bool) -> list[dict[str, Any]]:
    """Return the stories of the requests with the id `wanted` in all workers, the newest first.

    `bodies`: with the beginnings of captured bodies.
    """
    parts = await decoded(collect, STORY, {"id": wanted, **({"bodies": 1} if bodies else {})})
    found = [{**one, "worker": name, "replica": REPLICA} for name, part in parts.items() for one in part]
    return sorted(found, key=lambda one: str(one["arrived_at"]), reverse=True)


async def body_piece(collect: Collect, name: str) -> dict[str, Any]:
    """Return the piece `name` of a captured body; raise InvalidRequest if no worker holds it."""
    piece = await first_part(collect, STORY, {"piece": name})
    if piece is None:
        raise InvalidRequest("This body is not captured any more.")
    return piece


def _number(fields: Mapping[str, str], name: str, default: float) -> float:
    try:
        return max(0.0, float(fields[name]))
    except (KeyError, ValueError):
        return default


async def start_capture(collect: Collect, document: bytes, config: Config) -> dict[str, Any]:
    """Start the capture that the JSON `document` describes, in all workers. Return its state.

    Raises InvalidRequest, also for a caller that no key of `config` has. The operator is the caller `local`.
    """
    try:
        settings = msgspec.json.decode(document or b"{}", type=CaptureSettings)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The settings of the capture are invalid: {error}.") from None
    names = sorted({LOCAL.name, *(key.name for key in config.access.keys)})
    if settings.caller is not None and settings.caller not in names:
        hint = did_you_mean(settings.caller, names)
        raise InvalidRequest(f"The caller {settings.caller[:100]!r} is not known{hint}", param="caller")
    given = {name: value for name, value in msgspec.to_builtins(settings).items() if value is not None}
    return await capture_state(collect, {"order": "start", **given})


async def capture_state(collect: Collect, fields: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Return the state of the capture, summed over all workers, after the start or end that `fields` may order."""
    return merged_states((await decoded(collect, CAPTURE, fields)).values())


async def own_capture(state: AppState, fields: Mapping[str, str]) -> bytes:
    """Start or stop the capture of this process if `fields` order it, and return its state."""
    order = fields.get("order")
    if order == "start":
        settings = {name: value for name, value in fields.items() if name != "order"}
        state.capture.start(msgspec.convert(settings, CaptureSettings, strict=False))
    elif order == "stop":
        state.capture.stop()
    return json.dumps(state.capture.state()).encode()


async def join_capture(collect: Collect, state: AppState) -> None:
    """Start the capture that runs in the other workers, for the rest of its time."""
    found = await capture_state(collect)
    if found["running"] and state.capture.settings is None and found["left_s"] > 0:
        settings = CaptureSettings(found["model"], found["caller"], found["left_s"], found["limit_bytes"])
        state.capture.start(settings)


def last_reload_ns(folder: Path) -> int:
    """Return when the last `gatepass reload` of the workers with this folder began, 0 if none did."""
    try:
        return (folder / "reload").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


class Peers:
    """Serves the parts of this worker to the other workers, and collects theirs.

    `folder` is created by the supervisor with mode 0700. A worker's socket in it also means that the worker is ready.
    The client sends one line with a target: the path of a page, perhaps with a query. It receives the worker's part:
    Prometheus text, or JSON.
    """

    def __init__(self, folder: Path, name: str, own: Own) -> None:
        self.folder = folder
        self._socket = folder / f"{name}.sock"
        self._own = own
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._answer, self._socket)

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
            self._socket.unlink(missing_ok=True)

    async def reload(self) -> list[dict[str, Any]]:
        """Let each worker reload its configuration, and return their results. A worker that does not answer refused."""
        (self.folder / "reload").touch()  # before the list: a worker that starts meanwhile has read an older file
        # listed before the requests, so that a worker that ends meanwhile is reported
        workers = [path.stem for path in self.folder.glob("*.sock")]
        pages = await self.collect(RELOAD)
        silent = [f"{name}: did not answer; its log has the result" for name in sorted(workers) if name not in pages]
        none = dict.fromkeys(("changed", "needs_restart", "retried", "warnings"), ())
        refused = {"outcome": "refused", "problems": silent, **none}
        return [*map(json.loads, pages.values()), *([refused] if silent else [])]

    async def collect(self, page: str) -> dict[str, bytes]:
        """Return the part of each worker for the path `page`, by its name."""
        paths = sorted(self.folder.glob("*.sock"))
        found = await asyncio.gather(*(self._request(path, page) for path in paths))
        return {path.stem: content for path, content in zip(paths, found, strict=True) if content}

    async def _request(self, path: Path, page: str) -> bytes | None:
        if path == self._socket:  # directly: a full queue of its socket must not hide this worker from itself
            return await self._own(page)
        try:
            async with asyncio.timeout(_timeout_s(page)):
                reader, writer = await asyncio.open_unix_connection(path, limit=PAGE_BYTES)
                try:
                    writer.write(f"{page}\n".encode())
                    return await reader.read(-1)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            LOG.warning("worker_unresponsive", extra={"fields": {"silent": path.stem, "reason": system_reason(error)}})
            return None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # two limits: the time for a slow reload begins when the request has arrived
            async with asyncio.timeout(REQUEST_S):
                page = (await reader.readline()).decode("latin-1").strip()
            async with asyncio.timeout(_timeout_s(page)):
                writer.write(await self._own(page))
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            return  # the other worker closed the connection, or sent no valid line
        finally:
            writer.close()


def _timeout_s(target: str) -> float:
    return LONG_S.get(target.partition("?")[0], REQUEST_S)
