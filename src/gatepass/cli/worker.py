"""`gatepass serve` as one of several: what its supervisor hands down, and its words in the form of the log.

Somebody reads its stderr among the lines of the gatepass that goes on serving, whatever this process cannot use.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gatepass.cli.configuration import UNUSABLE
from gatepass.observability.log import configure
from gatepass.observability.redaction import Redactor

if TYPE_CHECKING:
    from gatepass.config.load import Loaded

KEYED = "keyed"
"""A file in the folder of all workers: one of them has served with keys."""
NO_MORE_KEYS = (
    "access.keys: is missing, and this gatepass has served with keys: a file that lost its access block would open it."
    " Put the block back, or restart gatepass to serve without keys"
)

LOG = logging.getLogger("gatepass.serve")


@dataclass(frozen=True, slots=True)
class Heritage:
    """`number` is its own, `fds` are listening socket, lifeline and key of the store, `folder` is that of all workers.
    `seat` is where it publishes how many connections it has, see `listening.Seats`.

    `log_format` is the supervisor's: it counts until the configuration has told its own.
    """

    number: int
    fds: tuple[int, int, int]
    folder: Path
    seat: int
    log_format: str


def work(heritage: Heritage, config_path: str | None, host: str | None, port: int | None) -> None:
    """Serve until the supervisor says stop, or is gone."""
    configure("info", heritage.log_format, Redactor(), worker=heritage.number)
    loaded = _loaded(config_path, host, port)
    keyed = heritage.folder / KEYED
    if not loaded.config.access.keys and keyed.exists():
        _refuse(loaded.source, [NO_MORE_KEYS])

    from gatepass.cli.opening import gate_of
    from gatepass.server.channel import CONNECTIONS, STORE
    from gatepass.server.learned import lessons_of
    from gatepass.server.listening import Seats
    from gatepass.server.peers import Peers
    from gatepass.server.process import Server, Team
    from gatepass.server.status import status_of
    from gatepass.server.worker import name_of
    from gatepass.store.choice import Inheritance

    listening, lifeline, key = heritage.fds
    with open(key, "rb") as pipe:
        inheritance = Inheritance(heritage.folder / STORE, pipe.read())
    shared = inheritance if inheritance.folder.is_dir() else None

    def refuse(text: str) -> NoReturn:
        _refuse(loaded.source, [text])

    gate = gate_of(loaded, refuse, shared, heritage.number)
    if loaded.config.access.keys:
        keyed.touch()
    name = name_of(heritage.number)
    peers = Peers(heritage.folder, name, gate.metrics.exposition, lambda: status_of(gate), lambda: lessons_of(gate))
    team = Team(peers, socket.socket(fileno=lifeline), Seats(heritage.folder / CONNECTIONS, heritage.seat))
    server = Server(gate, lambda _: None, team)
    server.run(sockets=[socket.socket(fileno=listening)])


def _loaded(path: str | None, host: str | None, port: int | None) -> Loaded:
    from gatepass.config.document import ConfigError
    from gatepass.config.load import load
    from gatepass.config.variables import own_variables

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
