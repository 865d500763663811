"""`gatepass serve`.

`gatepass serve` as one of several: what its supervisor hands down, and its words in the form of the log.

Somebody reads its stderr among the lines of the gatepass that goes on serving, whatever this process cannot use.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from gatepass import __version__
from gatepass.cli.configuration import UNUSABLE, exit_unusable, load_or_exit
from gatepass.observability.log import configure
from gatepass.observability.redaction import Redactor

if TYPE_CHECKING:
    from gatepass.config.load import LoadedConfig


CANNOT_BIND = 3
STDERR_FD = 2


@click.command()
@click.option(
    "--config", "config_path", type=click.Path(), help="The configuration file; GATEPASS_CONFIG names it too."
)
@click.option("--host", help="The address to listen on, instead of server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port, instead of server.port; 0 picks a free one.")
@click.option("--workers", type=click.IntRange(1, 64), help="How many processes serve, instead of server.workers.")
@click.option("--worker", type=int, hidden=True, help="This worker's number: set by the supervisor, as the rest is.")
@click.option("--fds", type=int, nargs=3, hidden=True, help="Inherited: listening socket, lifeline, key of the store.")
@click.option("--peers", type=click.Path(path_type=Path), hidden=True)
@click.option("--seat", type=int, default=0, hidden=True)
@click.option("--log-format", type=click.Choice(("json", "text")), default="json", hidden=True)
def serve(
    config_path: str | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    worker: int | None,
    fds: tuple[int, int, int] | None,
    peers: Path | None,
    seat: int,
    log_format: str,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then let running streams finish."""
    # the kernel drops a SIGTERM for which pid 1 has no handler: a container stopped during the imports would stay.
    # Nothing has begun then, and SystemExit is lost where it is raised in native code that takes it for its own
    # (seen in pydantic-core)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, lambda *_: None)  # a reload; not SIG_IGN, which programs would inherit
    _keep_descriptors()
    gc.disable()  # until the server stands: imports make 100,000 objects that stay, and a collection finds none to free
    try:
        if worker is not None and fds is not None and peers is not None:
            work(WorkerOptions(worker, fds, peers, seat, log_format), config_path, host, port)
            return
        loaded = load_or_exit(config_path, host, port)
        listening = _listen(loaded)
        count = workers or loaded.config.server.workers
        if count == 1:
            _serve(loaded, listening)
        else:
            command = [*_worker_command(config_path, host, port), "--log-format", loaded.config.log.format]
            _supervise(loaded, listening, count, command)
    finally:
        gc.enable()


def _keep_descriptors() -> None:
    """No program of an `exec` credential inherits the listening socket or the supervisor's lifeline: one that
    outlives its gatepass would hold the port, and keep the workers from seeing that their supervisor is gone.

    uvloop closes nothing in its children but what is marked so.
    """
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # that of the listing itself is closed by now
            if (descriptor := int(name)) > STDERR_FD:
                os.set_inheritable(descriptor, False)


def _serve(loaded: LoadedConfig, listening: socket.socket) -> None:
    from gatepass.cli.opening import open_app_state
    from gatepass.server.process import DrainingServer

    state = open_app_state(loaded)
    _announce(loaded)
    DrainingServer(state, _say_where).run(sockets=[listening])


def _worker_command(config_path: str | None, host: str | None, port: int | None) -> list[str]:
    """What a worker is started by: it reads the configuration itself, and the flags that stand above it count too."""
    command = [sys.executable, "-m", "gatepass", "serve"]
    for flag, value in (("--config", config_path), ("--host", host), ("--port", port)):
        if value is not None:
            command += [flag, str(value)]
    return command


def _supervise(loaded: LoadedConfig, listening: socket.socket, count: int, command: list[str]) -> None:
    import asyncio

    from gatepass.observability.log import configure
    from gatepass.observability.redaction import Redactor
    from gatepass.server.listening import url_of
    from gatepass.server.supervisor import NoFolder, Supervisor

    configure(loaded.config.log.level, loaded.config.log.format, Redactor())
    _announce(loaded)
    server, url = loaded.config.server, url_of(listening)
    drain_s = server.drain_delay_s + server.drain_timeout_s
    gc.enable()
    supervisor = Supervisor(command, listening, count, drain_s, lambda: _say_where(url), UNUSABLE)
    try:
        sys.exit(asyncio.run(supervisor.run()))
    except NoFolder as error:
        exit_unusable(str(error))


def _listen(loaded: LoadedConfig) -> socket.socket:
    from gatepass.server.listening import listen

    server = loaded.config.server
    try:
        return listen(server.host, server.port)
    except OSError as error:
        click.echo(f"gatepass cannot listen on {server.host}:{server.port}: {error.strerror}", err=True)
        sys.exit(CANNOT_BIND)


def _say_where(url: str) -> None:
    click.echo(f"gatepass listening on {url}", err=True)


def _announce(loaded: LoadedConfig) -> None:
    """Say at the start what counts, and what somebody should know before trusting it."""
    from gatepass.server.listening import descriptor_limit

    log = logging.getLogger("gatepass.serve")
    config = loaded.config
    fields = {
        "version": __version__,
        "configuration": loaded.source,
        "upstreams": sorted(config.upstreams),
        "credentials": sorted(config.credentials),
        "keys": len(config.access.keys),
    }
    log.info("starting", extra={"fields": fields})
    if (limit := descriptor_limit()) < config.descriptors:
        said = (
            f"limits.connections needs {config.descriptors} file descriptors in each process, and the soft limit is"
            f" {limit:g}: raise it (ulimit -n {config.descriptors}) or lower limits.connections"
        )
        log.warning("descriptors_short", extra={"fields": {"warning": said}})
    if config.log.bodies:
        said = "log.bodies is on: beginnings of requests and replies, which are personal data, go into this log"
        log.warning("bodies_logged", extra={"fields": {"warning": said}})


KEYED = "keyed"
"""A file in the folder of all workers: one of them has served with keys."""
NO_MORE_KEYS = (
    "access.keys: is missing, and this gatepass has served with keys: a file that lost its access block would open it."
    " Put the block back, or restart gatepass to serve without keys"
)

LOG = logging.getLogger("gatepass.serve")


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """`number` is its own, `fds` are listening socket, lifeline and key of the store, `folder` is that of all workers.
    `seat` is where it publishes how many connections it has, see `listening.Seats`.

    `log_format` is the supervisor's: it counts until the configuration has told its own.
    """

    number: int
    fds: tuple[int, int, int]
    folder: Path
    seat: int
    log_format: str


def work(options: WorkerOptions, config_path: str | None, host: str | None, port: int | None) -> None:
    """Serve until the supervisor says stop, or is gone."""
    configure("info", options.log_format, Redactor(), worker=options.number)
    loaded = _loaded(config_path, host, port)
    keyed = options.folder / KEYED
    if not loaded.config.access.keys and keyed.exists():
        _refuse(loaded.source, [NO_MORE_KEYS])

    from gatepass.cli.opening import open_app_state
    from gatepass.server.listening import ConnectionCounts
    from gatepass.server.pages import learned_rows, status_of
    from gatepass.server.peers import Peers
    from gatepass.server.process import DrainingServer, Team
    from gatepass.server.supervisor import CONNECTIONS, STORE, worker_name
    from gatepass.store.choice import WorkerStore

    listening, lifeline, key = options.fds
    with open(key, "rb") as pipe:
        worker_store = WorkerStore(options.folder / STORE, pipe.read())
    shared = worker_store if worker_store.folder.is_dir() else None

    def exit_unusable(text: str) -> NoReturn:
        _refuse(loaded.source, [text])

    state = open_app_state(loaded, exit_unusable, shared, options.number)
    if loaded.config.access.keys:
        keyed.touch()
    name = worker_name(options.number)
    peers = Peers(options.folder, name, state.metrics.exposition, lambda: status_of(state), lambda: learned_rows(state))
    team = Team(peers, socket.socket(fileno=lifeline), ConnectionCounts(options.folder / CONNECTIONS, options.seat))
    server = DrainingServer(state, lambda _: None, team)
    server.run(sockets=[socket.socket(fileno=listening)])


def _loaded(path: str | None, host: str | None, port: int | None) -> LoadedConfig:
    from gatepass.config.document import ConfigError
    from gatepass.config.load import load
    from gatepass.config.references import own_variables

    try:
        loaded = load(path, os.environ, host=host, port=port)
    except ConfigError as error:
        named = path or own_variables(os.environ).get("CONFIG", "environment")
        _refuse(named, [str(problem) for problem in error.problems])
    for warning in loaded.warnings:
        LOG.warning("configuration_warning", extra={"fields": {"warning": warning}})
    return loaded


def _refuse(file: str, problems: Sequence[str]) -> NoReturn:
    """Say in the log what cannot be used, and exit with 2."""
    LOG.error("configuration_unusable", extra={"fields": {"file": file, "problems": problems}})
    sys.exit(UNUSABLE)
