"""Reload the configuration in a serving process: `Reloader.reload` validates it completely, then replaces the AppState.

Every trigger uses it: SIGHUP, `gatepass reload` and `server.watch`. Requests in progress keep their AppState.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec
from msgspec import structs

from gatepass.cancel import timeout
from gatepass.clock import Clock, sleep
from gatepass.config.access import storing
from gatepass.config.checks import second_caller
from gatepass.config.document import ConfigError, leaves
from gatepass.config.load import NEED_RESTART, LoadedConfig, changed_blocks, check
from gatepass.config.model import Config
from gatepass.config.references import Reference, UnresolvedReference
from gatepass.documents import ReloadResult
from gatepass.errors import system_reason
from gatepass.http_client.tls import TLSContexts
from gatepass.proxy.app_state import AppState, next_app_state
from gatepass.server.endpoint import ApiEndpoint
from gatepass.server.listener_tls import ListenerContext, ListenerTls
from gatepass.types import settings_of

LOG = logging.getLogger("gatepass.serve")

READ_S = 20.0
"""Time to read and validate the files. A file on a server that does not answer must not block a reload forever."""

WATCH_S = 1.0
LARGEST_WATCHED_BYTES = 4 * 1024 * 1024

KEYS_LOST = (
    "access: has no keys and no jwt, but this gatepass has served with one of them: without them every caller would"
    " have access. Restore the access block, or restart gatepass to serve without keys"
)
HALF_WRITTEN = (
    "the file is the beginning of the one in use, and may be half written: gatepass reads it again when it changes."
    " Run `gatepass reload` if it is complete"
)
RESTART = "the file is valid with its {}, which gatepass uses from a restart on: restart it"

Trigger = Literal["signal", "command", "watch"]


class ConfigSource(msgspec.Struct, frozen=True):
    """The configuration at the start, and how to read it again."""

    loaded: LoadedConfig
    read: Callable[[], LoadedConfig]


class _Read(msgspec.Struct, frozen=True):
    """A configuration that was read and is valid. `config` has the blocks of NEED_RESTART from the start."""

    loaded: LoadedConfig
    config: Config
    tls_contexts: TLSContexts
    needs_restart: tuple[str, ...]
    changed: tuple[str, ...]
    """Compared in the thread too: 10,000 models take 40 ms."""
    listener: ListenerContext | None
    """What new connections use if the files of `server.tls` have changed."""


class _Refused(Exception):
    """The configuration cannot be used. Each argument is a problem."""


class Reloader:
    """Reloads the configuration of one process, one reload at a time. `on_change` receives each new one first."""

    def __init__(
        self,
        endpoint: ApiEndpoint,
        source: ConfigSource,
        on_change: Callable[[Config], object],
        tls: ListenerTls | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._source = source
        self._on_change = on_change
        self._tls = tls
        self.loaded = source.loaded
        """The file of the configuration in use, and what it says."""
        self._lock = asyncio.Lock()

    async def watch(self, clock: Clock) -> NoReturn:
        """Reload when the files of the configuration have changed and are equal in two readings, WATCH_S apart."""
        used: Readings | None = None
        seen: Readings | None = None
        while True:
            await sleep(clock, WATCH_S)
            now, written_ns = await asyncio.to_thread(_readings, self.loaded)
            if now != seen:
                seen = now
            elif now != used:
                await self.reload("watch")
                # otherwise a file has changed meanwhile, so the next readings decide
                used = now if await asyncio.to_thread(_readings, self.loaded) == (now, written_ns) else None

    async def reload(self, trigger: Trigger) -> ReloadResult:
        """Read the configuration, and use it from the next request on if it is valid. Log and count the result."""
        async with self._lock:
            state = self._endpoint.state
            problems: list[str] = []
            try:
                reading = asyncio.to_thread(self._read, state, trigger)
                read = await timeout(state.clock, READ_S, reading, TimeoutError())
                # not in the thread: the new holders and connections belong to the event loop
                successor = next_app_state(read.config, read.tls_contexts, state)
            except _Refused as refused:
                problems = list(refused.args)
            except ConfigError as error:
                problems = [str(problem) for problem in error.problems]
            except TimeoutError:  # before OSError, its base class
                problems = [f"reading the files took longer than {READ_S:g} s"]
            except OSError as error:
                problems = [f"a certificate of the configuration cannot be loaded: {system_reason(error)}"]
            except UnresolvedReference as error:
                problems = [f"a secret of the configuration was removed after loading: {error}"]
            except Exception:  # any fault: the process continues, and the next reload must work
                LOG.exception("reload_failed")
                problems = ["internal error: search the log for `reload_failed`"]
            else:
                result = self._use(read, state, successor)
            if problems:
                result = ReloadResult("refused", problems=tuple(problems))
            is_restored = bool(state.reload_problems) and not problems
            state.reload_problems[:] = problems
            if trigger != "watch":  # an operator may have repaired the issuer
                result = structs.replace(result, retried=tuple(self._endpoint.state.retry_failing()))
        if result.outcome != "unchanged" or result.needs_restart or trigger != "watch" or is_restored:
            state.metrics.reloaded(result.outcome)
            self._log(result, trigger)
        return result

    def _log(self, result: ReloadResult, trigger: Trigger) -> None:
        fields: dict[str, Any] = {"file": self.loaded.source, "trigger": trigger}
        if result.retried:
            fields["retried"] = list(result.retried)
        if result.outcome == "refused":
            LOG.error("reload_refused", extra={"fields": {**fields, "problems": list(result.problems)}})
        else:
            LOG.info("reloaded", extra={"fields": {**fields, "changed": list(result.changed)}})
        if result.needs_restart:
            LOG.warning("restart_needed", extra={"fields": {**fields, "settings": list(result.needs_restart)}})

    def _read(self, state: AppState, trigger: Trigger) -> _Read:
        """Read and validate everything in a thread; raise _Refused, ConfigError, or OSError for a certificate."""
        loaded = self._source.read()
        config, used, content = loaded.config, self.loaded.document.content, loaded.document.content
        # not one that lacks blanks and comments alone. By hand it is used: a block at the end may have been removed
        if trigger == "watch" and used.startswith(content) and changed_blocks(self.loaded.config, config):
            raise _Refused(HALF_WRITTEN)
        if state.config.access.has_callers and not config.access.has_callers:
            raise _Refused(KEYS_LOST)
        before = state.config
        needs_restart = tuple(name for name in changed_blocks(before, config) if name in NEED_RESTART)
        config = config.model_copy(update={name: getattr(before, name) for name in NEED_RESTART})
        try:
            check(config)  # again: the new blocks must also fit those of the start
        except ConfigError as error:
            raise _Refused(*map(str, error.problems), RESTART.format(", ".join(needs_restart))) from None
        tls_contexts = TLSContexts(state.tls_contexts)
        for _, hop in config.hops():
            tls_contexts.context_for(hop.network)
        listener = None if self._tls is None else self._tls.read()
        return _Read(loaded, config, tls_contexts, needs_restart, changed_blocks(before, config), listener)

    def _use(self, read: _Read, state: AppState, successor: AppState) -> ReloadResult:
        names = list(read.changed)
        # what changed although its settings did not: a CA file, or a password, static header or parameter in a file
        if any(holder is not state.holders.get(name) for name, holder in successor.holders.items()):
            names.append("credentials")
        for name, upstream in successor.upstreams.items():
            previous = state.upstreams.get(name)
            if (
                previous is None
                or upstream.transport is not previous.transport
                or upstream.injector.static_fields != previous.injector.static_fields
                or upstream.injector.static_parameters != previous.injector.static_parameters
            ):
                names.append(settings_of(name).partition(".")[0])
        is_same = successor.authenticator.keys.by_hash.keys() == state.authenticator.keys.by_hash.keys()
        if not is_same or list(successor.key_sets) != list(state.key_sets):
            names.append("access")  # also those of a file that has changed
        if self._tls is not None and read.listener is not None:
            self._tls.use(read.listener)
            names.append("server")
        changed, known = tuple(dict.fromkeys(names)), set(self.loaded.warnings)
        told = [*read.loaded.warnings]
        if not state.config.access.jwt and len(storing(state.config.access.keys)) <= 1:
            told += second_caller(read.config)
        warnings = tuple(warning for warning in told if warning not in known)
        for warning in warnings:
            LOG.warning("configuration_warning", extra={"fields": {"warning": warning}})
        self.loaded = read.loaded
        if not changed:
            return ReloadResult("unchanged", needs_restart=read.needs_restart, warnings=warnings)
        self._on_change(read.config)
        self._endpoint.use(successor)
        if "access" in changed or "mcp" in changed:
            # a stream without an end would outlive its key
            state.in_flight.end_idle_streams("The access of its caller may have changed")
        return ReloadResult("reloaded", changed, read.needs_restart, warnings=warnings)


Readings = Mapping[str, bytes]
"""A digest of each file of a configuration."""


def _readings(loaded: LoadedConfig) -> tuple[Readings, int]:
    """Read the configuration and the files that it references, also for TLS. Leave out what cannot be read.

    Return also when the configuration was written, in ns: a change that was undone shows there alone.
    """
    files = [] if loaded.source == "environment" else [loaded.source]
    for _, value in leaves(loaded.document.tree):
        if isinstance(value, Reference):
            files += [source.name for source in value.sources if source.kind == "file"]
    config = loaded.config
    if config.server.tls is not None:
        files += (config.server.tls.cert_file, config.server.tls.key_file)
    found: dict[str, bytes] = {}
    written_ns = 0
    for file in (*files, *(hop.network.ca_file for _, hop in config.hops() if hop.network.ca_file is not None)):
        with suppress(OSError):
            if stat.S_ISREG((status := os.stat(file)).st_mode):  # to open a named pipe would block
                content = Path(file).read_bytes()[:LARGEST_WATCHED_BYTES]
                found[file] = hashlib.sha256(content).digest()
                written_ns = status.st_mtime_ns if file == loaded.source else written_ns
    return found, written_ns
