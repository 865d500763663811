"""The MCP servers of one configuration, and which caller opened each of their sessions.

Imported only if there are some. `exchange` serves them.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from gatepass.clock import Clock
from gatepass.config.access import storing
from gatepass.config.model import Config
from gatepass.errors import McpSessionNotFound, McpSessionsUnavailable, UpstreamInvalid
from gatepass.store.base import Store, StoreUnavailable
from gatepass.types import MCP_UPSTREAM, Hidden, Target

MOST_SESSIONS = 10_000
"""Sessions that a process remembers. Of more, the one used least recently by the caller with the most is forgotten."""
SESSION_S = 24 * 3600.0
"""How long the store keeps a session that is not used. Servers end one after half an hour."""
SHARED_S = 60.0
"""After this time a used session is read from the store and written again: it may have been emptied."""


class McpRoute(Hidden, msgspec.Struct, frozen=True):
    """The settings of one server that each request reads: attributes of a model of pydantic take ten times as long."""

    name: str
    target: Target
    url: str
    allowed_origins: tuple[str, ...]


class McpServers:
    """The servers of one configuration by their names, and the sessions at them."""

    def __init__(self, config: Config, sessions: McpSessions) -> None:
        self.by_name: Mapping[str, McpRoute] = {
            name: McpRoute(name, Target(MCP_UPSTREAM + name), one.url, tuple(one.allowed_origins))
            for name, one in config.mcp.items()
        }
        self.sessions = sessions
        self.checks_sessions = config.access.has_callers
        """Whether a session may be another caller's, or was until a reload."""
        self.has_one_caller = not config.access.jwt and len(storing(config.access.keys)) <= 1
        self._root = f"{config.server.base_path}/mcp"

    def name_at(self, path: str) -> str | None:
        """Return the name of the server at `path`, known or not; None for a path of something else."""
        if not path.startswith(self._root):
            return None
        below = path[len(self._root) :]
        name = below.strip("/")
        return None if "/" in name or (name and not below.startswith("/")) else name


@dataclass(slots=True)
class _Session:
    caller: str
    shared_s: float = -math.inf
    """When the store last had it."""


class McpSessions:
    """Which caller opened which session, for all processes that share `store`.

    A session belongs to the caller's name: neither another key of the caller nor another token of gatepass changes it.
    """

    def __init__(self, store: Store | None, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._sessions: dict[str, _Session] = {}
        self._of_caller: dict[str, OrderedDict[str, None]] = {}
        """The names of each caller's sessions, the least recently used one first."""

    def counts(self) -> Counter[str]:
        """Return how many sessions this process remembers, by server."""
        return Counter(name.removeprefix(_PREFIX).partition("/")[0] for name in self._sessions)

    async def check(self, server: str, session_id: bytes, caller: str, *, is_only_caller: bool = False) -> None:
        """Raise McpSessionNotFound unless `caller` opened the session.

        A session that nobody knows is taken for that of the only caller, because gatepass may have been restarted.
        Raises McpSessionsUnavailable if only the store can know whose it is and does not reply.
        """
        name = _name(server, session_id)
        session = self._sessions.get(name)
        if session is None or (self._store is not None and self._clock.now() - session.shared_s > SHARED_S):
            session = await self._read(name, session, caller, is_only_caller=is_only_caller)
        if session.caller != caller:
            raise _not_found()
        names = self._of_caller.get(caller)
        if names is not None and name in names:  # not if it was forgotten while the store was asked
            names.move_to_end(name)

    async def bind(self, server: str, session_id: bytes, caller: str) -> None:
        """Remember that `caller` opened the session. Without a reply of the store, this process alone does for now.

        Raises UpstreamInvalid if it is another caller's: each of them would read what the server sends to the other.
        """
        name = _name(server, session_id)
        session = self._sessions.get(name)
        if session is None:
            try:
                session = await self._read(name, None, caller, is_only_caller=True)
            except McpSessionsUnavailable:
                session = self._sessions.get(name) or self._keep(name, _Session(caller))
        if session.caller != caller:
            raise UpstreamInvalid(
                f"The MCP server {server} gave this caller a session that another caller uses, so it does not keep"
                " callers apart. Let all of its clients use keys with the same `name`.",
                upstream=MCP_UPSTREAM + server,
            )

    async def forget(self, server: str, session_id: bytes) -> None:
        """Forget a session that its server ended, or does not know."""
        name = _name(server, session_id)
        self._drop(name)
        if self._store is not None:
            with suppress(StoreUnavailable):  # it expires by itself
                await self._store.drop(name)

    def _keep(self, name: str, session: _Session) -> _Session:
        self._drop(name)
        self._sessions[name] = session
        self._of_caller.setdefault(session.caller, OrderedDict())[name] = None
        if len(self._sessions) > MOST_SESSIONS:  # one caller's sessions do not end those of others
            most = max(self._of_caller.values(), key=len)
            self._drop(next(iter(most)))
        return session

    def _drop(self, name: str) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            names = self._of_caller[session.caller]
            del names[name]
            if not names:
                del self._of_caller[session.caller]

    async def _read(self, name: str, known: _Session | None, caller: str, *, is_only_caller: bool) -> _Session:
        """Return the session as the store has it, and write it there if only this process knows it."""
        owner = None if known is None else known.caller
        if self._store is not None:
            try:
                found = (await self._store.get((name,))).values.get(name)
            except StoreUnavailable:
                if known is None:
                    raise McpSessionsUnavailable(
                        "The store does not say whose session this is. Retry with the same session.", retry_after_s=1
                    ) from None
                return known  # the next use tries again
            if found is not None:
                owner = found.decode()
            elif (since := self._sessions.get(name)) is not None:  # another caller got the same id meanwhile
                owner = since.caller
        if owner is None:
            if not is_only_caller:
                raise _not_found()
            owner = caller
        session = self._keep(name, _Session(owner))
        if owner == caller and self._store is not None:
            with suppress(StoreUnavailable):  # GuardedStore logs it, and the next use tries again
                await self._store.put(name, owner.encode(), SESSION_S)
                session.shared_s = self._clock.now()
        return session


_PREFIX = "mcp-session/v1/"


def _name(server: str, session_id: bytes) -> str:
    # the hash bounds the name, and the store does not learn an id that opens a session
    return f"{_PREFIX}{server}/{sha256(session_id).hexdigest()}"


def _not_found() -> McpSessionNotFound:
    return McpSessionNotFound("This caller has no such session. Initialize a new one.")
