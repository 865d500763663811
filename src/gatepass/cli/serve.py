"""`gatepass serve`: load the configuration, listen, and serve in one process."""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from gatepass import __version__
from gatepass.cli.options import UNUSABLE, config_option, exit_unusable, print_warnings
from gatepass.observability.log import configure
from gatepass.observability.redaction import Redactor

if TYPE_CHECKING:
    from gatepass.config.load import LoadedConfig
    from gatepass.config.model import Config
    from gatepass.documents import DoctorTask, Step
    from gatepass.proxy.app_state import AppState

LOG = logging.getLogger("gatepass.serve")

CANNOT_BIND = 3


@dataclass(frozen=True, slots=True)
class ServeFlags:
    """The flags that override the configuration, as in `config.load.load`: at the start and for a reload."""

    path: str | None
    host: str | None
    port: int | None
    log: Mapping[str, str]

    def load(self) -> LoadedConfig:
        from gatepass.config.load import load, memory_limit_bytes

        memory_bytes = memory_limit_bytes()
        return load(self.path, os.environ, host=self.host, port=self.port, log=self.log, memory_bytes=memory_bytes)

    def load_or_exit(self, *, logs: bool) -> LoadedConfig:
        """Load the configuration. If it is invalid, print its problems, or log them as one event; exit with 2."""
        from gatepass.config.document import ConfigError
        from gatepass.config.references import own_variables

        try:
            return self.load()
        except ConfigError as error:
            if not logs:
                print_warnings(error.warnings)
                exit_unusable(str(error))
            named = self.path or own_variables(os.environ).get("CONFIG", "environment")
            _refuse(named, [str(problem) for problem in error.problems])


@click.command()
@config_option
@click.option("--host", help="Address to listen on. Default: server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 picks a free one. Default: server.port.")
@click.option("--log-format", type=click.Choice(("json", "text")), help="Format of the log. Default: log.format.")
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    help="The lowest level that is logged. Default: log.level.",
)
def serve(path: str | None, host: str | None, port: int | None, log_format: str | None, log_level: str | None) -> None:
    """Serve until SIGTERM or Ctrl-C, then let running streams finish."""
    # The kernel ignores a SIGTERM for which pid 1 has no handler, so a container stopped during imports would hang.
    # No request is in progress yet, so the process exits at once. SystemExit would be lost if it was raised inside
    # native code, as seen in pydantic-core.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # it waits until the server handles it with a reload, and must not end a process that is just starting
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    gc.disable()  # until the server is ready: imports create 100,000 permanent objects, and collecting finds no garbage
    log = {name: value for name, value in (("format", log_format), ("level", log_level)) if value is not None}
    flags = ServeFlags(path, host, port, log)
    try:
        if log_format is not None:  # a program may parse stderr: no line may have another format
            configure("info", log_format, Redactor())
        loaded = flags.load_or_exit(logs=log_format is not None)
        from gatepass.config.file import DEFAULT_FILE

        configure(loaded.config.log.level, loaded.config.log.format, Redactor())
        # gatepass can find this file by accident, so the log states it
        if loaded.source == DEFAULT_FILE and path is None:
            LOG.info("configuration_found", extra={"fields": {"file": os.path.abspath(DEFAULT_FILE)}})
        for warning in loaded.warnings:
            _report("configuration_warning", {"warning": warning}, f"warning: {warning}", logging.WARNING)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        listening = _listen(loaded)
        from gatepass.server.process import DrainingServer
        from gatepass.server.reload import ConfigSource

        state = open_app_state(loaded)
        _log_start(loaded)
        source = ConfigSource(loaded, flags.load)
        with _control_socket(loaded, listening) as control:
            announce = partial(print_url, has_page=loaded.config.serves_ui)
            DrainingServer(state, announce, source, control, doctor).run(sockets=[listening])
    finally:
        gc.enable()


@contextmanager
def _control_socket(loaded: LoadedConfig, listening: socket.socket) -> Iterator[socket.socket | None]:
    """Yield the control socket, and remove it at the end. None without one: gatepass serves all the same.

    A path of the configuration that another gatepass uses ends the start: `gatepass reload` would reload the other one.
    """
    from gatepass.server.listening import AUTO, OFF, listen_control, remove_control

    server = loaded.config.server
    if server.control_socket == OFF:
        yield None
        return
    try:
        path, control = listen_control(server.control_socket, listening.getsockname()[1], os.environ)
    except OSError as error:
        fields = {"path": error.filename or server.control_socket, "reason": error.strerror or str(error)}
        if error.errno == errno.EADDRINUSE and server.control_socket != AUTO:
            text = f"another gatepass uses the control socket {fields['path']}. Choose another `server.control_socket`."
            fields = {"address": fields["path"], "reason": fields["reason"], "used_by": "a gatepass"}
            _report("cannot_listen", fields, text, logging.ERROR)
            sys.exit(CANNOT_BIND)
        LOG.warning("no_control_socket", extra={"fields": fields})
        yield None
        return
    try:
        yield control
    finally:
        remove_control(path, control)


def _listen(loaded: LoadedConfig) -> socket.socket:
    from gatepass.server.listening import bind, control_sockets, is_listening

    server = loaded.config.server
    try:
        return bind(server.host, server.port)
    except OSError as error:
        address, reason, used_by = f"{server.host}:{server.port}", error.strerror or str(error), ""
        advice = "Check `server.host` and `server.port`, or --host and --port."
        if error.errno == errno.EADDRINUSE:
            is_own = any(path.stem == str(server.port) for path in control_sockets(os.environ))
            is_gatepass = is_own or is_listening(Path(server.control_socket))
            used_by = "a gatepass of this user" if is_gatepass else "another program or another gatepass"
            advice = f"{used_by.capitalize()} uses it. Choose another port with --port or `server.port`."
        text = f"gatepass cannot listen on {address}: {reason}. {advice}"
        _report("cannot_listen", {"address": address, "reason": reason, "used_by": used_by}, text, logging.ERROR)
        sys.exit(CANNOT_BIND)


def print_url(url: str, *, has_page: bool = False) -> None:
    """Report that gatepass listens at `url`, and the address of its page for operators."""
    fields, text = {"url": url}, f"gatepass listening on {url}"
    if has_page:
        fields["page"] = f"{url}/ui/"
        text += f", page for operators: {url}/ui/"
    _report("listening", fields, text, logging.INFO)


def _report(event: str, fields: Mapping[str, str], text: str, level: int) -> None:
    """Log an event. If a person reads stderr at a terminal, print `text` instead."""
    if sys.stderr.isatty():
        for handler in logging.root.handlers:  # the lines before it
            handler.flush()
        click.echo(text, err=True)
    else:
        LOG.log(level, event, extra={"fields": fields})


def _log_start(loaded: LoadedConfig) -> None:
    config = loaded.config
    fields = {
        "version": __version__,
        "configuration": loaded.source,
        "upstreams": sorted(config.upstreams),
        "credentials": sorted(config.credentials),
        "keys": len(config.access.keys),
        "issuers": len(config.access.jwt),
        "held_bytes": config.limits.held_bytes,
        "held_bytes_of": loaded.origin(("limits", "held_bytes")),
    }
    if config.mcp:
        fields["mcp"] = sorted(config.mcp)
    LOG.info("starting", extra={"fields": fields})


def doctor(config: Config, task: DoctorTask, begin: Callable[[str, str], object]) -> AsyncGenerator[Step, None]:
    """Yield the steps of `gatepass doctor`, for the page at /ui."""
    from gatepass.cli.steps import diagnose_for_page

    return diagnose_for_page(config, task, begin)


def open_app_state(loaded: LoadedConfig) -> AppState:
    """Open the AppState of a configuration and set up its log; exit with 2 if a file or secret is unusable."""
    from gatepass.clock import SystemClock
    from gatepass.config.references import UnresolvedReference
    from gatepass.errors import system_reason
    from gatepass.proxy.app_state import create_app_state
    from gatepass.store.guarded import open_store

    clock = SystemClock()
    try:
        state = create_app_state(loaded.config, clock, open_store(loaded.config.store, clock))
    except OSError as error:
        _refuse(loaded.source, [f"a certificate of the configuration cannot be loaded: {system_reason(error)}"])
    except UnresolvedReference as error:
        _refuse(loaded.source, [f"a secret of the configuration was removed after loading: {error}"])
    configure(loaded.config.log.level, loaded.config.log.format, state.redactor)
    return state


def _refuse(file: str, problems: Sequence[str]) -> NoReturn:
    LOG.error("configuration_unusable", extra={"fields": {"file": file, "problems": problems}})
    sys.exit(UNUSABLE)
