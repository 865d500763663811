"""Use a Valkey or Redis server (6 or newer) as the store, through the Valkey project's client (extra `valkey`).

Only this module imports that client. Its retries and health checks are off, and its timeouts count for each reply
anew: `GuardedStore` bounds each request as a whole. A connection whose request was cancelled is closed.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha1
from typing import Any

from valkey import exceptions
from valkey.asyncio import Valkey
from valkey.asyncio.connection import BlockingConnectionPool, Connection
from valkey.credentials import CredentialProvider

from gatepass.clock import Clock
from gatepass.config.advice import Advice
from gatepass.config.model import StoreSettings
from gatepass.errors import system_reason
from gatepass.store.base import StoreReading, StoreUnavailable

PREFIX = "gatepass:"
"""The beginning of all key names. Another gatepass on the same server uses another database of the URL."""
CONNECTIONS = 4
CLOSING_S = 5.0
PERMISSIONS = (
    "+client|setname +select +get +mget +set +del +time +eval +evalsha +incr +expire +pexpire"
    " +zadd +zrem +zcard +zremrangebyscore"
)
"""The commands that gatepass sends, as an ACL of the server permits them."""

_COUNT = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return count
"""
_LEASE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


class ValkeyStore:
    """A Store on a server. It connects at the first request. Raises OSError if a TLS file cannot be loaded."""

    def __init__(self, settings: StoreSettings, clock: Clock) -> None:
        self._clock = clock
        self._pool = BlockingConnectionPool(CONNECTIONS, None, _Connection, **_connection_settings(settings))
        self._client = Valkey(connection_pool=self._pool)

    async def get(self, names: Collection[str]) -> StoreReading:
        started_s = self._clock.now()
        with _failures():
            async with self._client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.get(PREFIX + name)
                # the processes of several machines compare moments on the server's clock
                pipe.execute_command(b"TIME")  # as a text the client would make numbers of any reply
                *values, moment = _checked(await pipe.execute(raise_on_error=False))
            found = {name: _text(value) for name, value in zip(names, values, strict=True) if value is not None}
            seconds, microseconds = map(int, map(_text, moment))
            return StoreReading(found, seconds + microseconds / 1e6, started_s, self._clock.now())

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        with _failures():
            if await self._client.set(PREFIX + name, value, px=_milliseconds(ttl_s)) is not True:
                raise exceptions.InvalidResponse(ODD)

    async def drop(self, name: str) -> None:
        with _failures():
            await self._client.delete(PREFIX + name)

    async def count(self, name: str, ttl_s: float) -> int:
        return await self._run(_COUNT, name, _milliseconds(ttl_s))

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        return bool(await self._run(_LEASE, name, owner, _milliseconds(ttl_s)))

    async def release(self, name: str, owner: str) -> None:
        await self._run(_RELEASE, name, owner)

    async def aclose(self) -> None:
        with _failures():
            await self._pool.disconnect()

    async def evaluate(self, script: str, commands: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[bytes]:
        """Run a script that replies a text for each of `commands`, names and arguments, in one round trip."""
        with _failures():
            digest, replies = sha1(script.encode(), usedforsecurity=False).hexdigest(), list[Any]()
            for is_new in (False, True):  # the server has not had the script yet, or was restarted
                async with self._client.pipeline(transaction=False) as pipe:
                    for at, (names, arguments) in enumerate(commands):
                        run, text = (pipe.eval, script) if is_new and not at else (pipe.evalsha, digest)
                        run(text, len(names), *(PREFIX + name for name in names), *arguments)
                    replies = await pipe.execute(raise_on_error=False)
                if not all(isinstance(reply, exceptions.NoScriptError) for reply in replies):
                    break
            return [_text(reply) for reply in _checked(replies)]

    async def _run(self, script: str, name: str, *arguments: Any) -> int:
        """Return the number that a Lua script replies. The server runs no other command in between."""
        with _failures():
            reply: Any = self._client.eval(script, 1, PREFIX + name, *arguments)
            return int(await reply or 0)


ODD = "Protocol error: the server sent a reply of another type"


def _checked(replies: list[Any]) -> list[Any]:
    """Return the replies of a pipeline. Raise its first error: `execute` adds the command to the server's text."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _text(reply: Any) -> bytes:
    if not isinstance(reply, bytes):
        raise exceptions.InvalidResponse(ODD)
    return reply


@contextmanager
def _failures() -> Iterator[None]:
    """Turn each failure, and each reply that no command has, into StoreUnavailable."""
    try:
        yield
    except (exceptions.ValkeyError, OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _unavailable(error) from None


ADVICE: tuple[tuple[type[exceptions.ValkeyError], str], ...] = (
    (exceptions.AuthenticationError, "store_login"),
    (exceptions.OutOfMemoryError, "store_full"),
    (exceptions.ReadOnlyError, "store_replica"),
)


def _unavailable(error: Exception) -> StoreUnavailable:
    """Return what the server or the system reported, and what to do if it is known."""
    cause = error if isinstance(error, OSError) else error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = f"the server's certificate was refused: {cause.verify_message}".rstrip(".")
        return StoreUnavailable(why, Advice("store_ca"))
    if isinstance(cause, ssl.SSLError):
        return StoreUnavailable("the TLS handshake failed", Advice("store_tls"))
    if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
        return StoreUnavailable(system_reason(cause), Advice("store_down"))
    # what follows quotes the arguments of the command, and may be cut inside the password
    text = str(error).partition(", with args beginning with")[0].strip().rstrip(".")
    if isinstance(error, exceptions.NoPermissionError):
        return StoreUnavailable(text, Advice("store_permissions", {"keys": f"{PREFIX}*", "commands": PERMISSIONS}))
    return StoreUnavailable(text, Advice(next((case for kind, case in ADVICE if isinstance(error, kind)), "")))


class _Connection(Connection):
    """TLS with gatepass's `context`, made once: the client makes one for each connection, which takes 20 ms."""

    def __init__(self, *, context: ssl.SSLContext | None, **settings: Any) -> None:
        super().__init__(**settings)
        self._context = context

    def _connection_arguments(self) -> dict[str, Any]:
        return {"host": self.host, "port": self.port, "ssl": self._context}


class _Password(CredentialProvider):
    """Read the password again for each connection, because its file may have been rotated."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = "" if self._settings.password is None else self._settings.password.reveal()
        return (password,) if self._settings.username is None else (self._settings.username, password)


def _connection_settings(settings: StoreSettings) -> dict[str, Any]:
    context = None
    if settings.tls:
        network, context = settings.network, ssl.create_default_context()
        if network.ca_file:
            context.load_verify_locations(network.ca_file)
        if network.client_cert:
            context.load_cert_chain(network.client_cert, network.client_key)
    arguments: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "db": settings.database,
        "context": context,
        "client_name": "gatepass",
        # None: the client would otherwise send CLIENT SETINFO, which exists only since Redis 7.2.
        "lib_name": None,
        "lib_version": None,
        # The client's timeout is an `asyncio.wait_for`. In Python 3.11 that loses a cancellation that arrives
        # when its awaitable is done (python/cpython#86296), so a cancelled request would continue.
        "socket_timeout": None,
        "socket_connect_timeout": CLOSING_S,  # it also bounds the closing of a connection, which nothing else does
    }
    if settings.password is not None:
        arguments["credential_provider"] = _Password(settings)
    return arguments


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))  # the server rejects an expiry of 0
